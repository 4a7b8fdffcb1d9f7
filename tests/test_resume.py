"""A run that was stopped, killed, or ran out of disk goes on as if nothing had been; one that can't says why."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tomtat
from conftest import as_flags, rows, save_t5, small_settings, write_jsonl
from test_training import StopAfter, adapter, stopped_run, without_times
from tomtat.errors import Interrupted, RunError
from tomtat.models import SummarizerModel
from tomtat.progress import Progress
from tomtat.training import checkpoints, resume
from tomtat.training.checkpoints import load_checkpoint, save_checkpoint
from tomtat.training.random_numbers import random_state, seed_all, set_random_state
from tomtat.training.rows import REMEMBERED, SAMPLE, LazyRows, spread

ROOT = Path(__file__).parents[1]


class Listening(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def settings(tiny_llama: Path, data: Path) -> dict[str, Any]:
    return small_settings(tiny_llama, data) | {"lora.dropout": 0.2}


# --- what may not change


def test_another_setting_is_refused_with_both_values(settings: dict[str, Any], tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    with pytest.raises(RunError, match=r"other settings: train\.learning_rate 0\.01 -> 0\.02\. Go on with"):
        resume(path, settings={"train.learning_rate": 0.02})
    config = path / "config.toml"
    config.write_text(config.read_text().replace("rank = 4", "rank = 8"))  # by hand
    with pytest.raises(RunError, match=r"lora\.rank 4 -> 8"):
        resume(path)


def test_what_no_result_depends_on_may_change_and_is_written_down(settings: dict[str, Any], tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    resumed = resume(path, settings={"train.checkpoint_minutes": 1.0, "data.test": "chats@test"})
    assert resumed.config.train.checkpoint_minutes == 1.0
    assert adapter(resumed) == adapter(tomtat.finetune(settings=settings, out=tmp_path / "unbroken"))


def test_other_rows_are_refused_with_their_split_and_number(settings: dict[str, Any], data: Path, tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    write_jsonl(data, rows(13))
    with pytest.raises(RunError, match=r"data\.train = .* had 12 rows of SHA-256 \w{12}, and has 13 rows"):
        resume(path)


def test_other_weights_and_another_tokenizer_are_refused(settings: dict[str, Any], tmp_path: Path):
    model = save_t5(tmp_path / "model", untied=True)
    path = stopped_run(settings | {"model.name": str(model)}, tmp_path / "stopped")
    save_t5(model, untied=False)
    with pytest.raises(RunError, match=r"weights of the model .* changed since .*: SHA-256 \w{12} -> \w{12}"):
        resume(path)
    save_t5(model, untied=True)
    tokenizer = model / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["merges"] = content["model"]["merges"][:5]
    tokenizer.write_text(json.dumps(content))
    with pytest.raises(RunError, match="tokenizer or chat template changed"):
        resume(path)


def test_another_number_of_threads_is_told(settings: dict[str, Any], tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    folder = tomtat.RunFolder.open(path)
    info = folder.info()
    threads = info["machine"]["threads"]
    info["machine"]["threads"] = 96
    folder.write_info(info)
    told = Listening()
    resume(path, told)
    assert any("not to the bit" in note and f"threads 96 -> {threads}" in note for note in told.notes)


def test_an_older_checkpoint_is_refused_and_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 1)
    save_checkpoint(tmp_path, 7, {"place": {}})
    monkeypatch.undo()
    with pytest.raises(RunError, match="format 1"):
        load_checkpoint(tmp_path)


# --- random numbers


def test_every_generator_goes_on_where_it_stood(tmp_path: Path):
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]

    seed_all(3, process=1)
    draw()
    save_checkpoint(tmp_path, 1, {"random": random_state()})
    drawn = draw()
    seed_all(3, process=0)
    assert draw() != drawn
    state, _ = load_checkpoint(tmp_path)
    assert state is not None
    set_random_state(state["random"])
    assert draw() == drawn


# --- full disks


def test_a_disk_that_fills_up_in_a_checkpoint_leaves_the_one_before(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unbroken = tomtat.finetune(settings=settings, out=tmp_path / "unbroken")
    save = checkpoints._save

    def full(path: Path, state: dict[str, Any]) -> str:
        if state["place"]["step"] > 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(path, state)

    monkeypatch.setattr(checkpoints, "_save", full)
    with pytest.raises(RunError, match=r"No room left on the disk .* after step 6; .* tomtat train --resume"):
        tomtat.finetune(settings=settings, out=tmp_path / "full")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()] == ["step-00000003"]
    resumed = resume(tmp_path / "full")
    assert adapter(resumed) == adapter(unbroken)
    assert without_times(resumed.metrics()) == without_times(unbroken.metrics())


@contextmanager
def little_room() -> Iterator[None]:
    """No file may grow beyond 8,000 bytes: an adapter or a checkpoint does not fit.

    Not a fixture: pytest writes its own report between a test and its fixtures' end, and to a file that may be longer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_safetensors_and_torch_say_of_a_full_disk_is_understood(settings: dict[str, Any], tmp_path: Path):
    with little_room(), pytest.raises(RunError, match="No room left"):  # at the end of an epoch, in the adapter
        tomtat.finetune(settings=settings, out=tmp_path / "epoch")
    settings |= {"train.checkpoint_minutes": 1e-9}
    with little_room(), pytest.raises(RunError, match="No room left"):  # in the checkpoint after the first step
        tomtat.finetune(settings=settings, out=tmp_path / "step")
    assert not list((tmp_path / "step" / "checkpoints").iterdir())


