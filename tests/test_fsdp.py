"""`accelerate launch --use_fsdp`: the same results, with a share of the frozen weights in each process."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import tomtat
import two_processes
from conftest import as_flags, rows, small_settings, write_jsonl
from test_training import adapter, without_times
from tiny_families import FAMILIES, save_family
from tomtat.config import LoraSettings, ModelSettings, PromptSettings, TrainSettings
from tomtat.engines.torch_engine import TorchEngine
from tomtat.errors import ConfigError, ModelError
from tomtat.models import Decoding, Encoded, SummarizerModel, load_base
from tomtat.models.adapters import prepare_training, trainable_state
from tomtat.models.fused import fused_lora
from tomtat.models.shards import Shards, share_out

ROWS = [Encoded([5, 6, 7, 8, 1], [9, 10, 1]), Encoded([11, 12, 1], [13, 1])]

# --- what is asked for and not done


@pytest.mark.parametrize(
    ("variables", "settings", "told"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "asks for DeepSpeed, which tomtat does not do"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "asks for Megatron-LM, which tomtat does not do"),
        ({"ACCELERATE_USE_FSDP": "true"}, {"train.method": "full"}, "FSDP, which shares out what is frozen"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params = true"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "NO_SHARD"},
            {},
            "fsdp_sharding_strategy = NO_SHARD",
        ),
    ],
)
def test_a_launch_that_asks_for_more_is_refused(
    variables: dict[str, str],
    settings: dict[str, Any],
    told: str,
    tiny_t5: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        tomtat.finetune(settings=small_settings(tiny_t5, data) | settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_process_keeps_all(tiny_t5: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = small_settings(tiny_t5, data) | {"train.epochs": 1}
    plain = tomtat.finetune(settings=settings, out=tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # without a GPU, Accelerate itself would not start with it
    assert adapter(tomtat.finetune(settings=settings, out=tmp_path / "fsdp")) == adapter(plain)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"


# --- in one process that gathers from itself


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def to_train(path: Path, target: str) -> SummarizerModel:
    torch.manual_seed(0)
    model = load_base(ModelSettings(name=str(path)), PromptSettings())
    lora = LoraSettings(rank=2, alpha=2.0, target=target, init=False)
    prepare_training(model, lora, TrainSettings())
    return model


def gradients(model: SummarizerModel) -> list[torch.Tensor]:
    model.loss_sum(ROWS).backward()
    return [weight.grad for weight in trainable_state(model.network).values()]


def bytes_held(model: SummarizerModel) -> int:
    frozen = [weight for weight in model.network.parameters() if not weight.requires_grad and weight.ndim > 1]
    return sum({part._cdata: part.nbytes() for part in (weight.untyped_storage() for weight in frozen)}.values())


@pytest.mark.parametrize("layers", [nullcontext, fused_lora])
@pytest.mark.parametrize(("family", "target"), [("t5", "decoder + lm_head"), ("llama", "all-linear")])
def test_gradients_go_through_weights_that_come_and_go(
    family: str, target: str, layers: Callable[[Any], Any], tiny_t5: Path, tiny_llama: Path, alone: None
):
    path = {"t5": tiny_t5, "llama": tiny_llama}[family]
    plain, model = to_train(path, target), to_train(path, target)
    with layers(plain.network):
        expected = gradients(plain)
    shards = Shards(model.network, torch.device("cpu"))
    assert bytes_held(model) == 0
    with shards.together(), layers(model.network):
        found = gradients(model)
        assert 0 < bytes_held(model) < shards.whole_bytes / 2  # one layer
    assert bytes_held(model) == 0
    assert all(gradient.norm() > 0 for gradient in found)
    assert all(map(torch.equal, expected, found))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_reads_its_weights_where_they_are_gathered(family: str, tmp_path: Path, alone: None):
    plain, model = (to_train(save_family(family, tmp_path / family), "all-linear") for _ in range(2))
    rows = [plain.encode("room four is painted " * 4, "They moved.", 100)]
    shards = share_out(model.network, torch.device("cpu"), lambda: model.loss_sum(rows), family)
    decoding = Decoding(max_new_tokens=4)
    with shards.together():
        found = TorchEngine(model).candidates(rows, decoding)
    assert found == TorchEngine(plain).candidates(rows, decoding)


def test_weights_elsewhere_are_not_read_by_mistake(tiny_llama: Path, alone: None):
    model = to_train(tiny_llama, "all-linear")
    Shards(model.network, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="outside of together"):
        model.loss_sum(ROWS)


def test_a_network_that_reads_weights_elsewhere_is_refused(
    tiny_llama: Path, alone: None, monkeypatch: pytest.MonkeyPatch
):
    model = to_train(tiny_llama, "all-linear")
    monkeypatch.setattr(Shards, "_watch", lambda *_: None)  # as where no module is called that one could watch
    with pytest.raises(ModelError, match="reads weights outside of the layers"):
        share_out(model.network, torch.device("cpu"), lambda: model.loss_sum(ROWS), "tiny")


# --- in two processes


@pytest.fixture(scope="module")
def runs(tiny_t5: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Settings by name, and the folder with each run, once under FSDP and once with whole weights in both processes."""
    folder = tmp_path_factory.mktemp("fsdp")
    data = write_jsonl(folder / "data.jsonl", rows(7))
    # Three rows a step and a small budget: the processes have one and two micro-batches, other rows that are not yet
    # in the cache, and summaries of other lengths.
    small = {"train.batch_size": 3, "train.micro_batch_tokens": 120, "data.validation": f"{data}[:3]"}
    t5, llama = (small_settings(model, data) | small for model in (tiny_t5, tiny_llama))
    settings = {
        "t5": t5 | {"lora.target": "decoder", "train.choose_by": "rouge"},
        "llama": llama | {"lora.target": "top-2", "lora.dropout": 0.1, "train.epochs": 4},
        "bf16": llama | {"model.precision": "bf16", "lora.init": "pissa"},
    }
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    two_processes.run(Path(__file__).with_name("fsdp_runs.py"), file, way="--use_fsdp")
    return settings, folder


