"""JSON Lines, read strictly: a damaged line is reported with its number, never skipped in silence."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tomtat.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One line of a file: its value, or why it has none."""

    line: int
    value: object = None
    problem: str | None = None
    raw: str = ""
    start: int = 0
    """Byte of its file where the line begins."""
    end: int = 0
    """Byte after the line and its line end."""


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
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return Row(number, value=value, raw=text)
    except UnicodeEncodeError:
        return Row(
            number, problem="half of a surrogate pair in a text (an emoji cut in two). Repair or drop it", raw=text
        )
    except json.JSONDecodeError as error:
        problem = f"not valid JSON ({error.msg} at column {error.colno}). Is the line cut, or the file not JSON Lines?"
        return Row(number, problem=problem, raw=text)
    except ValueError:
        return Row(number, problem="a number too long to read", raw=text)
    except RecursionError:
        return Row(number, problem="nested too deeply", raw=text)