# --- kills


@pytest.mark.slow
def test_kills_at_random_moments_and_in_checkpoints_change_nothing():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_and_resume.py"), "--kills=4", "--epochs=10"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "equal after 4 kills" in result.stdout


def processes_that_name(path: Path) -> list[int]:
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            if str(path).encode() in cmdline.read_bytes():
                found.append(int(cmdline.parent.name))
    return found


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_bit(settings: dict[str, Any], tmp_path: Path):
    """Each has random numbers of its own, and dropout shows whether they went on."""
    settings |= {"train.epochs": 20, "train.checkpoint_minutes": 0.02}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
              "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no", "-m", "tomtat.cli", "train"]  # fmt: skip
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(*arguments: Any) -> None:
        result = subprocess.run(
            [*launch, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
        )
        assert result.returncode == 0, result.stderr[-6000:]

    flags = as_flags(settings)
    run(*flags, "--out", tmp_path / "unbroken")
    process = subprocess.Popen(
        [*launch, *flags, "--out", tmp_path / "killed"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*/sha256")):
        assert process.poll() is None
        time.sleep(0.05)
    for number in processes_that_name(tmp_path / "killed"):  # the launcher and both, each in a session of its own
        os.kill(number, signal.SIGKILL)
    process.wait()
    run("--resume", tmp_path / "killed")

    unbroken, killed = (tomtat.RunFolder.open(tmp_path / name) for name in ("unbroken", "killed"))
    assert killed.info()["machine"]["processes"] == 2
    assert adapter(killed) == adapter(unbroken)
    assert without_times(killed.metrics()) == without_times(unbroken.metrics())


# --- many rows


def test_twenty_thousand_rows_are_not_all_read_before_the_first_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings |= {"data.train": str(write_jsonl(tmp_path / "many.jsonl", rows(20_000)))}
    encoded = 0
    encode = SummarizerModel.encode

    def counting(self: SummarizerModel, *arguments: Any) -> Any:
        nonlocal encoded
        encoded += 1
        return encode(self, *arguments)

    monkeypatch.setattr(SummarizerModel, "encode", counting)
    with pytest.raises(Interrupted):
        tomtat.finetune(settings=settings, out=tmp_path / "run", progress=StopAfter(2))
    assert encoded < SAMPLE + 200


def test_rows_are_remembered_up_to_a_number_and_stay_the_same(tiny_llama: Path):
    examples = [tomtat.types.Example(n, f"text {n} " * (n % 9), (f"{n}",)) for n in range(REMEMBERED + 500)]
    asked: list[Any] = []
    lazy = LazyRows(examples, lambda row: asked.append(row.id) or tomtat.models.Encoded([len(row.source)], [row.id]))  # type: ignore
    assert [row.target_ids for row in lazy] == [[n] for n in range(len(examples))]
    assert lazy[3].target_ids == [3]
    assert asked.count(3) == 2
    assert asked.count(len(examples) - 1) == 1
    assert len(lazy.rough_lengths) == len(examples)
    assert spread(10, 4) == [0, 2, 5, 7]
