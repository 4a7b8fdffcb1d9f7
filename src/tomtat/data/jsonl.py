"""JSON Lines, read strictly: a damaged line is reported with its number, never skipped in silence."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tomtat.errors import DataError


@dataclass(frozen=True)
class Row:
    """One line of a file: its value, or why it has none."""

    line: int
    value: object = None
    problem: str | None = None
    raw: str = ""


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
    # Only \n ends a line: str.splitlines would also cut at the Unicode line separators that JSON allows in a text.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield _parse(number, line)


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
