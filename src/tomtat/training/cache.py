"""States of a network's frozen part, kept on disk: what does not train says the same of a row in each epoch and run.

    STATES/KEY/NAME.states     rounded states, row after row, real tokens only
    STATES/KEY/NAME.index      a fixed-size record for each: the row's hash, place, length and checksum

KEY names the weights below the boundary and whatever else the bits depend on (FrozenPart.key); the hash is over a row's
token ids, and so over text, prompt, tokenizer and limits; where a causal model reads candidates behind their prompt,
over theirs too, and over where each begins. Each process appends to files of its own and reads all of
them: runs at the same time share what they make without waiting for each other. A record is written after its states
and checked against them at each use: what a kill, a full disk or a bad sector leaves is computed again, never used.

Whether states come from here or are computed makes no difference to a bit, so a run may be killed, resumed, or deprived
of its cache at any time. They are read through the system's page cache and take no memory of their own.
"""

import os
import shutil
import struct
import sys
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from tomtat.assets import cache_directory
from tomtat.config import TrainSettings
from tomtat.models import Encoded, SummarizerModel
from tomtat.models.base import Choices
from tomtat.models.frozen import STORED, FrozenBatch, FrozenPart, FrozenRow, frozen_part
from tomtat.models.packing import PackedRow
from tomtat.progress import Progress
from tomtat.training.rows import SAMPLE, spread

Rows = Sequence[Encoded] | Sequence[Choices]

_BODY = struct.Struct("<32sQII")
_RECORD = _BODY.size + 4
"""Bytes of an index record: row hash, offset, tokens, CRC-32 of the states; and the CRC-32 of these."""

LEFT_FREE = 2 << 30
"""Bytes of the disk that are never taken."""

AGREES_WITHIN = 0.01
"""Norm of the difference between running from the boundary and running all, over the norm."""


@dataclass(frozen=True)
class _Entry:
    file: BinaryIO
    offset: int
    tokens: int
    checksum: int


class StateFiles:
    """Rows' states (tokens, width) in bf16, by the hash of their token ids."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.width = width
        self.is_writable = True
        self.room = sys.maxsize
        """Bytes that this process may add: an estimate decided whether to begin, and may be wrong."""
        self._entries: dict[bytes, _Entry] = {}
        self._files: dict[Path, tuple[BinaryIO, int]] = {}
        """The states of each index, and how many bytes of the index were read. Open, they outlive others' clean-up."""
        self._own: tuple[BinaryIO, BinaryIO, BinaryIO] | None = None
        """States to write, index to write, states to read."""
        self._end = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def get(self, key: bytes) -> torch.Tensor | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        content = bytearray(entry.tokens * self.width * STORED.itemsize)
        entry.file.seek(entry.offset)
        if entry.file.readinto(content) != len(content) or zlib.crc32(content) != entry.checksum:  # type: ignore[attr-defined]
            del self._entries[key]
            return None
        return torch.frombuffer(content, dtype=STORED).view(entry.tokens, self.width)

    def put(self, key: bytes, states: torch.Tensor) -> None:
        """Keep states (tokens, width). A disk without room ends the keeping, not the training."""
        content = states.contiguous().view(torch.uint8).numpy().tobytes()
        if not self.is_writable or self._end + len(content) > self.room:
            return
        checksum = zlib.crc32(content)
        body = _BODY.pack(key, self._end, len(states), checksum)
        try:
            data, index, reading = self._own or self._open_own()
            if data.write(content) != len(content) or index.write(body + _check(body)) != _RECORD:
                raise OSError("the disk took a part only")
        except OSError:
            self.is_writable = False
            return
        self._entries[key] = _Entry(reading, self._end, len(states), checksum)
        self._end += len(content)

    def refresh(self) -> None:
        """Take note of what other processes, and earlier ones, have written; of two the newer counts."""
        for path in sorted(self.folder.glob("*.index"), key=_age):
            try:
                if path not in self._files:
                    self._files[path] = path.with_suffix(".states").open("rb", buffering=0), 0
                states, start = self._files[path]
                if path.stat().st_size < start + _RECORD:
                    continue
                with path.open("rb") as file:
                    file.seek(start)
                    content = file.read()
            except OSError:
                continue  # cleaned up by another process in this moment
            whole = len(content) // _RECORD * _RECORD
            for offset in range(0, whole, _RECORD):
                record = content[offset : offset + _RECORD]
                body = record[: _BODY.size]
                if record[_BODY.size :] == _check(body):
                    key, *place = _BODY.unpack(body)
                    self._entries[key] = _Entry(states, *place)
            self._files[path] = states, start + whole

    def used_by(self, keys: Sequence[bytes]) -> set[Path]:
        """The files that hold any of these rows."""
        held = {id(self._entries[key].file) for key in keys if key in self._entries}
        return {path.with_suffix(".states") for path, (file, _) in self._files.items() if id(file) in held}

    def _open_own(self) -> tuple[BinaryIO, BinaryIO, BinaryIO]:
        path = self.folder / f"{uuid.uuid4().hex}.states"
        index = path.with_suffix(".index")
        data = path.open("xb", buffering=0)
        self._own = data, index.open("xb", buffering=0), path.open("rb", buffering=0)
        self._files[index] = self._own[2], 1 << 62  # its records are known from writing them
        return self._own


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little")


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class FrozenStates:
    """The frozen part's states of rows: from disk where they are kept, else computed; the same bits either way."""

    def __init__(self, model: SummarizerModel, part: FrozenPart, files: StateFiles | None) -> None:
        self.model = model
        self.part = part
        self.files = files
        self.computed = 0
        """Rows computed so far."""

    def of(self, rows: Rows) -> FrozenBatch:
        read = [one for row in rows for one in self.model.frozen_rows(row)]
        keys = [_hash(row) for row in read]
        if self.files and any(key not in self.files for key in keys):
            self.files.refresh()
        return FrozenBatch.of(self.part, [self._one(row, key) for row, key in zip(read, keys, strict=True)])

    def _one(self, row: FrozenRow, key: bytes) -> torch.Tensor:
        if self.files and (kept := self.files.get(key)) is not None:
            return kept
        self.computed += 1
        states = self.part.states(row).to(device="cpu", dtype=STORED)
        if self.files:
            self.files.put(key, states)
        return states


