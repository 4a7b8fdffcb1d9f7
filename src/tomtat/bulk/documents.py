"""A JSON Lines file of any size, looked over once and then read in windows.

The first pass finds what can't be used before any work is done, counts the rows for the time left, and gives the file
its SHA-256. What is held in memory is a window, and for each row 8 bytes, 16 for a moment, to find doubled ids.
"""

import hashlib
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

import numpy as np

from tomtat.data import DataOptions, Reject
from tomtat.data.jsonl import Row, parse_stream
from tomtat.data.loading import bad_row_error, example_or_reject, reject_doubled
from tomtat.errors import DataError
from tomtat.progress import Advance, Progress
from tomtat.types import Example

WINDOW_ROWS = 256
"""Rows that are summarized, written and synced together: enough to sort them into batches of like length, and no more
than a kill may cost."""

WINDOW_BYTES = 500_000
"""A window ends after this many bytes of input too, so that long documents fill neither memory nor an hour."""

STANDARD_INPUT = "-"
SPOOLED_IN_MEMORY_BYTES = 1 << 24
SILENT_BYTES = 1 << 28
"""A first pass over less than this takes seconds, and is not worth a line on the screen."""


@dataclass(frozen=True)
class Window:
    """Some consecutive usable rows, and where they lie in the file."""

    examples: list[Example]
    first_line: int
    start: int
    """Byte of the file where the first row begins."""
    end: int
    """Byte after the last one; unusable rows may lie between."""


@dataclass(frozen=True)
class Documents:
    """The usable rows of a file that was looked over."""

    file: BinaryIO
    place: str
    options: DataOptions
    sha256: str
    rows: int
    """Usable ones."""
    bad_rows: int
    doubled: Mapping[int, int] = field(default_factory=dict)
    """Lines whose id stands in an earlier line already, and that line."""

    def windows(self) -> Iterator[Window]:
        """All usable rows in order. The cuts depend on the file alone: a second reading makes the same windows."""
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
        for row in parse_stream(_lines(self.file)):
            yield row, judge(row, self.place, self.options, self.doubled)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends. Each reader keeps its own place, so that several may read one file by turns."""
    place = 0
    while file.seek(place) == place and (line := file.readline()):
        place += len(line)
        yield line


def judge(row: Row, place: str, options: DataOptions, doubled: Mapping[int, int]) -> Example | Reject:
    example = example_or_reject(row, place, options)
    if isinstance(example, Example) and row.line in doubled:
        return reject_doubled(row, example, doubled[row.line], place)
    return example


@contextmanager
def open_documents(name: Path | str) -> Iterator[BinaryIO]:
    """A file that can be read several times. Standard input (`-`) and pipes are copied first: to memory while they are
    small, then to a temporary file (in TMPDIR) that goes when this process does."""
    if name == STANDARD_INPUT:
        with _spooled(sys.stdin.buffer) as file:
            yield file
        return
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name a file, or - for standard input.")
    try:
        with path.open("rb") as opened:
            if opened.seekable():
                yield opened
                return
            with _spooled(opened) as file:
                yield file
    except PermissionError as error:
        if error.filename != str(path):
            raise
        raise DataError(f"{path} can't be read: permission denied.") from None
    except FileNotFoundError as error:
        if error.filename != str(path):
            raise
        raise DataError(f"There is no file {path}. Check the path, or use - for standard input.") from None


@contextmanager
def _spooled(stream: Any) -> Iterator[Any]:
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED_IN_MEMORY_BYTES) as file:
        copyfileobj(stream, file, 1 << 20)
        file.seek(0)
        yield file


def look_over(file: BinaryIO, place: str, options: DataOptions, progress: Progress | None = None) -> Documents:
    """The first pass. DataError for the first bad row unless `options` skip them, and where no row can be used."""
    digest, keys, bad_rows = hashlib.sha256(), array("Q"), 0
    with _reading(file, progress or Progress()) as advance:
        for row in parse_stream(_hashed(file, digest, advance)):
            example = example_or_reject(row, place, options)
            if isinstance(example, Example):
                keys.append(_key(example.id))
            elif options.on_bad_row == "stop":
                raise bad_row_error(example)
            else:
                bad_rows += 1
    doubled = _doubled(file, place, options, _suspects(keys))
    rows = len(keys) - len(doubled)
    if not rows:
        left_out = f" ({bad_rows:,} bad ones were left out)" if bad_rows else ""
        raise DataError(f"{place} has no rows to summarize{left_out}.")
    return Documents(file, place, options, digest.hexdigest(), rows, bad_rows + len(doubled), doubled)


def _hashed(file: BinaryIO, digest: Any, advance: Advance) -> Iterator[bytes]:
    read = 0
    for line in _lines(file):
        digest.update(line)
        before, read = read, read + len(line)
        if megabytes := (read >> 20) - (before >> 20):
            advance(megabytes)
        yield line


@contextmanager
def _reading(file: BinaryIO, progress: Progress) -> Iterator[Advance]:
    size = file.seek(0, 2)
    with (Progress() if size < SILENT_BYTES else progress).task("looking over", size >> 20, "MB") as advance:
        yield advance


def _key(identifier: str | int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(identifier).encode(), digest_size=8).digest(), "little")


def _suspects(keys: "array[int]") -> set[int]:
    """Keys that stand more than once: of equal ids, or, in one of some 100,000 files of ten million rows, of others."""
    ordered = np.sort(np.frombuffer(keys, dtype=np.uint64)) if keys else np.empty(0, dtype=np.uint64)
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def _doubled(file: BinaryIO, place: str, options: DataOptions, suspects: set[int]) -> dict[int, int]:
    """Rows whose id an earlier row has, exactly; the file is read again only if keys coincide."""
    if not suspects:
        return {}
    line_of: dict[str | int, int] = {}
    doubled: dict[int, int] = {}
    for row in parse_stream(_lines(file)):
        example = example_or_reject(row, place, options)
        if isinstance(example, Reject) or _key(example.id) not in suspects:
            continue
        if (first := line_of.setdefault(example.id, row.line)) != row.line:
            if options.on_bad_row == "stop":
                raise bad_row_error(reject_doubled(row, example, first, place))
            doubled[row.line] = first
    return doubled