@pytest.mark.slow
def test_a_run_is_the_same_to_the_byte_and_each_process_holds_half(runs: tuple[dict[str, Any], Path]):
    settings, folder = runs
    for name in settings:
        sharded, whole = (tomtat.RunFolder.open(folder / f"{name}-{way}") for way in ("fsdp", "whole"))
        assert adapter(sharded) == adapter(whole)
        assert without_times(sharded.metrics()) == without_times(whole.metrics())
    for rank in (0, 1):
        held = json.loads((folder / f"memory-{rank}.json").read_text())
        for name in settings:
            assert held[f"{name}-fsdp-{rank}"] == pytest.approx(0.5, abs=0.02)
            assert held[f"{name}-whole-{rank}"] == 1


@pytest.mark.slow
def test_a_run_killed_under_fsdp_goes_on_to_the_same_bytes(runs: tuple[dict[str, Any], Path], tmp_path: Path):
    settings, folder = runs
    flags = ["-m", "tomtat.cli", "train", *as_flags(settings["llama"]), "--out", tmp_path / "killed"]
    command, environment = two_processes.command(*flags, way="--use_fsdp"), two_processes.environment()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*/sha256")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not tomtat.RunFolder.open(tmp_path / "killed").info()["finished"]
    two_processes.run("-m", "tomtat.cli", "train", "--resume", tmp_path / "killed", way="--use_fsdp")

    unbroken, killed = (tomtat.RunFolder.open(path) for path in (folder / "llama-fsdp", tmp_path / "killed"))
    assert adapter(killed) == adapter(unbroken)
    assert without_times(killed.metrics()) == without_times(unbroken.metrics())
