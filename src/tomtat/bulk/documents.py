"""Documents of any format and number, looked over once and then read in windows.

The first pass finds what can't be used before any work is done, counts the rows for the time left, and gives the input
its SHA-256. What is held in memory is a window, and for each row 8 bytes, 16 for a moment, to find doubled ids.
"""

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tomtat.data import DataOptions, Reject
from tomtat.data.jsonl import Row
from tomtat.data.loading import bad_row_error, example_or_reject, reject_doubled
from tomtat.data.sources import Source, open_source
from tomtat.errors import DataError
from tomtat.progress import Advance, Progress
from tomtat.types import Example

Address = tuple[str, str]
"""Where a row stands: its file, if that is one of several, and its number there."""

WINDOW_ROWS = 256
"""Rows that are summarized, written and synced together: enough to sort them into batches of like length, and no more
than a kill may cost."""

WINDOW_BYTES = 500_000
"""A window ends after this many bytes of input too, so that long documents fill neither memory nor an hour."""

SILENT_BYTES = 1 << 28
"""A first pass over less than this takes seconds, and is not worth a line on the screen."""


@dataclass(frozen=True)
class Window:
    """Some consecutive usable rows, and where they lie in a file of JSON Lines."""

    examples: list[Example]
    first_line: int
    start: int
    """Byte of the file where the first row begins."""
    end: int
    """Byte after the last one; unusable rows may lie between."""


@dataclass(frozen=True)
class Documents:
    """The usable rows of a source that was looked over."""

    source: Source
    place: str
    options: DataOptions
    sha256: str
    rows: int
    """Usable ones."""
    bad_rows: int
    doubled: Mapping[Address, Address] = field(default_factory=dict)
    """Rows whose id stands in an earlier row already, and that row."""

    def windows(self) -> Iterator[Window]:
        """All usable rows in order. The cuts depend on the source alone: a second reading makes the same windows."""
        rows: list[Row] = []
        examples: list[Example] = []
        for row, example in self._judged():
            if isinstance(example, Reject):
                continue
            rows.append(row)
            examples.append(example)
            if len(rows) == WINDOW_ROWS or row.end - rows[0].start >= WINDOW_BYTES:
                yield Window(examples, rows[0].line, rows[0].start, row.end)
                rows, examples = [], []
        if rows:
            yield Window(examples, rows[0].line, rows[0].start, rows[-1].end)

    def rejects(self) -> Iterator[Reject]:
        return (example for _, example in self._judged() if isinstance(example, Reject))

    def _judged(self) -> Iterator[tuple[Row, Example | Reject]]:
        for row in self.source.rows():
            yield row, judge(row, self.place, self.options, self.doubled)


def judge(row: Row, place: str, options: DataOptions, doubled: Mapping[Address, Address]) -> Example | Reject:
    example = example_or_reject(row, place, options)
    if isinstance(example, Example) and row.address in doubled:
        return reject_doubled(row, example, doubled[row.address], place)
    return example


@contextmanager
def open_documents(name: Path | str, asked: str | None = None, kind: str = "") -> Iterator[Source]:
    """What `data/sources.py` reads. Standard input (`-`) and pipes are copied first: to memory while they are small,
    then to a temporary file (in TMPDIR) that goes when this process does."""
    source = open_source(str(name), [asked] if asked else [], kind)
    for file in source.files:
        file.open_raw().close()
    try:
        yield source
    finally:
        for file in source.files:
            if file.copied:
                file.copied.close()


def look_over(source: Source, place: str, options: DataOptions, progress: Progress | None = None) -> Documents:
    """The first pass. DataError for the first bad row unless `options` skip them, and where no row can be used."""
    keys, bad_rows = array("Q"), 0
    digest = source.digest()
    with _reading(source, progress or Progress()) as advance:
        for row in _told(source.rows(), advance):
            example = example_or_reject(row, place, options)
            if isinstance(example, Example):
                keys.append(_key(example.id))
            elif options.on_bad_row == "stop":
                raise bad_row_error(example)
            else:
                bad_rows += 1
    doubled = _doubled(source, place, options, _suspects(keys))
    rows = len(keys) - len(doubled)
    if not rows:
        left_out = f" ({bad_rows:,} bad ones were left out)" if bad_rows else ""
        raise DataError(f"{place} has no rows to summarize{left_out}.")
    return Documents(source, place, options, digest, rows, bad_rows + len(doubled), doubled)


def _told(rows: Iterator[Row], advance: Advance) -> Iterator[Row]:
    read = 0
    for row in rows:
        before, read = read, max(read, row.end)
        if megabytes := (read >> 20) - (before >> 20):
            advance(megabytes)
        yield row


@contextmanager
def _reading(source: Source, progress: Progress) -> Iterator[Advance]:
    """Of compressed files more is read than their size; the time left is then too short for the most part."""
    size = source.size()
    with (Progress() if size < SILENT_BYTES else progress).task("looking over", size >> 20, "MB") as advance:
        yield advance


def _key(identifier: str | int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(identifier).encode(), digest_size=8).digest(), "little")


def _suspects(keys: "array[int]") -> set[int]:
    """Keys that stand more than once: of equal ids, or, in one of some 100,000 files of ten million rows, of others."""
    ordered = np.sort(np.frombuffer(keys, dtype=np.uint64)) if keys else np.empty(0, dtype=np.uint64)
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _doubled(source: Source, place: str, options: DataOptions, suspects: set[int]) -> dict[Address, Address]:
    """Rows whose id an earlier row has, exactly; the source is read again only if keys coincide."""
    if not suspects:
        return {}
    first_with: dict[str | int, Address] = {}
    doubled: dict[Address, Address] = {}
    for row in source.rows():
        example = example_or_reject(row, place, options)
        if isinstance(example, Reject) or _key(example.id) not in suspects:
            continue
        if (first := first_with.setdefault(example.id, row.address)) != row.address:
            if options.on_bad_row == "stop":
                raise bad_row_error(reject_doubled(row, example, first, place))
            doubled[row.address] = first
    return doubled
