"""What a stopped run needs to go on: written aside, synced, renamed, and checked by a SHA-256 when read."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tomtat.errors import RunError
from tomtat.files import recover_folder, replace_folder, sha256_of, write_text

KEPT = 2
"""Should the newest be damaged, the one before is used."""

FORMAT = 2
"""Raised when a checkpoint's content changes, so that an older one is refused and not misread."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """`state` holds tensors, numbers, texts and containers of them; nothing that runs code when loaded.

    A kill or a full disk (OSError) on the way leaves the earlier checkpoints as they were.
    """
    with replace_folder(folder / f"step-{step:08d}") as new:
        digest = _save(new / "state.pt", {"format": FORMAT, **state})
        write_text(new / "sha256", digest + "\n")
    for old in [*checkpoints(folder)[KEPT:], *folder.glob("step-*.new"), *folder.glob("step-*.old")]:
        shutil.rmtree(old, ignore_errors=True)


def recover_checkpoints(folder: Path) -> None:
    """Undo what a kill inside `save_checkpoint` left; only for who holds the run's lock."""
    for leftover in [*folder.glob("step-*.new"), *folder.glob("step-*.old")]:
        recover_folder(leftover.with_suffix(""))


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, or None where there never was one, and what is wrong with those passed over."""
    found = checkpoints(folder)
    problems: list[str] = []
    for path in found:
        try:
            if sha256_of(path / "state.pt") == (path / "sha256").read_text(encoding="utf-8").strip():
                state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
                _require_format(path, state)
                return state, problems
            problems.append(f"{path} is damaged (its checksum differs)")
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            problems.append(f"{path} is damaged ({error})")
    if found:
        raise RunError(f"No usable checkpoint: {'; '.join(problems)}. Start the training anew with another --out.")
    return None, problems


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, the newest first."""
    return sorted(
        (path for path in folder.glob("step-*") if path.suffix not in (".new", ".old")),
        key=lambda path: path.name,
        reverse=True,
    )


def _require_format(path: Path, state: dict[str, Any]) -> None:
    if (found := state.get("format", 1)) != FORMAT:
        raise RunError(
            f"{path} is a checkpoint in format {found}, and this tomtat goes on from format {FORMAT} only. "
            "Go on with the version that wrote it (run.json names it), or start the training anew with another --out."
        )


class _Hashing:
    """A file that knows the digest of what was written to it, and which error stopped the writing.

    torch's writer turns an OSError of the file below into a RuntimeError without its number.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        self.digest.update(content)
        left = memoryview(content).cast("B")
        try:
            while left:  # what is unbuffered may take a part at a time
                left = left[self.file.write(left) :]
        except OSError as error:
            self.error = error
            raise
        return len(content)

    def flush(self) -> None:
        self.file.flush()


def _save(path: Path, state: dict[str, Any]) -> str:
    """Write, and return the SHA-256 of what is in the file."""
    # Unbuffered, so that a full disk shows in `write` and not when the file is closed.
    with path.open("wb", buffering=0) as file:
        hashing = _Hashing(file)
        try:
            torch.save(state, hashing)
        except Exception:
            if hashing.error is not None:
                raise hashing.error from None
            raise
    return hashing.digest.hexdigest()
