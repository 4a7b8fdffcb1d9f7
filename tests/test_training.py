import json
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
import two_processes
from conftest import as_flags, rows, small_settings, write_jsonl
from tomtat.batching import micro_batches
from tomtat.errors import Interrupted, ModelError, RunError, TomtatError
from tomtat.progress import Progress
from tomtat.training import resume
from tomtat.training.batches import epoch_batches
from tomtat.training.loop import Trainer
from tomtat.training.masters import MasterWeights


def adapter(run: tomtat.RunFolder) -> bytes:
    return (run.adapter_path / "adapter_model.safetensors").read_bytes()


def without_times(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in metrics]


# --- batches


def test_every_row_stands_in_exactly_one_batch_of_each_epoch():
    lengths = [(7 * n) % 50 + 1 for n in range(103)]
    for epoch in (1, 2):
        batches = epoch_batches(lengths, 8, seed=3, epoch=epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(103))
        assert sorted(map(len, batches)) == [7] + [8] * 12
    assert epoch_batches(lengths, 8, 3, 1) == epoch_batches(lengths, 8, 3, 1) != epoch_batches(lengths, 8, 3, 2)


def test_micro_batches_stay_within_the_budget_where_a_row_alone_does():
    lengths = [10, 200, 30, 30, 5, 60]
    pieces = micro_batches(range(6), lengths, 100)
    assert sorted(row for piece in pieces for row in piece) == list(range(6))
    assert [piece for piece in pieces if len(piece) * max(lengths[row] for row in piece) > 100] == [[1]]


# --- the step


def test_a_step_does_not_depend_on_how_its_batch_is_cut(settings: dict[str, Any], tmp_path: Path):
    runs = [
        tomtat.finetune(settings=settings | {"train.micro_batch_tokens": tokens}, out=tmp_path / str(tokens))
        for tokens in (1, 150, 100_000)
    ]
    first, *others = [[row["loss"] for row in run.metrics() if row["kind"] == "step"] for run in runs]
    for other in others:
        assert other == pytest.approx(first, rel=1e-4)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(settings: dict[str, Any], tmp_path: Path):
    one, two, three = (
        tomtat.finetune(settings=settings | {"seed": seed}, out=tmp_path / f"run{n}")
        for n, seed in enumerate((1, 1, 2))
    )
    assert adapter(one) == adapter(two) != adapter(three)


def test_training_lowers_the_loss_and_leaves_a_table(settings: dict[str, Any], tmp_path: Path):
    run = tomtat.finetune(settings=settings | {"train.epochs": 8}, out=tmp_path / "run")
    epochs = [row for row in run.metrics() if row["kind"] == "epoch"]

    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"] - 0.1
    assert {"epoch", "train_loss", "validation_loss", "seconds", "examples_per_second"} <= set(epochs[0])
    assert run.info()["finished"]
    assert run.config.lora.rank == 4


