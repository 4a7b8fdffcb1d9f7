"""Several placements, ranks and rates tried on one recipe, the worse half given up after each epoch.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): all train one epoch, the better half by validation
another, and so on. Each trial is a run folder of its own, paused and resumed to the bit, so that one that is gone on
with ends as if it had been trained alone. Who was given up follows from the trials' metrics alone: the same command
goes on where a sweep was stopped.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tomtat.config import RunConfig, build_config
from tomtat.errors import ConfigError, Interrupted, RunError, TomtatError
from tomtat.files import write_json
from tomtat.progress import Progress
from tomtat.run_folder import RunFolder
from tomtat.training.finetune import finetune, resume

FILE = "sweep.json"


@dataclass(frozen=True)
class Trial:
    """One combination: its folder's name, and its settings by dotted names."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    trial: Trial
    path: Path
    epochs: int
    """How many were trained."""
    best: float | None
    """The best epoch's validation loss, or ROUGE where the recipe chooses by it; None where the run failed."""
    seconds: float
    """Of training."""
    end: str
    """`finished`, `given up`, or why it failed."""


def trials(targets: Sequence[str], ranks: Sequence[int], rates: Sequence[float]) -> list[Trial]:
    """Every combination, named after its values. Alpha stays twice the rank, so that a rate means the same for each."""
    return [
        Trial(
            f"{_in_a_name(target)}-r{rank}-lr{rate:g}",
            {"lora.target": target, "lora.rank": rank, "lora.alpha": 2.0 * rank, "train.learning_rate": rate},
        )
        for target, rank, rate in product(targets, ranks, rates)
    ]


def sweep(config: RunConfig, chosen: Sequence[Trial], out: Path, progress: Progress | None = None) -> list[Result]:
    """Train the trials in `out`, or go on with them, and return what came of each, the best first."""
    if config.data.validation is None:
        raise ConfigError("A sweep chooses by validation data: name it with --validation FILE (data.validation).")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("A sweep trains in one process. Start it without `accelerate launch`.")
    configs = {trial.name: _config_of(config, trial) for trial in chosen}
    progress = progress or Progress()
    failed = _open(out, configs)
    left = list(chosen)
    for epoch in range(1, config.train.epochs + 1):
        progress.note(f"epoch {epoch} of {config.train.epochs}: {len(left)} of {len(chosen)} trials")
        for trial in left:
            if trial.name not in failed and (
                why := _train_until(out / trial.name, configs[trial.name], epoch, progress)
            ):
                failed[trial.name] = why
                _write(out, configs, failed)
        left = [trial for trial in left if trial.name not in failed]
        if epoch < config.train.epochs:
            left = _better_half(left, out, config, epoch)
    results = [_result(trial, out, config, trial in left, failed.get(trial.name)) for trial in chosen]
    return sorted(results, key=lambda result: math.inf if result.best is None else _order(config) * result.best)


def _config_of(config: RunConfig, trial: Trial) -> RunConfig:
    # Trials share what the frozen part says, so it is kept even where one of them alone would not need it twice.
    shared = {"train.cache": "on"} if config.train.cache == "auto" else {}
    return build_config(config.model_dump(exclude_none=True), {**shared, **trial.settings})


def _open(out: Path, configs: Mapping[str, RunConfig]) -> dict[str, str]:
    """Trials that failed earlier, with the reason. Raises RunError where another sweep lies in the folder."""
    path = out / FILE
    asked = {name: config.to_toml() for name, config in configs.items()}
    if not path.exists():
        RunFolder.require_free(out)
        out.mkdir(parents=True, exist_ok=True)
        _write(out, configs, {})
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        trials_there, failed = known["trials"], known["failed"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{path} is damaged. Choose another --out.") from None
    if trials_there != asked:
        raise RunError(f"{out} holds a sweep over other values or settings. Choose another --out.")
    return dict(failed)


def _write(out: Path, configs: Mapping[str, RunConfig], failed: Mapping[str, str]) -> None:
    asked = {name: config.to_toml() for name, config in configs.items()}
    write_json(out / FILE, {"trials": asked, "failed": dict(failed)})


def _train_until(path: Path, config: RunConfig, epoch: int, progress: Progress) -> str | None:
    """Why it could not be trained so far, if it could not."""
    pausing = _Pausing(epoch, progress)
    try:
        if not (path / "config.toml").exists():
            progress.note(f"{path.name}:")
            finetune(config, out=path, progress=pausing)
        elif not _is_trained(RunFolder.open(path), epoch):
            progress.note(f"{path.name}:")
            resume(path, pausing)
    except Interrupted:
        if not pausing.has_paused:
            raise Interrupted(f"Stopped in {path}. The same command goes on.") from None
    except RunError:
        raise
    except TomtatError as error:
        if not (path / "config.toml").exists():
            raise  # wrong settings or data, which no other trial would bear either
        progress.note(str(error))
        return str(error)
    return None


def _is_trained(folder: RunFolder, epoch: int) -> bool:
    return bool(folder.info().get("finished")) or any(row["epoch"] >= epoch for row in _epochs(folder))


class _Pausing(Progress):
    """Hands everything on, and stops the run after an epoch."""

    def __init__(self, epoch: int, progress: Progress) -> None:
        self.epoch = epoch
        self.has_paused = False
        self.note = progress.note  # type: ignore[method-assign]
        self.task = progress.task  # type: ignore[method-assign]

    def pauses_after(self, epoch: int) -> bool:
        self.has_paused = epoch >= self.epoch
        return self.has_paused


def _better_half(left: list[Trial], out: Path, config: RunConfig, epoch: int) -> list[Trial]:
    values = {trial.name: _best(RunFolder.open(out / trial.name), config, epoch) for trial in left}
    ranked = sorted(left, key=lambda trial: _order(config) * values[trial.name])
    return [trial for trial in left if trial in ranked[: math.ceil(len(left) / 2)]]


def _order(config: RunConfig) -> int:
    return -1 if config.train.choose_by == "rouge" else 1


def _best(folder: RunFolder, config: RunConfig, epoch: int) -> float:
    name = "validation_rouge" if config.train.choose_by == "rouge" else "validation_loss"
    values: list[float] = [_order(config) * row[name] for row in _epochs(folder) if row["epoch"] <= epoch]
    return _order(config) * min(values)


def _epochs(folder: RunFolder) -> list[dict[str, Any]]:
    return [row for row in folder.metrics() if row["kind"] == "epoch"]


def _result(trial: Trial, out: Path, config: RunConfig, is_left: bool, failure: str | None) -> Result:
    folder = RunFolder.open(out / trial.name)
    rows = _epochs(folder)
    return Result(
        trial,
        folder.path,
        len(rows),
        None if failure or not rows else _best(folder, config, config.train.epochs),
        sum(row["seconds"] for row in rows),
        failure or ("finished" if is_left else "given up"),
    )


def _in_a_name(target: str) -> str:
    return re.sub(r"[^\w-]+", "_", target).strip("_") or "target"
