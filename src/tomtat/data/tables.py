"""Tables as text, with any delimiter. A row is an object of its columns.

    article,summary
    "Two lines,
    quoted",Short.

Delimiter and quoting are found by reading the beginning in each likely way. A damaged row costs itself only: where a
quote that was never closed would swallow what follows, reading begins anew behind the line it stands in.
"""

import csv
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tomtat.data.files import Input, opened, text_head
from tomtat.data.jsonl import BYTE_ORDER_MARK, Row
from tomtat.data.rows import is_usual
from tomtat.errors import DataError

# The csv module refuses fields over 128 kB by default, and has one limit for the whole process.
csv.field_size_limit(sys.maxsize if sys.maxsize <= 2**31 else 2**31 - 1)

DELIMITERS = (",", "\t", ";", "|", "^", "~", "\x1f", "\x01", ":")
SAMPLE_ROWS = 50
SNIFFED_CHARACTERS = 1 << 18
LONGEST_ROW_BYTES = 1 << 25
"""An unclosed quote must not take the rest of a large file into memory."""

PAIR = ("source", "summary")
"""Columns of a table of two that has no names for them."""


@dataclass(frozen=True)
class Style:
    delimiter: str
    quoting: str = "doubled"
    """A quote in a quoted field is `doubled`, or behind a `backslash`; with `none` quotes are mere characters."""

    def options(self) -> dict[str, Any]:
        by_quoting: dict[str, dict[str, Any]] = {
            "doubled": {},
            "backslash": {"doublequote": False, "escapechar": "\\"},
            "none": {"quoting": csv.QUOTE_NONE},
        }
        return {"delimiter": self.delimiter, "strict": True, **by_quoting[self.quoting]}


ONE_COLUMN = Style("\x1f")
"""Commas in the only column are text."""


