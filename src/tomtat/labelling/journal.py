"""The file beside `--out` to which all that must not be lost is appended: a line an event, synced before more is asked.

OUT.drafts.jsonl       {"event": "chat" | "draft" | "decision" | "lost" | "start", ...}, never changed, only added to
OUT.drafts.jsonl.lock  while a process writes
OUT.drafts.jsonl.room  kept free while answers are on their way: on a disk that becomes full, they take its place
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tomtat.errors import RunError

ENDING = ".drafts.jsonl"
ROOM_BYTES = 64 * 1024
"""Kept free for each answer on its way. A draft has a few thousand bytes."""

Event = dict[str, Any]


def journal_path(path: Path) -> Path:
    """The drafts of an output file; the path itself where it is of drafts."""
    return path if path.name.endswith(ENDING) else path.with_name(path.name + ENDING)


def output_path(path: Path) -> Path:
    """The file with accepted rows that belongs to a file of drafts."""
    return path.with_name(path.name.removesuffix(ENDING)) if path.name.endswith(ENDING) else path


def read_events(path: Path) -> list[Event]:
    """All whole lines; a last one that a kill tore is left out.

    Raises: RunError where a line among others is damaged, or the file is of something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}.") from None
    lines = content.split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        event = _event(line)
        if event is not None:
            events.append(event)
        elif any(rest.strip() for rest in lines[number:]):
            raise RunError(f"{path}, line {number} is no event of tomtat label: the file was changed. Mend or drop it.")
    if content.strip() and not events and b"\n" in content.strip():
        raise RunError(f"{path} is no file of drafts. Name the --out of tomtat label.")
    return events


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


@contextmanager
def open_journal(path: Path, answers: int = 0) -> Iterator["Journal"]:
    """The file, for this process alone.

    answers: how many may be on their way at once, for which room is kept.

    Raises: RunError where another process writes to it, or there is no room.
    """
    from filelock import FileLock, Timeout

    lock = path.with_name(path.name + ".lock")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent} is no folder. Name an --out in a folder that exists.")
    try:
        with FileLock(lock, timeout=0):
            journal = Journal(path)
            try:
                journal.keep_room(answers)
                yield journal
            finally:
                journal.give_room()
                lock.unlink(missing_ok=True)
    except Timeout:
        raise RunError(f"Another process is writing {path}. Wait for it, or name another --out.") from None


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = read_events(path)
        """Those that were there, and those added since."""
        self.is_full = False
        """The disk took an event only when the room that was kept was given for it, or not at all."""
        self.saved_elsewhere: Path | None = None
        """Where events are that the disk had no room for at all."""
        self._room = path.with_name(path.name + ".room")
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        with suppress(FileNotFoundError), self.path.open("rb+") as file:
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            last = content[len(whole) :]
            if last and _event(last) is not None:
                file.write(b"\n")  # only the line's end was lost
            elif last or (whole.strip() and _event(whole.rstrip().split(b"\n")[-1]) is None):
                kept = whole if last else whole[: whole.rstrip().rfind(b"\n") + 1]
                file.truncate(len(kept))

    def append(self, *events: Event) -> None:
        """See events to the disk, together. Where it is full, the room that was kept is taken, then another disk.

        Raises: RunError where none takes them; all that was there before is whole.
        """
        data = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode()
        try:
            self._write(data)
        except OSError:
            self.is_full = True
            self.give_room()
            try:
                self._write(data)
            except OSError as error:
                self._save_elsewhere(data, error)
        self.events.extend(events)

    def _write(self, data: bytes) -> None:
        is_new = not self.path.exists()
        # Without a buffer, which would try once more when it is closed.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            self._sync_folder()

    def _sync_folder(self) -> None:
        with suppress(OSError):  # some file systems sync no folders
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _save_elsewhere(self, data: bytes, reason: OSError) -> None:
        try:
            if self.saved_elsewhere is None:
                descriptor, name = tempfile.mkstemp(prefix="tomtat-", suffix=ENDING)
                os.close(descriptor)
                self.saved_elsewhere = Path(name)
            with self.saved_elsewhere.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            raise RunError(
                f"{self.path} can't be written: {reason.strerror}. What was in it is kept: make room and repeat the "
                "command to go on."
            ) from None

    def keep_room(self, answers: int) -> None:
        if not answers:
            return
        try:
            with self._room.open("wb") as file:
                for _ in range(answers + 1):
                    file.write(os.urandom(ROOM_BYTES))  # not zeros, which some file systems store as nothing
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.give_room()
            raise RunError(
                f"There is no room beside {self.path} ({error.strerror}). Nothing was asked: make room, or name "
                "another --out."
            ) from None

    def give_room(self) -> None:
        self._room.unlink(missing_ok=True)
