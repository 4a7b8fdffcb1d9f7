"""The file of summaries as it grows: a row per document, in the documents' order, written and synced window by window.

OUT                  {"id": ..., "summary": ..., "prompt_tokens": ...}, a row per line
OUT.info.json        what made it, which must be the same to go on: model, settings, SHA-256 of the input
OUT.rejects.jsonl    rows left out by `--on-bad-row skip`, with reasons
OUT.lock             while a process writes

OUT holds the first windows at every moment, and after a kill perhaps a torn one, which is cut off when work goes on. So
nothing else has to be kept about how far the work has come.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tomtat.bulk.documents import Documents, Window
from tomtat.errors import RunError
from tomtat.files import sync, write_json, write_json_lines

Identity = dict[str, Any]
"""What made a file, by names that people see when it differs."""


class Output(Protocol):
    rows: int
    """Summaries written, in this session or an earlier one."""

    def pending(self) -> Iterator[Window]:
        """The windows that are not written yet."""

    def append(self, lines: str, rows: int) -> None:
        """Add a window and see it to its place."""


class StandardOutput:
    """Summaries for a pipe: nothing stays, so there is nothing to go on with."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.rows = 0

    def pending(self) -> Iterator[Window]:
        return self.documents.windows()

    def append(self, lines: str, rows: int) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()
        self.rows += rows


@contextmanager
def open_output(path: Path, documents: Documents, identity: Identity, overwrite: bool) -> Iterator["OutputFile"]:
    """A RunError if another process writes to it, or if it was made otherwise and may not be overwritten."""
    from filelock import FileLock, Timeout

    lock = _beside(path, "lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                yield OutputFile(path, documents, identity, overwrite)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise RunError(f"Another process is writing {path}. Wait for it, or name another --out.") from None


class OutputFile:
    def __init__(self, path: Path, documents: Documents, identity: Identity, overwrite: bool) -> None:
        self.path = path
        self.documents = documents
        self.identity = identity
        self.rows = 0
        self.is_new = not path.exists() or path.stat().st_size == 0
        if not self.is_new and (reason := self._why_not_ours()):
            if not overwrite:
                raise RunError(f"{reason}. Name another --out, or replace it with --overwrite.")
            self.is_new = True

    def _why_not_ours(self) -> str | None:
        try:
            there: Identity = json.loads(_beside(self.path, "info.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{self.path} exists, and nothing tells how it was made"
        names = [name for name in {**there, **self.identity} if there.get(name) != self.identity.get(name)]
        changes = [_change(name, there.get(name), self.identity.get(name)) for name in names]
        return f"{self.path} was made with {' and '.join(changes)}" if changes else None

    def pending(self) -> Iterator[Window]:
        """What follows the last whole window in the file is cut off."""
        return self.documents.windows() if self.is_new else self._after_those_written()

    def _after_those_written(self) -> Iterator[Window]:
        windows = self.documents.windows()
        with self.path.open("rb") as file:
            for window in windows:
                start = file.tell()
                wanted = [example.id for example in window.examples]
                found = list(_next_ids(file, len(wanted)))
                if found != wanted[: len(found)]:
                    raise self._changed("does not hold the summaries in the input's order")
                if len(found) < len(wanted):
                    self._cut(file, start)
                    yield window
                    break
                self.rows += len(wanted)
            else:
                if file.readline():
                    raise self._changed("has more rows than the input")
        yield from windows

    def _cut(self, file: BinaryIO, size: int) -> None:
        # A kill tears the end. A damaged line among good ones is somebody's doing, and what follows it is much work.
        if any(_id_of(line) is not None for line in file):
            raise self._changed(f"has a damaged line after row {self.rows:,}")
        os.truncate(self.path, size)

    def _changed(self, how: str) -> RunError:
        return RunError(f"{self.path} {how}: it was changed. Restore it, or delete it to begin anew.")

    def append(self, lines: str, rows: int) -> None:
        """A RunError where the disk is full; the windows before stay whole."""
        if self.is_new:
            self._begin()
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, size)
            raise RunError(
                f"{self.path} can't be written: {error.strerror}. The {self.rows:,} summaries in it are kept: "
                "make room and repeat the command to go on."
            ) from None
        self.rows += rows

    def _begin(self) -> None:
        """Only now that there is a first window to write is anything replaced."""
        self.path.write_bytes(b"")
        write_json(_beside(self.path, "info.json"), self.identity)
        rejects = rejects_path(self.path)
        rejects.unlink(missing_ok=True)
        if self.documents.bad_rows:
            write_json_lines(rejects, map(asdict, self.documents.rejects()))
        sync(self.path.parent)
        self.is_new = False


def rejects_path(out: Path) -> Path:
    return _beside(out, "rejects.jsonl")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def _change(name: str, there: object, here: object) -> str:
    is_hash = re.fullmatch("[0-9a-f]{64}", str(there)) or re.fullmatch("[0-9a-f]{64}", str(here))
    return f"another {name}" if is_hash else f"{name} {there}, not {here}"


def _next_ids(file: BinaryIO, count: int) -> Iterator[str | int]:
    """Ids of the next rows, at most `count`, up to the first line that is not whole."""
    for _ in range(count):
        identifier = _id_of(file.readline())
        if identifier is None:
            return
        yield identifier


def _id_of(line: bytes) -> str | int | None:
    if not line.endswith(b"\n"):
        return None
    try:
        identifier: str | int | None = json.loads(line)["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return identifier
