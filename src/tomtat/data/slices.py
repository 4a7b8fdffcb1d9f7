"""`SOURCE@SPLIT[FROM:TO]`: which rows of which data.

train.jsonl                        all rows of a file
train.jsonl[:96]                   its first 96
'data/*.csv[:80%]'  notes/  -      files together, a folder's, standard input: sources.py tells what is read
cnn_dailymail:3.0.0@train[:0.5%]   half a percent of a split of a hub data set
chats@test                         the bundled conversations
chats:vi@test  chats:long          of these the Vietnamese ones, or the long ones
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tomtat.data.files import exists
from tomtat.errors import DataError

_SLICE = re.compile(r"\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\]$")
_BOUND = re.compile(r"-?\d[\d_]*|-?\d[\d_]*(\.\d+)?%")


@dataclass(frozen=True)
class Spec:
    """A parsed data specification. `start` and `stop` are as written: rows, or percent with a `%`."""

    source: str
    split: str | None = None
    start: str = ""
    stop: str = ""

    @property
    def is_sliced(self) -> bool:
        return bool(self.start or self.stop)

    def fixed_bounds(self) -> tuple[int, int | None] | None:
        """First row and the one behind the last, where they do not depend on how many there are; else None."""
        if any(bound.startswith("-") or bound.endswith("%") for bound in (self.start, self.stop)):
            return None
        start, stop = int((self.start or "0").replace("_", "")), int(self.stop.replace("_", "")) if self.stop else None
        return (start, stop) if stop is None or start < stop else None

    def rows(self, total: int, text: str) -> range:
        """Row numbers that the slice names among `total` rows; `text` is what the user wrote, for the message."""
        start = _row(self.start, total, 0, text)
        stop = _row(self.stop, total, total, text)
        if start >= stop:
            raise DataError(f"{text} takes no row at all: {self.source} has {total:,} rows. Widen the slice.")
        return range(start, stop)


def parse_spec(text: str) -> Spec:
    # A file whose name has brackets or an @ in it is still that file.
    if exists(Path(text)):
        return Spec(text)
    start = stop = ""
    rest = text
    if match := _SLICE.search(text):
        start, stop = match["start"].strip(), match["stop"].strip()
        rest = text[: match.start()]
        for bound in (start, stop):
            if bound and not _BOUND.fullmatch(bound):
                raise DataError(f"{text}: {bound!r} is neither a row number nor a percentage. Write [:500] or [:0.5%].")
    source, at, split = rest.rpartition("@")
    # Neither has one whose @ is in the name of a folder or pattern.
    if not at or not re.fullmatch(r"[\w+.-]+", split) or exists(Path(rest)):
        source, split = rest, ""
    if not source:
        raise DataError(
            f"{text!r} names no data. Write a file or folder, `chats`, or a hub data set as name:config@split."
        )
    return Spec(source, split or None, start, stop)


def _row(bound: str, total: int, default: int, text: str) -> int:
    if not bound:
        return default
    if bound.endswith("%"):
        percent = Fraction(bound[:-1].replace("_", ""))
        if abs(percent) > 100:
            raise DataError(f"{text}: {bound} is more than all of it.")
        row = int(percent * total / 100)  # a Fraction, because 0.7 % of 1,000 must be 7 rows and not 6
    else:
        row = int(bound.replace("_", ""))
        if abs(row) > total:
            raise DataError(f"{text} asks for row {abs(row):,}, but there are only {total:,} rows. Shorten the slice.")
    return row + total if bound.startswith("-") else row