def test_masters_keep_what_bf16_would_lose():
    layer = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    masters = MasterWeights(layer)
    optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3)
    for _ in range(10):  # each step is below bf16's resolution at 1
        layer(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        masters.collect_gradients()
        optimizer.step()
        optimizer.zero_grad()
        masters.publish()

    assert layer.weight.item() == pytest.approx(0.99, abs=0.005)
    assert masters.parameters()[0].item() == pytest.approx(0.99, abs=1e-5)


def test_bf16_training_saves_fp32_weights(settings: dict[str, Any], tmp_path: Path):
    from safetensors.torch import load_file

    run = tomtat.finetune(settings=settings | {"model.precision": "bf16"}, out=tmp_path / "run")
    assert {t.dtype for t in load_file(run.adapter_path / "adapter_model.safetensors").values()} == {torch.float32}
    assert run.info()["precision"] == "bfloat16"


def test_the_rate_rises_from_the_first_step_and_then_stays_or_falls():
    from tomtat.training.schedule import rate_factor

    assert [rate_factor("constant", 10, 0.2)(n) for n in (0, 1, 2, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert [rate_factor("linear", 4, 0.0)(n) for n in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rate_factor("cosine", 10, 0.0)(5) == pytest.approx(0.5)


def test_the_logged_rate_is_the_steps_own(settings: dict[str, Any], tmp_path: Path):
    run = tomtat.finetune(settings=settings | {"train.schedule": "linear", "train.warmup": 0.0}, out=tmp_path / "run")
    rates = [row["learning_rate"] for row in run.metrics() if row["kind"] == "step"]
    assert rates == pytest.approx([1e-2 * (6 - n) / 6 for n in range(6)])


def test_a_resumed_run_keeps_its_precision(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tomtat.models import precision

    monkeypatch.setattr(precision, "bf16_speedup", lambda device: 2.0)
    path = stopped_run(settings | {"model.precision": "auto"}, tmp_path / "stopped")
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: 0.5)
    notes: list[torch.dtype] = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: (notes.append(self.model.dtype), run(self))[1])
    resume(path)
    assert notes == [torch.bfloat16]


def test_validation_rows_seen_in_training_are_told(settings: dict[str, Any], tmp_path: Path):
    notes: list[str] = []

    class Listening(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    tomtat.finetune(settings=settings, out=tmp_path / "run", progress=Listening())
    assert any("4 of 4 validation texts are training texts too" in note for note in notes)


# --- which adapter is kept


def test_the_best_epoch_is_kept_and_patience_ends_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    losses = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    saved: list[int] = []
    save = Trainer._save_trained
    monkeypatch.setattr(Trainer, "_validation_loss", lambda self: next(losses))
    monkeypatch.setattr(Trainer, "_save_trained", lambda self: (saved.append(self.place.epoch), save(self)))

    run = tomtat.finetune(settings=settings | {"train.epochs": 5, "train.patience": 2}, out=tmp_path / "run")

    assert saved == [1, 2]
    assert [row["epoch"] for row in run.metrics() if row["kind"] == "epoch"] == [1, 2, 3, 4]
    assert run.info()["best_epoch"] == 2


def test_without_validation_rows_the_last_epoch_is_kept(settings: dict[str, Any], tmp_path: Path):
    del settings["data.validation"]
    run = tomtat.finetune(settings=settings, out=tmp_path / "run")
    assert run.info()["best_epoch"] == 2


# --- stopping and going on


class StopAfter(Progress):
    """Presses Ctrl-C after some optimizer steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def task(self, name: str, total: int, unit: str = "examples", done: int = 0) -> Any:
        from contextlib import nullcontext

        def advance(count: int, figures: str = "") -> None:
            self.steps -= 1
            if self.steps == 0:
                os.kill(os.getpid(), signal.SIGINT)

        return nullcontext(advance)


@pytest.mark.parametrize("steps", [1, 3, 4])  # in the first epoch, at its last step, in the second
def test_ctrl_c_leaves_a_checkpoint_and_resuming_ends_like_an_unbroken_run(
    settings: dict[str, Any], tmp_path: Path, steps: int
):
    settings |= {"lora.dropout": 0.2}  # so that the state of the random numbers matters
    unbroken = tomtat.finetune(settings=settings, out=tmp_path / "unbroken")
    with pytest.raises(Interrupted, match="tomtat train --resume"):
        tomtat.finetune(settings=settings, out=tmp_path / "stopped", progress=StopAfter(steps))
    resumed = resume(tmp_path / "stopped")

    assert adapter(resumed) == adapter(unbroken)
    assert without_times(resumed.metrics()) == without_times(unbroken.metrics())


@pytest.mark.parametrize("lora", [{"lora.init": "pissa"}, {"train.method": "full"}], ids=str)
def test_resuming_works_for_other_ways_to_train(settings: dict[str, Any], tmp_path: Path, lora: dict[str, Any]):
    settings |= lora
    unbroken = tomtat.finetune(settings=settings, out=tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        tomtat.finetune(settings=settings, out=tmp_path / "stopped", progress=StopAfter(4))
    resumed = resume(tmp_path / "stopped")

    names = [path.name for path in unbroken.trained_path.glob("*.safetensors")]
    assert names
    for name in names:
        assert (resumed.trained_path / name).read_bytes() == (unbroken.trained_path / name).read_bytes()


def stopped_run(settings: dict[str, Any], path: Path, steps: int = 4) -> Path:
    with pytest.raises(Interrupted):
        tomtat.finetune(settings=settings, out=path, progress=StopAfter(steps))
    return path


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(settings: dict[str, Any], tmp_path: Path):
    unbroken = tomtat.finetune(settings=settings, out=tmp_path / "unbroken")
    path = stopped_run(settings, tmp_path / "stopped")
    older, newest = sorted((path / "checkpoints").glob("step-*"))
    content = bytearray((newest / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.pt").write_bytes(content)
    notes: list[str] = []

    class Listening(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    resumed = resume(path, Listening())
    assert any("damaged" in note and newest.name in note for note in notes)
    assert adapter(resumed) == adapter(unbroken)

    assert older.name == "step-00000003"


def test_resume_refuses_when_nothing_usable_is_left(settings: dict[str, Any], tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    for file in (path / "checkpoints").glob("*/state.pt"):
        file.write_bytes(b"")
    with pytest.raises(RunError, match="No usable checkpoint"):
        resume(path)


def test_resume_refuses_changed_data(settings: dict[str, Any], data: Path, tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    write_jsonl(data, [row | {"summary": "Something else."} for row in rows(12)])
    with pytest.raises(RunError, match=r"data of .* changed"):
        resume(path)


def test_resuming_a_finished_run_changes_nothing(settings: dict[str, Any], tmp_path: Path):
    run = tomtat.finetune(settings=settings, out=tmp_path / "run")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    resume(run.path)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_two_at_once_do_not_train_in_one_folder(settings: dict[str, Any], tmp_path: Path):
    path = stopped_run(settings, tmp_path / "stopped")
    with tomtat.RunFolder.open(path).training_lock(), pytest.raises(RunError, match="Another process is training"):
        resume(path)
    assert resume(path).info()["finished"]


def test_reading_a_run_never_disturbs_the_one_who_writes_it(settings: dict[str, Any], tmp_path: Path):
    run = tomtat.finetune(settings=settings, out=tmp_path / "run")
    run.adapter_path.rename(run.path / "adapter.old")  # between the two renames of a replacement
    (run.path / "adapter.new").mkdir()
    assert tomtat.RunFolder.open(run.path).trained_path.name == "adapter.old"
    assert (run.path / "adapter.new").exists()


def test_a_kill_before_the_first_checkpoint_starts_over(settings: dict[str, Any], tmp_path: Path):
    import shutil

    path = stopped_run(settings, tmp_path / "stopped", steps=1)
    shutil.rmtree(path / "checkpoints")
    unbroken = tomtat.finetune(settings=settings, out=tmp_path / "unbroken")
    assert without_times(resume(path).metrics()) == without_times(unbroken.metrics())


def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path: Path):
    from tomtat.files import recover_folder, replace_folder

    folder = tmp_path / "adapter"
    with replace_folder(folder) as new:
        (new / "a").write_text("old")
    folder.rename(tmp_path / "adapter.old")  # the kill comes between the two renames
    (tmp_path / "adapter.new").mkdir()
    recover_folder(folder)
    assert (folder / "a").read_text() == "old"
    with pytest.raises(OSError, match="disk full"), replace_folder(folder) as new:
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# --- refusals


def test_nothing_is_written_when_something_is_wrong(settings: dict[str, Any], tmp_path: Path):
    with pytest.raises(TomtatError):
        tomtat.finetune(settings=settings | {"lora.target": "wi"}, out=tmp_path / "run")
    with pytest.raises(ModelError, match=r"overflows|loss scaling"):
        tomtat.finetune(settings=settings | {"model.precision": "fp16"}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_never_overwritten(settings: dict[str, Any], tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        tomtat.finetune(settings=settings, out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_no_number_stops_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tomtat.models import SummarizerModel

    monkeypatch.setattr(SummarizerModel, "loss_sum", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(TomtatError, match=r"loss is nan near step 1.*learning_rate"):
        tomtat.finetune(settings=settings, out=tmp_path / "run")


def test_bad_rows_that_are_skipped_lie_in_the_rejects_file(settings: dict[str, Any], data: Path, tmp_path: Path):
    with data.open("a") as file:
        file.write('{"dialogue": "no summary"}\n')
    del settings["data.test"]
    run = tomtat.finetune(settings=settings | {"data.on_bad_row": "skip"}, out=tmp_path / "run")
    [reject] = [json.loads(line) for line in (run.path / "rejects.jsonl").read_text().splitlines()]
    assert "line 13" in reject["where"]
    assert "summary" in reject["reason"]
    assert run.info()["data"]["train_rows"] == 12


# --- trackers and several processes


def test_tensorboard_gets_the_curves(settings: dict[str, Any], tmp_path: Path):
    pytest.importorskip("tensorboard")
    run = tomtat.finetune(settings=settings | {"train.trackers": ["tensorboard"]}, out=tmp_path / "run")
    events = b"".join(path.read_bytes() for path in run.path.rglob("events.out.tfevents.*"))
    assert b"epoch/validation_loss" in events


def test_an_unknown_tracker_is_refused(settings: dict[str, Any], tmp_path: Path):
    with pytest.raises(TomtatError, match=r"train\.trackers"):
        tomtat.finetune(settings=settings | {"train.trackers": ["tensorbord"]}, out=tmp_path / "run")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_like_an_unbroken_one(tiny_llama: Path, data: Path, tmp_path: Path):
    settings = small_settings(tiny_llama, data) | {"train.epochs": 40, "lora.dropout": 0.1}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "tomtat.cli", "train", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "unbroken")], check=True, capture_output=True, env=environment)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL, env=environment
    )
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*/sha256")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    subprocess.run(
        [*command[:4], "--resume", str(tmp_path / "killed")], check=True, capture_output=True, env=environment
    )

    unbroken, killed = (tomtat.RunFolder.open(tmp_path / name) for name in ("unbroken", "killed"))
    assert adapter(killed) == adapter(unbroken)
    assert without_times(killed.metrics()) == without_times(unbroken.metrics())


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tiny_t5: Path, data: Path, tmp_path: Path):
    """The loss and the gradient of an effective batch do not depend on the number of processes."""
    settings = small_settings(tiny_t5, data)
    one = tomtat.finetune(settings=settings, out=tmp_path / "one")
    flags = as_flags(settings | {"model.device": "auto"})  # a CPU is found, and with it the other process
    two_processes.run("-m", "tomtat.cli", "train", *flags, "--out", tmp_path / "two")

    two = tomtat.RunFolder.open(tmp_path / "two")
    for ours, theirs in zip(one.metrics(), two.metrics(), strict=True):
        for name in {"loss", "grad_norm", "validation_loss"} & set(ours):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
