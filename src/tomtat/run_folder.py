"""A run on disk.

config.toml          the resolved settings
run.json             base model, data and settings with their hashes, versions, precision: what --resume compares with
metrics.jsonl        a row per step and per epoch
adapter/             the best adapter, in PEFT's format, with tomtat.json (model/ after full fine-tuning)
candidates.jsonl     summaries drawn from the run with their scores, which `tomtat train --candidates` learns from
checkpoints/         what `--resume` needs
predictions.jsonl    of the configured test split: id, prediction; predictions.SYSTEM.jsonl of the yardsticks
scores.json          their scores with intervals and recipes, beside the yardsticks'
values.jsonl         each row's scores, for comparisons
report.html          all that to look at
evaluations/NAME/    the same files for other data
rejects.jsonl        rows left out by `--on-bad-row skip`, with reasons
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tomtat.config import RunConfig, load_config
from tomtat.errors import RunError
from tomtat.files import sync, write_json, write_json_lines, write_text


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: RunConfig, info: dict[str, Any]) -> "RunFolder":
        """Make the folder and write what a run needs to be resumed. A folder with anything in it is not touched."""
        cls.require_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.write_info(info)
        # Last, because a folder with a config is a run: a kill before this leaves one that says it is none.
        write_text(folder.config_path, config.to_toml())
        return folder

    @staticmethod
    def require_free(path: Path) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            go_on = f", or go on with it: tomtat train --resume {path}" if (path / "config.toml").exists() else ""
            raise RunError(f"{path} exists already. Choose another --out{go_on}.")

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        path = Path(path)
        if not path.exists():
            raise RunError(f"There is no run folder {path}.{_near(path)}")
        if not (path / "config.toml").is_file():
            raise RunError(f"{path} is not a run folder: it has no config.toml. `tomtat train` makes one.")
        return cls(path)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def config(self) -> RunConfig:
        return load_config(self.config_path)

    @property
    def adapter_path(self) -> Path:
        return self.path / "adapter"

    @property
    def model_path(self) -> Path:
        return self.path / "model"

    @property
    def trained_path(self) -> Path:
        """The adapter, or the whole model after full fine-tuning."""
        for path in (self.adapter_path, self.model_path):
            # A kill, or a training that goes on right now, may stand between the two renames of a replacement. Only
            # who trains may clean up after that (files.py); who reads takes the older one.
            for candidate in (path, path.with_name(path.name + ".old")):
                if candidate.is_dir():
                    return candidate
        raise RunError(
            f"{self.path} has no trained adapter yet. If its training stopped, go on: tomtat train --resume {self.path}"
        )

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @contextmanager
    def training_lock(self) -> Iterator[None]:
        """Held while training writes here; freed by the system when the process ends, however it ends."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise RunError(f"Another process is training in {self.path}. Wait for it, or stop it first.") from None

    def log(self, row: dict[str, Any]) -> None:
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def sync_metrics(self) -> None:
        """Rows that a checkpoint counts must not be lost when the machine stops; call before it is written."""
        if self.metrics_path.exists():
            sync(self.metrics_path)

    def metrics(self) -> list[dict[str, Any]]:
        """Rows written so far; a last line that a kill cut short is left out."""
        if not self.metrics_path.exists():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def keep_metrics(self, count: int) -> None:
        """Cut the rows that were written after a checkpoint, when going on from it."""
        write_json_lines(self.metrics_path, self.metrics()[:count])

    def write_info(self, info: dict[str, Any]) -> None:
        write_json(self.path / "run.json", info)

    def info(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunError(f"{self.path}/run.json is missing or damaged; the run can't be used.") from None
        return value

    def evaluation_path(self, name: str | None) -> Path:
        """Where an evaluation's files go: the top for the configured test split, else `evaluations/NAME`."""
        return self.path / "evaluations" / name if name else self.path


def free_path(parent: Path, name: str) -> Path:
    """`parent/name`, or the first of `name-2`, `name-3`... that does not exist."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def _near(path: Path) -> str:
    parent = path.parent
    runs = sorted(str(item.parent) for item in parent.glob("*/config.toml")) if parent.is_dir() else []
    return f" There are: {', '.join(runs[:8])}" if runs else " `tomtat train` makes one."
