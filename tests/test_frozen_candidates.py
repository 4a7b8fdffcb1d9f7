"""Calibration reads what is frozen from disk, candidates too, and it makes no difference to what is learned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tomtat
from conftest import small_settings
from test_frozen_cache import CUTS, Listening, files_of, part_of, prepared, tiny_bart  # noqa: F401
from test_training import StopAfter, adapter, without_times
from tomtat.candidates import Draw, draw_candidates
from tomtat.config import CalibrateSettings, TrainSettings
from tomtat.errors import Interrupted
from tomtat.models.adapters import trainable_state
from tomtat.models.base import Choices, Encoded, SummarizerModel
from tomtat.models.devices import to_device
from tomtat.models.frozen import FrozenPart
from tomtat.models.precision import cast_parameters
from tomtat.progress import Progress
from tomtat.training import cache, calibrate, resume
from tomtat.training.cache import FrozenStates, open_states
from tomtat.training.objectives import RankCandidates, TrainingData

TEXTS = {
    "can we meet on monday?": ["They meet on monday.", "x", "They meet. Or not. On friday at nine."],
    "a much longer text about room four " * 5: ["room four is painted", ""],
    "b": ["c", "They meet on friday, nina is ill and room four is painted."],
}


def training_data(model: SummarizerModel) -> TrainingData:
    rows = [model.encode(text, "They meet on friday.", 500) for text in TEXTS]
    return TrainingData(rows, [], [], [[model.target(text) for text in summaries] for summaries in TEXTS.values()])


def loss_and_gradient(objective: RankCandidates) -> tuple[float, torch.Tensor]:
    network = objective.model.network
    network.zero_grad()
    loss = objective.loss_sum([0, 1, 2])
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in trainable_state(network).values()])  # type: ignore[union-attr]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("stored", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)], ids=["exact", "bf16"])
@pytest.mark.parametrize(("name", "target"), CUTS)
def test_from_the_boundary_a_rank_loss_and_its_gradients_are_those_of_the_whole_network(
    name: str,
    target: str,
    stored: torch.dtype,
    within: float,
    together: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(cache, "STORED", stored)
    model = prepared(request.getfixturevalue(name), target)
    if not together:
        monkeypatch.setattr(type(model), "has_lanes", False)
    data, settings = training_data(model), CalibrateSettings(margin=1.0)  # far from where a pair begins to count
    states = FrozenStates(model, part_of(model), None)

    loss, gradient = loss_and_gradient(RankCandidates(model, data, settings))
    from_states, its_gradient = loss_and_gradient(RankCandidates(model, data, settings, states))

    assert states.computed == (3 if together or model.is_encoder_decoder else 10)
    assert from_states == pytest.approx(loss, rel=within)
    assert float((its_gradient - gradient).norm()) < 10 * within * float(gradient.norm())
    assert float(gradient.norm()) > 0.1


@pytest.mark.parametrize(("name", "target"), CUTS)
def test_in_bf16_the_cut_is_found_to_fit_and_changes_little(name: str, target: str, request: pytest.FixtureRequest):
    model = prepared(request.getfixturevalue(name), target)
    cast_parameters(model.network, torch.bfloat16)
    data, settings = training_data(model), CalibrateSettings(margin=1.0)
    states = open_states(model, data.seen_each_epoch, TrainSettings(cache="off"), Progress())
    assert states is not None
    loss = RankCandidates(model, data, settings).loss_sum([0, 1, 2]).item()
    assert RankCandidates(model, data, settings, states).loss_sum([0, 1, 2]).item() == pytest.approx(loss, rel=0.02)


def test_what_cannot_be_cut_with_candidates_is_run_whole(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = prepared(tiny_llama, "top-1")
    parts = training_data(model).seen_each_epoch
    assert open_states(model, parts, TrainSettings(), Progress()) is not None
    states = FrozenPart.states

    def mistaken(self: FrozenPart, row: Any) -> torch.Tensor:
        return states(self, row) if isinstance(row, list) else states(self, row).flip(0)

    monkeypatch.setattr(FrozenPart, "states", mistaken)
    assert open_states(model, parts, TrainSettings(), Progress()) is None


# --- files


@pytest.mark.parametrize(("name", "target"), CUTS)
def test_what_one_computed_the_next_reads_to_the_bit(
    name: str, target: str, request: pytest.FixtureRequest, tmp_path: Path
):
    model = prepared(request.getfixturevalue(name), target)
    rows = training_data(model).choices
    first, second = files_of(model, tmp_path), files_of(model, tmp_path)
    made, read = first.of(rows), second.of(rows)
    assert (first.computed, second.computed) == (3, 0)
    assert torch.equal(made.states, read.states)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_bart"])
def test_a_frozen_encoders_states_are_those_of_plain_training(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
):
    model = prepared(request.getfixturevalue(name), "decoder")
    data = training_data(model)
    files_of(model, tmp_path).of(data.train)
    calibrating = files_of(model, tmp_path)
    calibrating.of(data.choices)
    assert calibrating.computed == 0


def test_other_candidates_and_other_borders_between_them_are_other_entries(tiny_llama: Path, tmp_path: Path):
    model = prepared(tiny_llama, "top-1")
    states = files_of(model, tmp_path)
    states.of([Encoded([5, 6, 7], [8, 9])])
    last_is_not_read = 1
    rows = [
        Choices([5, 6, 7], [[8, 9]]),
        Choices([5, 6, 7], [[8, 10, 11], [12, last_is_not_read]]),
        Choices([5, 6, 7], [[8, last_is_not_read], [10, 12, last_is_not_read]]),
        Choices([5, 6, 7], [[8, 10, last_is_not_read], [13, last_is_not_read]]),
        Choices([5, 6, 7, 8], [[10, last_is_not_read], [12, last_is_not_read]]),
    ]
    for number, row in enumerate(rows, start=1):
        states.of([row])
        assert states.computed == 1 + number
    states.of(rows)
    assert states.computed == 1 + len(rows)


@pytest.mark.parametrize(("name", "target"), [("tiny_t5", "decoder"), ("tiny_llama", "top-1")])
def test_the_estimate_is_what_is_taken(name: str, target: str, request: pytest.FixtureRequest, tmp_path: Path):
    model = prepared(request.getfixturevalue(name), target)
    rows = training_data(model).choices
    states = files_of(model, tmp_path)
    states.of(rows)
    taken = sum(path.stat().st_size for path in tmp_path.glob("*.states"))
    assert sum(cache._sizes(model, states.part, rows).values()) == taken > 0


def test_of_many_rows_a_sample_speaks_for_those_of_its_own_kind(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = prepared(tiny_llama, "top-1")
    monkeypatch.setattr(cache, "SAMPLE", 2)
    many = [Choices([5, 6, number], [[8, 9, 1], [8, 1]]) for number in range(10)]  # 6 tokens are read of each
    few = [Encoded([5, 6, 7, 8], [9])]
    opened: list[str] = []
    monkeypatch.setattr(cache, "in_words", lambda size: opened.append(size) or "so much")
    open_states(model, [many, few], TrainSettings(cache="on"), Progress())
    assert opened[0] == (10 * 6 + 4) * 32 * 2


# --- runs


DRAW = Draw(count=4)
SMALL = {"train.learning_rate": 3e-3, "train.epochs": 3}


@pytest.fixture(params=[("tiny_t5", "decoder"), ("tiny_bart", "decoder"), ("tiny_llama", "top-1")], ids=lambda p: p[0])
def run(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> tomtat.RunFolder:
    """With candidates, and what is frozen kept for its two epochs."""
    name, target = request.param
    settings = small_settings(request.getfixturevalue(name), data) | {"lora.target": target, "lora.dropout": 0.2}
    made = tomtat.finetune(settings=settings, out=tmp_path / "run")
    draw_candidates(made, draw=DRAW)
    return made


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[FrozenStates]:
    """States of all runs that are begun from here on."""
    begun: list[FrozenStates] = []
    initialise = FrozenStates.__init__

    def noticed(self: FrozenStates, *arguments: Any) -> None:
        initialise(self, *arguments)
        begun.append(self)

    monkeypatch.setattr(FrozenStates, "__init__", noticed)
    return begun


def test_a_calibration_is_the_same_with_its_cache_without_it_and_with_one_that_is_full(
    run: tomtat.RunFolder, tmp_path: Path, computed: list[FrozenStates]
):
    def calibrated(name: str, **more: Any) -> tuple[bytes, list[str], int]:
        listening = Listening()
        settings = SMALL | {f"train.{key}": value for key, value in more.items()}
        result = adapter(calibrate(run, settings, tmp_path / name, listening))
        return result, listening.notes, computed[-1].computed

    kept, notes, count = calibrated("kept")
    is_causal = run.config.lora.target == "top-1"
    assert count == (12 if is_causal else 0)  # an encoder's states are there since the run that was calibrated
    assert any("frozen: " in note and "of 16 texts takes" in note and "kept in" in note for note in notes)
    assert calibrated("again")[::2] == (kept, 0)
    assert calibrated("off", cache="off")[::2] == (kept, 12 * 3 + 4 * 4 if is_causal else 16 * 3 + 4)
    small, notes, _ = calibrated("small", cache_gigabytes=1e-6)
    assert small == kept
    assert any("anew in each epoch, because train.cache_gigabytes is 1e-06" in note for note in notes)


def test_a_stopped_calibration_ends_the_same_whatever_became_of_its_cache(
    run: tomtat.RunFolder, tmp_path: Path, states_of_frozen_parts: Path
):
    unbroken = calibrate(run, SMALL, tmp_path / "unbroken")
    for path in states_of_frozen_parts.rglob("*.states"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Interrupted):
        calibrate(run, SMALL, tmp_path / "stopped", StopAfter(2))
    for path in states_of_frozen_parts.rglob("*.index"):
        path.unlink()
    resumed = resume(tmp_path / "stopped")
    assert adapter(resumed) == adapter(unbroken)
    assert without_times(resumed.metrics()) == without_times(unbroken.metrics())


@pytest.mark.slow
def test_a_calibration_that_was_killed_goes_on_to_the_bit(run: tomtat.RunFolder, tmp_path: Path):
    command = [sys.executable, "-m", "tomtat.cli", "train"]
    start = [*command, "--candidates", run.path, "--epochs", "20", "--set", "train.checkpoint_minutes=0.001", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*start, tmp_path / "unbroken"], check=True, capture_output=True, env=environment)
    process = subprocess.Popen([*start, tmp_path / "killed"], stderr=subprocess.DEVNULL, env=environment)
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*/sha256")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume", tmp_path / "killed"], check=True, capture_output=True, env=environment)

    unbroken, killed = (tomtat.RunFolder.open(tmp_path / name) for name in ("unbroken", "killed"))
    assert adapter(killed) == adapter(unbroken)
    assert without_times(killed.metrics()) == without_times(unbroken.metrics())


# --- devices


class OnTheCpu:
    """Says what is done to it: no GPU is needed."""

    device = torch.device("cpu")

    def __init__(self, is_pinned: bool = False) -> None:
        self.is_pinned = is_pinned

    def pin_memory(self) -> "OnTheCpu":
        return OnTheCpu(is_pinned=True)

    def to(self, device: torch.device, non_blocking: bool = False) -> tuple[str, bool, bool]:
        return device.type, self.is_pinned, non_blocking


def test_a_gpu_is_given_its_batches_through_pinned_memory_without_waiting():
    assert to_device(OnTheCpu(), torch.device("cuda")) == ("cuda", True, True)  # type: ignore[arg-type]
    assert to_device(OnTheCpu(), torch.device("mps")) == ("mps", False, False)  # type: ignore[arg-type, comparison-overlap]
    tensor = torch.zeros(3)
    assert to_device(tensor, torch.device("cpu")) is tensor
