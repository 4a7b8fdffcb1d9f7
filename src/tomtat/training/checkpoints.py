"""What a stopped run needs to go on: written aside, synced, renamed, and checked by a SHA-256 when read."""

import shutil
from pathlib import Path
from typing import Any

import torch

from tomtat.errors import RunError
from tomtat.files import replace_folder, sha256_of, write_text

KEPT = 2
"""Should the newest be damaged, the one before is used."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """`state` holds tensors, numbers, texts and containers of them; nothing that runs code when loaded."""
    with replace_folder(folder / f"step-{step:08d}") as new:
        torch.save(state, new / "state.pt")
        write_text(new / "sha256", sha256_of(new / "state.pt") + "\n")
    for old in [*checkpoints(folder)[KEPT:], *folder.glob("step-*.new"), *folder.glob("step-*.old")]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, or None where there never was one, and what is wrong with those passed over."""
    found = checkpoints(folder)
    problems: list[str] = []
    for path in found:
        try:
            if sha256_of(path / "state.pt") == (path / "sha256").read_text(encoding="utf-8").strip():
                state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
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
