from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tomtat
from conftest import Finished, as_flags, small_settings
from test_training import StopAfter, adapter, without_times
from tomtat.config import load_config
from tomtat.errors import ConfigError, Interrupted, RunError
from tomtat.training.sweep import Trial, sweep, trials


@pytest.fixture
def settings(tiny_llama: Path, data: Path) -> dict[str, Any]:
    return small_settings(tiny_llama, data) | {"train.epochs": 3}


CHOSEN = trials(["top-1"], [2, 4], [1e-4, 1e-2])


def test_the_worse_half_is_given_up_and_the_best_ends_as_if_trained_alone(settings: dict[str, Any], tmp_path: Path):
    results = sweep(load_config(None, settings), CHOSEN, tmp_path / "sweep")

    assert sorted(result.epochs for result in results) == [1, 1, 2, 3]
    assert [result.end for result in results].count("given up") == 3
    best = results[0]
    assert best.end == "finished"
    assert best.best == min(result.best for result in results if result.best is not None)
    alone = tomtat.finetune(settings=settings | dict(best.trial.settings), out=tmp_path / "alone")
    run = tomtat.RunFolder.open(best.path)
    assert adapter(run) == adapter(alone)
    assert without_times(run.metrics()) == without_times(alone.metrics())


def test_trials_share_what_is_frozen(settings: dict[str, Any], tmp_path: Path, states_of_frozen_parts: Path):
    sweep(load_config(None, settings), CHOSEN[:1], tmp_path / "one")
    files = {path: path.stat().st_size for path in states_of_frozen_parts.rglob("*.states")}
    assert len(files) == 1
    sweep(load_config(None, settings), CHOSEN, tmp_path / "four")
    assert {path: path.stat().st_size for path in states_of_frozen_parts.rglob("*.states")} == files


def test_a_stopped_sweep_goes_on_to_the_same_end(settings: dict[str, Any], tmp_path: Path):
    config = load_config(None, settings)
    unbroken = sweep(config, CHOSEN, tmp_path / "unbroken")
    for steps in (2, 5):
        with pytest.raises(Interrupted, match="same command goes on"):
            sweep(config, CHOSEN, tmp_path / "stopped", StopAfter(steps))
    resumed = sweep(config, CHOSEN, tmp_path / "stopped")

    def told(results: list[Any]) -> list[tuple[Any, ...]]:
        return [(result.trial.name, result.epochs, result.best, result.end) for result in results]

    assert told(resumed) == told(unbroken)


def test_a_trial_that_diverges_is_told_and_the_others_go_on(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    from tomtat.training.loop import Trainer

    step = Trainer._step

    def diverging(self: Trainer, rows: Any) -> float:
        if self.settings.learning_rate == 1e-2:
            self._require_finite(float(torch.tensor(float("nan"))), "loss")
        return step(self, rows)

    monkeypatch.setattr(Trainer, "_step", diverging)
    results = sweep(load_config(None, settings), CHOSEN, tmp_path / "sweep")
    assert [result.best is None for result in results] == [False, False, True, True]
    assert "The loss is nan" in results[-1].end


def test_refusals(settings: dict[str, Any], data: Path, tmp_path: Path):
    config = load_config(None, settings)
    with pytest.raises(ConfigError, match="chooses by validation data"):
        sweep(load_config(None, {k: v for k, v in settings.items() if k != "data.validation"}), CHOSEN, tmp_path / "a")
    with pytest.raises(ConfigError, match="nowhere"):
        sweep(config, [Trial("wrong", {"lora.target": "nowhere"})], tmp_path / "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        sweep(config, CHOSEN, tmp_path / "mine")
    sweep(config, CHOSEN[:1], tmp_path / "c")
    with pytest.raises(RunError, match="other values or settings"):
        sweep(config, CHOSEN, tmp_path / "c")


def test_the_command_ends_with_a_table(settings: dict[str, Any], tmp_path: Path, tomtat: Callable[..., Finished]):
    recipe = tmp_path / "small.toml"
    recipe.write_text("")
    done = tomtat("sweep", recipe, *as_flags(settings | {"train.epochs": 2}), "--target", "top-1", "--target", "all-linear",
                  "--rank", 4, "--rate", 0.01, "--out", tmp_path / "sweep")  # fmt: skip
    assert done.code == 0, done.err
    assert "placement" in done.out
    assert "top-1" in done.out
    assert "all-linear" in done.out
    assert "evaluate" in done.out