def _hash(row: FrozenRow) -> bytes:
    if not isinstance(row, PackedRow):
        return sha256(_bytes(row)).digest()
    # One byte more than whole numbers have: what is packed is never taken for a longer row that is not.
    return sha256(b"|".join([_bytes(row.ids), _bytes(row.pieces)])).digest()


def _bytes(numbers: list[int]) -> bytes:
    return np.array(numbers, dtype=np.int32).tobytes()


def open_states(
    model: SummarizerModel, parts: Sequence[Rows], settings: TrainSettings, progress: Progress
) -> FrozenStates | None:
    """The frozen part of a model that is about to train on rows, kept where that pays; None where nothing is frozen.

    Says what it will take, before anything is written.
    """
    part = frozen_part(model.network)
    first_rows = [rows[0] for rows in parts if rows]
    if part is None or not first_rows or not all(_runs_alike(model, part, row) for row in first_rows):
        return None
    wanted = settings.cache == "on" or (settings.cache == "auto" and settings.epochs > 1)
    files = _open_files(model, part, parts, settings, progress) if wanted else None
    if files is None and model.device.type != "cpu":
        return None  # rows that go alone would leave a GPU idle
    return FrozenStates(model, part, files)


@torch.inference_mode()
def _runs_alike(model: SummarizerModel, part: FrozenPart, row: Encoded | Choices) -> bool:
    """Whether this family really can be cut there: what is not known to fit is run whole."""
    was_training = model.network.training
    model.network.eval()
    try:
        expected = _output(model, row)
        states = [part.states(one).cpu() for one in model.frozen_rows(row)]
        found = _output(model, row, FrozenBatch.of(part, states))
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError):
        return False
    finally:
        model.network.train(was_training)
    return bool((found - expected).float().norm() <= AGREES_WITHIN * expected.float().norm())


def _output(model: SummarizerModel, row: Encoded | Choices, below: FrozenBatch | None = None) -> torch.Tensor:
    if isinstance(row, Choices):
        return model.choice_logits([row], below)[0]
    return model.target_hidden([row], below)[0]


def _open_files(
    model: SummarizerModel,
    part: FrozenPart,
    parts: Sequence[Rows],
    settings: TrainSettings,
    progress: Progress,
) -> StateFiles | None:
    root = states_directory()
    budget = int(settings.cache_gigabytes * 1e9)
    bytes_of: dict[bytes, float] = {}
    for rows in parts:
        bytes_of = _sizes(model, part, rows) | bytes_of
    size = int(sum(bytes_of.values()))
    what = f"frozen: {part}; what it says of {sum(map(len, parts)):,} texts takes {in_words(size)}"
    try:
        if size > budget:
            raise OSError(f"train.cache_gigabytes is {settings.cache_gigabytes:g}")
        files = StateFiles(root / part.key()[:32], part.width)
        files.refresh()
        used = files.used_by(list(bytes_of))
        for path in used:
            os.utime(path)  # used last now
        missing = int(sum(size for key, size in bytes_of.items() if key not in files))
        files.room = make_room(root, used, missing, budget)
    except OSError as error:
        progress.note(f"{what}: computed anew in each epoch, because {error.strerror or error}")
        return None
    progress.note(f"{what}, kept in {files.folder} (train.cache)")
    return files


def _sizes(model: SummarizerModel, part: FrozenPart, rows: Rows) -> dict[bytes, float]:
    """Bytes that rows take, by their hashes; of many rows, those of a sample, each for all that it stands for."""
    sample = spread(len(rows), SAMPLE)
    read = [one for number in sample for one in model.frozen_rows(rows[number])]
    return {_hash(row): len(rows) / len(sample) * len(row) * part.width * STORED.itemsize for row in read}


def states_directory() -> Path:
    """`$TOMTAT_STATES`, or `states` in the cache directory. It may be deleted at any time."""
    return Path(os.environ.get("TOMTAT_STATES") or cache_directory() / "states")


def in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def make_room(root: Path, wanted: set[Path], needed: int, budget: int) -> int:
    """Let `needed` more bytes fit under the budget and on the disk, and return how many would.

    What was used longest ago goes for them; `wanted` stays, and where that is too much already, nothing fits.
    Raises OSError where the disk has no room even so.
    """
    sizes = {path: path.stat().st_size for path in root.glob("*/*.states")}
    total = sum(sizes.values())
    for path in sorted(sizes.keys() - wanted, key=_age):
        if total + needed <= budget and _free(root) - needed > LEFT_FREE:
            break
        # The index first: states without one are not looked at.
        path.with_suffix(".index").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        total -= sizes[path]
    if needed and _free(root) - needed <= LEFT_FREE:
        raise OSError(f"the disk of {root} has {in_words(_free(root))} left, and {in_words(LEFT_FREE)} stay free")
    return budget - total


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