def delimited_rows(source: Input, asked: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a table as text; blank lines are none. `asked` are names of columns that its header should have."""
    style, names = look_at(source, asked)
    with opened(source, or_latin1=True) as stream:
        records = _Records(_lines(stream.file), style, len(names) if names else 2)
        for number, row in enumerate(records, start=1):
            if number == 1 and names:
                continue  # the header
            if stream.cuts(records.last):
                break
            yield row if row.problem else _with_names(row, names or PAIR)
        if stream.problem:
            yield Row(records.line if stream.cuts(records.last) else records.line + 1, problem=stream.problem)


def looks_like_table(text: str, asked: Sequence[str] = ()) -> bool:
    """Whether the first line names a column that is usual or asked for: for files whose name does not tell."""
    text = text[:SNIFFED_CHARACTERS]
    style = _style(text, "", asked)
    header = next(iter(_sampled(text, style)), [])
    return len(header) > 1 and any(is_usual(name) or name.strip() in asked for name in header)


def look_at(source: Input, asked: Sequence[str] = ()) -> tuple[Style, list[str]]:
    """How a table is written, and its columns; none where it is a table of pairs without a header."""
    text = text_head(source)[:SNIFFED_CHARACTERS]
    if not text.strip():
        return Style(","), []
    style = _style(text, source.ending, asked)
    header = [name.strip() for name in next(iter(_sampled(text, style)), [])]
    if not header:
        raise DataError(
            f"{source.place}, line 1: the header can't be read. Is a quote not closed, or the file damaged?"
        )
    if len(header) == 1 and (is_usual(header[0]) or header[0] in asked):
        return ONE_COLUMN, header
    if _is_pair(header, asked):
        return style, []
    doubled = sorted({name for name in header if header.count(name) > 1 and name})
    if doubled:
        raise DataError(f"{source.place}: the column {doubled[0]!r} stands twice in the header. Rename one.")
    return style, header


def _is_pair(header: list[str], asked: Sequence[str]) -> bool:
    """Two columns whose first line are no names: not usual ones, not asked for, and longer than names are."""
    known = any(is_usual(name) or name in asked for name in header)
    return len(header) == 2 and not known and not all(re.fullmatch(r"[\w.#-]+([ ][\w.#-]+)?", name) for name in header)


def _style(text: str, ending: str, asked: Sequence[str]) -> Style:
    """The way of reading that gives most rows as many columns as the first has; among equals the more usual one."""
    likely = sorted(DELIMITERS, key=lambda mark: (mark != "\t") if ending in (".tsv", ".tab") else 0)
    # The csv module takes much for a quote with a backslash that is none.
    inner = "backslash" if text.count('\\"') > text.count('""') else "doubled"
    styles = [Style(mark, how) for mark in likely if mark in text for how in (inner, "none")]
    return max(styles, key=lambda style: _fit(text, style, asked), default=Style(","))


def _fit(text: str, style: Style, asked: Sequence[str]) -> tuple[bool, float, bool]:
    records = list(islice(_sampled(text, style), SAMPLE_ROWS))
    if not records or len(records[0]) < 2:
        return False, 0.0, False
    named = any(is_usual(name) or name in asked for name in records[0])
    # A cell that opens a quote and does not close it is the half of a quoted text of several lines.
    whole = [record for record in records if not any(cell[:1] == '"' and cell.count('"') % 2 for cell in record)]
    even = sum(len(record) == len(records[0]) for record in whole) / len(records)
    # A colon or a pipe in prose is no delimiter: it must divide nearly all rows alike, unless the header tells.
    return named, even if even > 0.5 or named else 0.0, style.quoting != "none"


def _sampled(text: str, style: Style) -> Iterator[list[str]]:
    """Records of the beginning; a wrong one, or one that is cut at the end, has no columns."""
    lines = text.splitlines(keepends=True) if "\n" not in text else text.split("\n")
    encoded = [line.rstrip("\r\n").encode("utf-8", "replace") + b"\n" for line in lines]
    for row in _Records(iter(encoded), style, None):
        yield [] if row.problem else _columns(row)


def _columns(row: Row) -> list[str]:
    columns = row.value
    assert isinstance(columns, list)
    return columns


def _with_names(row: Row, names: Sequence[str]) -> Row:
    value = dict(zip(names, _columns(row), strict=True))
    # An empty cell of a table is no id.
    for name in [name for name in value if name.lower() == "id" and not value[name]]:
        del value[name]
    return Row(row.line, value, raw="", start=row.start, end=row.end)


def _lines(file: Any) -> Iterator[bytes]:
    r"""Lines that end in \n, or in \r where a file has no \n at all (old Macs, some spreadsheets)."""
    start = file.peek(1 << 16)
    if b"\n" in start or b"\r" not in start:
        yield from file
        return
    rest = b""
    while block := file.read(1 << 16):
        *whole, rest = (rest + block).split(b"\r")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


class _Records:
    """Records with the line they begin in. A value is a list of columns; with `width` they must be so many."""

    def __init__(self, lines: Iterator[bytes], style: Style, width: int | None) -> None:
        self.lines = lines
        self.options = style.options()
        self.width = width
        self.again: deque[bytes] = deque()
        self.taken: list[bytes] = []
        self.line = 0
        """Lines that records were made of."""
        self.last = b"\n"
        """The last of them."""
        self.place = 0

    def __iter__(self) -> Iterator[Row]:
        while first := self._next_line():
            if not first.strip():
                self._done(1)
                continue
            self.again.appendleft(first)
            self.taken.pop()
            yield self._record()

    def _record(self) -> Row:
        problem = ""
        try:
            columns = next(csv.reader(self._texts(), **self.options))
        except (csv.Error, _Unclosed, StopIteration):
            problem = "a quote that is not closed, or not doubled inside a text"
        except UnicodeDecodeError:
            problem = "not UTF-8. Save the file as UTF-8"
        else:
            problem = self._problem_of(columns)
            if not problem:
                return self._row(len(self.taken), columns)
        return self._row(self._lines_of_damage(), problem=problem)

    def _problem_of(self, columns: list[str]) -> str:
        if any("\0" in column for column in columns):
            return "a NUL byte in a text. Is the file damaged?"
        if self.width is not None and len(columns) != self.width:
            return f"{len(columns)} columns, not {self.width} as in the first row. Is a delimiter in a text not quoted?"
        return ""

    def _lines_of_damage(self) -> int:
        """How many lines a damaged record takes along: its own, and those of its text up to the quote that closes it.

        Lines without quotes before one that closes what was never opened are the text of a field whose first quote is
        damaged.
        """
        if self.options.get("quoting") == csv.QUOTE_NONE:
            return 1
        ahead = list(islice(self._ahead(), 200))
        for number, line in enumerate(ahead[1:], start=2):
            if b'"' in line:
                return number if self._closes(line) else 1
        return 1

    def _closes(self, line: bytes) -> bool:
        """Whether the first quote of a line ends a field that begins in a line before."""
        before, _, behind = line.partition(b'"')
        delimiter = self.options["delimiter"].encode()
        ends_field = behind.startswith((delimiter, b"\n", b"\r")) or not behind
        return ends_field and line.count(b'"') % 2 == 1 and bool(before) and not before.endswith(delimiter)

    def _ahead(self) -> Iterator[bytes]:
        """The lines from the present record's first on, without taking them."""
        yield from list(self.taken)
        yield from list(self.again)
        for line in self.lines:
            self.again.append(line)
            yield line

    def _row(self, count: int, value: object = None, problem: str | None = None) -> Row:
        """The record's row; lines taken beyond its own are read again."""
        while len(self.taken) < count and self._next_line():
            pass
        raw = b"".join(self.taken[:count])
        line, start = self.line + 1, self.place
        self._done(count)
        text = raw.decode("utf-8", errors="replace").rstrip("\r\n") if problem else ""
        return Row(line, value, problem or None, raw=text, start=start, end=self.place)

    def _done(self, count: int) -> None:
        self.again.extendleft(reversed(self.taken[count:]))
        self.line += count
        self.last = self.taken[count - 1]
        self.place += sum(map(len, self.taken[:count]))
        self.taken = []

    def _next_line(self) -> bytes:
        line = self.again.popleft() if self.again else next(self.lines, b"")
        if line:
            self.taken.append(line)
        return line

    def _texts(self) -> Iterator[str]:
        size = 0
        while line := self._next_line():
            size += len(line)
            if size > LONGEST_ROW_BYTES:
                raise _Unclosed
            yield (line.removeprefix(BYTE_ORDER_MARK) if self.line == 0 and size == len(line) else line).decode("utf-8")


class _Unclosed(Exception):
    pass
