"""JSON Lines, read strictly: a damaged line is reported with its number, never skipped in silence."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tomtat.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, whatever its format: its value, or why it has none."""

    line: int
    """Counted from 1, as `unit` says."""
    value: object = None
    problem: str | None = None
    raw: str = ""
    """As it stands in its file, where that is text."""
    start: int = 0
    """Byte of its file where it begins; in other formats than JSON Lines only a measure of its length."""
    end: int = 0
    """Byte after the line and its line end."""
    unit: str = "line"
    """What is counted: `line`, `row`, `conversation`; empty where the row is the whole file."""
    name: str = ""
    """What the row is called where it has no id and is the whole file."""
    place: str = ""
    """Its file, in a source of several."""
    file: str = ""
    """The same, short, for ids."""

    @property
    def default_id(self) -> str:
        if not self.unit:
            return self.file or self.name
        number = f"{self.unit}-{self.line}"
        return f"{self.file}:{number}" if self.file else number

    @property
    def address(self) -> tuple[str, str]:
        """Its file, if that is one of several, and its number there."""
        return self.place, f"{self.unit} {self.line}" if self.unit else ""

    def where(self, source: str) -> str:
        place = self.place or source
        return f"{place}, {self.unit} {self.line}" if self.unit else place

    @property
    def text(self) -> str:
        """As it stands in its file, or as JSON where that is no text."""
        return self.raw or json.dumps(self.value, ensure_ascii=False, default=str)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file; blank lines are none. Each line must be UTF-8 and one JSON value."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file of examples. Name a .jsonl file in it.")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no file {path}. Check the path; it is taken from the current folder.") from None
    except PermissionError:
        raise DataError(f"{path} can't be read: permission denied.") from None
    rows = list(parse_lines(content))
    if not rows:
        raise DataError(f"{path} is empty: it has no rows. Write one JSON object per line.")
    return rows


def parse_lines(content: bytes) -> Iterator[Row]:
    return parse_stream(io.BytesIO(content))


def parse_stream(lines: Iterable[bytes], first_line: int = 1, start: int = 0) -> Iterator[Row]:
    """Rows one by one, of a binary file or of any lines that end as its own do: only in \\n.

    (Text files would also cut at the Unicode line separators that JSON allows in a text.)
    `first_line` and `start`, in bytes, say where the lines stand in their file.
    """
    for number, line in enumerate(lines, start=first_line):
        end = start + len(line)
        content = line.removesuffix(b"\n")
        if number == 1:
            content = content.removeprefix(BYTE_ORDER_MARK)
        if content.strip():
            yield replace(_parse(number, content), start=start, end=end)
        start = end


def _parse(number: int, line: bytes) -> Row:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8"
        return Row(number, problem=problem, raw=line.decode("utf-8", errors="replace"))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Row(number, problem=json_problem(error), raw=text)
    return Row(number, value, halved_character(text, value), raw=text)


def json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error.msg} at column {error.colno}). Is the line cut, or the file not JSON Lines?"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number too long to read"


def halved_character(text: str, value: object) -> str | None:
    """The problem of a text that no file can hold, if there is one; JSON has ways to write it."""
    if "\\u" not in text:
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return "half of a surrogate pair in a text (an emoji cut in two). Repair or drop it"
    return None
