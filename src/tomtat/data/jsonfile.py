"""JSON that is one value: a list of rows, an object that holds one, or a single row; read row by row, of any size.

    [{"text": "..."}, {"text": "..."}]
    {"version": 1, "data": [{"text": "..."}]}
    {"messages": [...], "summary": "..."}

Where a row is damaged, reading begins anew at the next place where a row of the same kind stands.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tomtat.data.files import Input, opened, text_head
from tomtat.data.jsonl import Row, halved_character, json_problem, parse_stream
from tomtat.data.rows import holds_conversation, is_usual
from tomtat.data.shapes import is_message

BLOCK_BYTES = 1 << 18
LONGEST_ROW_CHARACTERS = 1 << 26
"""So much is read before what does not end is given up as damaged."""

SEARCHED_CHARACTERS = 1 << 22
"""How far behind damage the next row is looked for at a time."""

_BLANK = re.compile(r"[ \t\r\n]*")
_ROW_START = re.compile(r"[{\[]")
_BRACKETS = re.compile(r'(?:[\[{]\s*(?:"[^"\\]{0,40}"\s*:\s*)?){20,}')
_decoder = json.JSONDecoder()


def json_rows(source: Input) -> Iterator[Row]:
    """Rows of a `.json` file: of one value, or of one value a line, as many files of that name have them."""
    with opened(source) as stream:
        text = text_head(source)
        if "\n" in text.strip() and looks_like_lines(text):
            yield from parse_stream(stream.file)
        else:
            yield from _Rows(stream.file)
        if stream.problem:
            yield Row(0, problem=stream.problem, unit="")


def looks_like_lines(text: str) -> bool:
    """Whether the beginning is JSON Lines: an object in the first line, or in most of them."""
    lines = [line for line in text.removeprefix("\ufeff").split("\n") if line.strip()][:50]
    if lines and lines[0].startswith("["):
        return False
    whole = sum(map(_is_object, lines))
    alike = all(line[0] == "{" and line.rstrip().endswith("}") for line in lines[:-1])
    return whole > len(lines) / 2 or (whole > 0 and alike)


def _is_object(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


class _Rows:
    """The rows of a document, as far as it can be read."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.text = ""
        self.at = 0
        """Place in `text` up to which it is read."""
        self.rest = b""
        self.ended = False
        self.passed = 0
        """Characters that are read and forgotten."""
        self.number = 0
        self.keys: set[str] = set()
        """Of the last good row: a row behind a damaged one is known by them."""

    def __iter__(self) -> Iterator[Row]:
        self._more()
        self.text = self.text.removeprefix("\ufeff")
        match self._next():
            case "":
                return
            case "[":
                yield from self._conversation_or_list()
            case "{":
                yield from self._object()
            case _:
                yield self._damaged(self.at, "neither { nor [ at the beginning. Is it JSON?")
        while self._next():
            if self.text[self.at] not in "{,":
                yield self._damaged(self.at, "more text behind the end of the JSON value")
            if self._next():
                yield from self._list()

    def _conversation_or_list(self) -> Iterator[Row]:
        start = self.at
        self.at += 1
        with suppress(ValueError, RecursionError):
            if self._next() == "{" and is_message(self._value()):
                self.at = start
                value = self._value()
                yield self._made(start, value)
                return
        self.at = start + 1
        yield from self._list()

    def _list(self) -> Iterator[Row]:
        """Rows up to the list's end."""
        while (found := self._next()) != "]":
            if found == ",":
                self.at += 1
            elif found:
                yield self._row()
            else:
                yield self._bad("the file ends within a list. Is it cut?")
                return
        self.at += 1

    def _row(self) -> Row:
        start = self.at
        try:
            value = self._value()
        except (ValueError, RecursionError) as error:
            return self._damaged(start, _problem_of(error))
        if isinstance(value, dict):
            self.keys = set(value)
        return self._made(start, value)

    def _made(self, start: int, value: object = None, problem: str | None = None) -> Row:
        """The row that stands between `start` and the place read up to, which may be forgotten now."""
        raw = self.text[start : self.at]
        try:
            raw.encode("utf-8")
            problem = problem or halved_character(raw, value)
        except UnicodeEncodeError:
            problem, raw = "not UTF-8. Save the file as UTF-8", raw.encode("utf-8", "replace").decode()
        self.number += 1
        row = Row(
            self.number, None if problem else value, problem, raw, self.passed + start, self.passed + self.at, "row"
        )
        if self.at > BLOCK_BYTES:
            self.text, self.passed, self.at = self.text[self.at :], self.passed + self.at, 0
        return row

    def _damaged(self, start: int, problem: str) -> Row:
        self.at = self._behind_damage(start)
        return self._made(start, problem=problem)

    def _behind_damage(self, start: int) -> int:
        """Where the next row of the same kind stands, or the end of what there is."""
        while not self.ended and len(self.text) - start < SEARCHED_CHARACTERS:
            self._more()
        place = start
        while found := _ROW_START.search(self.text, place + 1):
            place = found.start()
            try:
                if self._is_row(place):
                    return place
            except RecursionError:
                # Each of a thousand brackets behind one another would end so.
                if run := _BRACKETS.match(self.text, place):
                    last = max(self.text.rfind(mark, place, run.end()) for mark in "{[")
                    place = max(place, last - 1)
        return len(self.text)

    def _is_row(self, place: int) -> bool:
        """RecursionError where it is nested too deeply to be known."""
        try:
            value, end = _decoder.raw_decode(self.text, place)
        except ValueError:
            return False
        behind = _BLANK.match(self.text, end)
        if not behind or self.text[behind.end() : behind.end() + 1] not in (",", "]", ""):
            return False
        if self.keys:
            return isinstance(value, dict) and 2 * len(self.keys & set(value)) > len(self.keys)
        return holds_conversation(value) or (
            isinstance(value, dict) and any(map(is_usual, value)) and not is_message(value)
        )

    def _object(self) -> Iterator[Row]:
        """The rows of the first list of rows in it, or the object itself as a row."""
        start = self.at
        self.at += 1
        try:
            if self._find_list():
                self.at += 1
                yield from self._list()
                start = self.at
                self._rest_of_object()
                return
            self.at = start
            value = self._value()
        except (ValueError, RecursionError) as error:
            yield self._damaged(start, _problem_of(error))
            return
        yield self._made(start, value)

    def _find_list(self) -> bool:
        """Whether the object holds rows; the place is then before their list."""
        while (found := self._next()) != "}":
            if found == ",":
                self.at += 1
                continue
            name = self._name()
            before = self.at
            if self._next() != "[":
                self._value()
                if is_usual(name) or name == "mapping":
                    return False
                continue
            self.at += 1
            if self._next() in ("{", "["):
                first = self._value()
                self.at = before
                return not (is_usual(name) and is_message(first))
            self.at = before
            self._value()
        return False

    def _rest_of_object(self) -> None:
        while (found := self._next()) != "}":
            if found == ",":
                self.at += 1
                continue
            self._name()
            self._value()
        self.at += 1

    def _name(self) -> str:
        name = self._value()
        if self._next() != ":" or not isinstance(name, str):
            raise json.JSONDecodeError("expected a name and a colon", self.text[self.at :][:1], 0)
        self.at += 1
        self._next()
        return name

    def _value(self) -> Any:
        """The JSON value that begins here, read until it is whole. ValueError or RecursionError where it never is."""
        while True:
            try:
                value, end = _decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # An unterminated string is told where it starts; other errors near the end may be mended by more too.
                may_go_on = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - 16
                held = len(self.text) - self.at
                if self.ended or not may_go_on or held > LONGEST_ROW_CHARACTERS:
                    raise
                self._more(held)
                continue
            if end == len(self.text) and not self.ended:  # a number may go on
                self._more()
                continue
            self.at = end
            return value

    def _next(self) -> str:
        """The next character that is no blank, which is not taken; nothing at the end."""
        while True:
            match = _BLANK.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more()

    def _more(self, least: int = 0) -> None:
        """Another block, at least as long as what is held, so that a long row is not begun again too often."""
        block = self.rest + self.file.read(max(BLOCK_BYTES, least))
        self.ended = len(block) == len(self.rest)
        cut = 0 if self.ended else _cut_character(block)
        self.rest = block[len(block) - cut :] if cut else b""
        self.text += block[: len(block) - cut].decode("utf-8", errors="surrogateescape")

    def _bad(self, problem: str) -> Row:
        """The rest of the file, which is no row."""
        self.ended = True
        start, self.at = self.at, len(self.text)
        return self._made(start, problem=problem)


def _problem_of(error: Exception) -> str:
    return f"not valid JSON ({error.msg})" if isinstance(error, json.JSONDecodeError) else json_problem(error)


def _cut_character(block: bytes) -> int:
    """How many bytes at the end are the beginning of a character."""
    for count in range(1, min(4, len(block)) + 1):
        byte = block[-count]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return count if count < needed else 0
        if byte < 0x80:
            return 0
    return 0
