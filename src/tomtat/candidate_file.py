"""Candidates on disk: several summaries of each row with their scores, under a header that says how they were made.

    {"candidates_of": "runs/mine", "weights_sha256": "0b1c...", "data": "train.jsonl", "decoding": {...}, ...}
    {"id": "train_7", "row": "93f0a1...", "candidates": [{"text": "They meet on Friday.", "score": 41.3}, ...]}

A row's first candidate is the greedy one. Rows stand in the order in which they were finished, and are joined by id;
`row` is a digest of the source and its references, so that other rows of the same ids are noticed.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tomtat.data.jsonl import Row, parse_lines
from tomtat.errors import DataError, RunError
from tomtat.files import sync
from tomtat.prompts import source_text
from tomtat.types import Example

FILE = "candidates.jsonl"
BEGIN = b'{"candidates_of": '
ANEW = "Delete it, or write to another file with -o"


@dataclass(frozen=True)
class Candidate:
    text: str
    score: float
    """0 to 100, by the header's recipe."""
    cut: bool = False
    """The token limit ended it, not the model; written only where it is so."""

    def as_dict(self) -> dict[str, Any]:
        value: dict[str, Any] = {"text": self.text, "score": self.score}
        return value | {"cut": True} if self.cut else value


@dataclass(frozen=True)
class Header:
    """How candidates were made."""

    candidates_of: str
    """The run, as it was named."""
    weights_sha256: str
    data: str
    max_source_tokens: int
    decoding: dict[str, Any]
    score: str
    """The recipe of the scores."""

    def difference(self, other: dict[str, Any]) -> str | None:
        """What another header has otherwise, in words; a run folder may have moved."""
        ours = asdict(self)
        changed = [name for name in ours if name != "candidates_of" and ours[name] != other.get(name)]
        return f"{changed[0]} {other.get(changed[0])}, not {ours[changed[0]]}" if changed else None


class CandidateFile:
    """A file that grows by rows. After a kill the rows that are whole count, and what the kill tore is cut off."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = asdict(header)
        self.rows: dict[str | int, tuple[str, list[Candidate]]] = {}
        """Digest and candidates of each row, by id."""
        content = _content(path) if path.exists() else b""
        if b"\n" not in content and content.startswith(BEGIN[: len(content)]):
            self._write([asdict(header)], mode="wb")  # nothing there yet, or a header that a kill tore
            sync(path.parent)
            return
        first, *rest = _whole_rows(content)
        if difference := header.difference(_header(path, first)):
            raise RunError(f"{path} was made with {difference}. {ANEW}.")
        self._add(rest)
        # Only now that the file is known to be ours.
        os.truncate(path, content.rfind(b"\n") + 1)

    @classmethod
    @contextmanager
    def opened(cls, path: Path, header: Header) -> Iterator["CandidateFile"]:
        """One process writes at a time."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
                yield cls(path, header)
        except Timeout:
            raise RunError(f"Another process is writing {path}. Wait for it, or stop it first.") from None

    @classmethod
    def read(cls, path: Path) -> "CandidateFile":
        """As it is. Raises a DataError that says what is wrong where."""
        file = cls.__new__(cls)
        file.path, file.rows = path, {}
        first, *rest = _whole_rows(_content(path))
        file.header = _header(path, first)
        file._add(rest)
        return file

    def of(self, examples: Sequence[Example]) -> list[list[Candidate]]:
        """The candidates of each of these rows; all must be there, and be of these very sources and references."""
        self.require_same(examples)
        if missing := [example.id for example in examples if example.id not in self.rows]:
            shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{self.path} has no candidates for {len(missing):,} of {len(examples):,} rows ({shown}). "
                "Draw them for all: `tomtat candidates RUN` (one that was stopped goes on by the same command)."
            )
        return [self.rows[example.id][1] for example in examples]

    def require_same(self, examples: Sequence[Example]) -> None:
        for example in examples:
            if example.id in self.rows and self.rows[example.id][0] != digest(example):
                raise DataError(
                    f"{self.path}: row {example.id!r} was made for another text or other references of this id. {ANEW}."
                )

    def append(self, examples: Sequence[Example], candidates: Sequence[list[Candidate]]) -> None:
        lines = []
        for example, found in zip(examples, candidates, strict=True):
            self.rows[example.id] = digest(example), found
            lines.append({"id": example.id, "row": digest(example), "candidates": [one.as_dict() for one in found]})
        self._write(lines)

    def _write(self, lines: Sequence[dict[str, Any]], mode: str = "ab") -> None:
        with self.path.open(mode) as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def _add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            place = f"{self.path}, line {row.line}"
            try:
                value: Any = row.value
                identifier, name = value["id"], str(value["row"])
                found = [
                    Candidate(str(one["text"]), float(one["score"]), bool(one.get("cut")))
                    for one in value["candidates"]
                ]
            except (TypeError, KeyError, ValueError, AttributeError):
                raise DataError(f"{place}: {row.problem or 'not a row of candidates'}. {ANEW}.") from None
            if identifier in self.rows:
                raise DataError(f"{place}: the id {identifier!r} stands in the file already. {ANEW}.")
            self.rows[identifier] = name, found


def digest(example: Example) -> str:
    content = json.dumps([source_text(example.source), example.references])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no {path}. `tomtat candidates RUN` makes it.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None


def _whole_rows(content: bytes) -> list[Row]:
    """Lines with their numbers, one at least; a last one without its end, which a kill tore, is none."""
    return list(parse_lines(content[: content.rfind(b"\n") + 1])) or [Row(1)]


def _header(path: Path, row: Row) -> dict[str, Any]:
    if not isinstance(row.value, dict) or "candidates_of" not in row.value:
        raise DataError(
            f"{path} does not begin with a header of candidates. Name a file that `tomtat candidates` made."
        )
    return row.value
