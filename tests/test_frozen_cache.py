import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import tomtat
from conftest import byte_tokenizer, small_settings
from test_training import StopAfter, adapter, without_times
from tomtat.config import LoraSettings, ModelSettings, PromptSettings, TrainSettings
from tomtat.errors import Interrupted
from tomtat.models import Encoded, SummarizerModel, load_base
from tomtat.models.adapters import prepare_training, trainable_state
from tomtat.models.frozen import FrozenPart, frozen_part
from tomtat.models.head_loss import head_loss
from tomtat.progress import Progress
from tomtat.training import cache, resume
from tomtat.training.cache import FrozenStates, StateFiles, make_room, open_states


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    special = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}
    tokenizer = byte_tokenizer(special, None, "</s>")
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, dropout=0.0, pad_token_id=0, eos_token_id=1,
        bos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-bart"
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CUTS = [("tiny_t5", "decoder"), ("tiny_t5", "top-1"), ("tiny_bart", "decoder"), ("tiny_bart", "top-1"),
        ("tiny_llama", "top-2"), ("tiny_llama", "top-1")]  # fmt: skip


def prepared(path: Path, target: str, **train: Any) -> SummarizerModel:
    """With an adapter that already says something, so that its first gradients are not zero."""
    model = load_base(ModelSettings(name=str(path)), PromptSettings())
    prepare_training(model, LoraSettings(rank=4, target=target), TrainSettings(**train))
    torch.manual_seed(1)
    for weight in trainable_state(model.network).values():
        weight.data.normal_(std=0.1)
    return model


def encoded(model: SummarizerModel) -> list[Encoded]:
    texts = ["room four is painted", "can we meet on friday? " * 5, "Nina is ill"]
    return [model.encode(text, "They meet on friday.", 64) for text in texts]


def part_of(model: SummarizerModel) -> FrozenPart:
    part = frozen_part(model.network)
    assert part is not None
    return part


@pytest.mark.parametrize(("name", "target"), CUTS)
def test_from_the_boundary_loss_and_gradients_are_those_of_the_whole_network(
    name: str, target: str, request: pytest.FixtureRequest
):
    model = prepared(request.getfixturevalue(name), target)
    rows = encoded(model)
    states = FrozenStates(model, part_of(model), None)

    def loss_and_gradient(*below: Any) -> tuple[float, torch.Tensor]:
        model.network.zero_grad()
        loss = model.loss_sum(rows, *below)
        loss.backward()
        gradients = [weight.grad.flatten() for weight in trainable_state(model.network).values()]  # type: ignore[union-attr]
        return loss.item(), torch.cat(gradients)

    loss, gradient = loss_and_gradient()
    from_states, its_gradient = loss_and_gradient(states.of(rows))

    assert from_states == pytest.approx(loss, rel=1e-3)  # states are rounded to bf16
    assert float((its_gradient - gradient).norm()) < 0.02 * float(gradient.norm())
    assert float(gradient.norm()) > 0.1


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [("tiny_t5", "decoder", "all of the encoder"), ("tiny_t5", "all-linear", None), ("tiny_t5", "top-1", "1 of 2"),
     ("tiny_llama", "top-1", "2 of 3"), ("tiny_llama", "all-linear", None), ("tiny_llama", "lm_head", "2 of 3")],
)  # fmt: skip
def test_the_frozen_part_ends_below_the_lowest_trained_weight(
    name: str, target: str, expected: str | None, request: pytest.FixtureRequest
):
    part = frozen_part(prepared(request.getfixturevalue(name), target).network)
    assert (part is None) if expected is None else str(part).startswith(expected)


def test_nothing_is_frozen_where_embeddings_train(tiny_llama: Path):
    model = load_base(ModelSettings(name=str(tiny_llama)), PromptSettings())
    prepare_training(model, LoraSettings(), TrainSettings(method="full", freeze=["bottom-2"]))
    assert frozen_part(model.network) is None


def test_frozen_parts_run_without_dropout(tiny_t5: Path):
    model = prepared(tiny_t5, "decoder")
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.network.train()
    part = part_of(model)
    assert torch.equal(part.states([5, 6, 7]), part.states([5, 6, 7]))
    assert model.network.training


# --- files


def files_of(model: SummarizerModel, folder: Path) -> FrozenStates:
    part = part_of(model)
    files = StateFiles(folder, part.width)
    files.refresh()
    return FrozenStates(model, part, files)


def test_what_one_computed_the_next_reads_to_the_bit(tiny_llama: Path, tmp_path: Path):
    model = prepared(tiny_llama, "top-1")
    rows = encoded(model)
    first, second = files_of(model, tmp_path), files_of(model, tmp_path)
    made = first.of(rows)  # while the second has looked already
    read = second.of(rows)
    assert (first.computed, second.computed) == (3, 0)
    assert torch.equal(made.states, read.states)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.states")) == sum(map(len, rows)) * 32 * 2 - 3 * 64


@pytest.mark.parametrize("damage", ["flipped", "cut", "index cut", "index flipped"])
def test_a_damaged_entry_is_computed_again_and_never_used(tiny_t5: Path, tmp_path: Path, damage: str):
    model = prepared(tiny_t5, "decoder")
    rows = encoded(model)
    whole = files_of(model, tmp_path).of(rows)
    [path] = tmp_path.glob("*.index" if "index" in damage else "*.states")
    content = bytearray(path.read_bytes())
    if damage.endswith("flipped"):
        content[10] ^= 1
    path.write_bytes(content[:-1] if damage.endswith("cut") else content)

    again = files_of(model, tmp_path)
    assert torch.equal(again.of(rows).states, whole.states)
    assert again.computed == 1
    third = files_of(model, tmp_path)
    assert torch.equal(third.of(rows).states, whole.states)
    assert third.computed == 0


def test_other_weights_below_are_another_key_and_other_adapters_the_same(tiny_t5: Path, tiny_tied_t5: Path):
    decoder = part_of(prepared(tiny_t5, "decoder")).key()
    assert decoder == part_of(prepared(tiny_t5, "decoder attention")).key()
    changed = prepared(tiny_t5, "decoder")
    with torch.no_grad():
        changed.network.get_encoder().block[0].layer[0].SelfAttention.q.weight[0, 0] += 1
    assert part_of(changed).key() != decoder


def test_what_was_used_longest_ago_makes_room(tmp_path: Path):
    for name, age in (("a/old", 30), ("a/new", 10), ("b/wanted", 40)):
        path = tmp_path / f"{name}.states"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        path.with_suffix(".index").write_bytes(b"")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert make_room(tmp_path, {tmp_path / "b/wanted.states"}, 100, 300) == 100
    assert sorted(path.name for path in tmp_path.rglob("*.states")) == ["new.states", "wanted.states"]


# --- runs


class Listening(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(params=[("tiny_t5", "decoder"), ("tiny_llama", "top-1")], ids=["t5", "llama"])
def frozen_settings(request: pytest.FixtureRequest, data: Path) -> dict[str, Any]:
    name, target = request.param
    return small_settings(request.getfixturevalue(name), data) | {"lora.target": target, "lora.dropout": 0.2}


def test_a_run_is_the_same_with_its_cache_without_it_and_with_one_that_is_full(
    frozen_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(name: str, **more: Any) -> tuple[bytes, list[str]]:
        listening = Listening()
        settings = frozen_settings | {f"train.{key}": value for key, value in more.items()}
        return adapter(tomtat.finetune(settings=settings, out=tmp_path / name, progress=listening)), listening.notes

    kept, notes = run("kept")
    assert any("frozen" in note and "MB" in note and "kept in" in note for note in notes)
    assert run("again")[0] == kept
    assert run("off", cache="off")[0] == kept
    small, notes = run("small", cache_gigabytes=1e-6)
    assert small == kept
    assert any("anew in each epoch, because train.cache_gigabytes is 1e-06" in note for note in notes)
    monkeypatch.setenv("TOMTAT_STATES", str(tmp_path / "other"))
    monkeypatch.setattr(cache, "_free", lambda _: 0)
    full, notes = run("full")
    assert full == kept
    assert any("left, and" in note for note in notes)


def test_a_stopped_run_ends_the_same_whatever_became_of_its_cache(
    frozen_settings: dict[str, Any], tmp_path: Path, states_of_frozen_parts: Path
):
    unbroken = tomtat.finetune(settings=frozen_settings, out=tmp_path / "unbroken")
    for path in states_of_frozen_parts.rglob("*.states"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Interrupted):
        tomtat.finetune(settings=frozen_settings, out=tmp_path / "stopped", progress=StopAfter(2))
    for path in states_of_frozen_parts.rglob("*.index"):
        path.unlink()
    resumed = resume(tmp_path / "stopped")
    assert adapter(resumed) == adapter(unbroken)
    assert without_times(resumed.metrics()) == without_times(unbroken.metrics())


def test_a_disk_that_fills_up_ends_the_keeping_and_not_the_training(
    frozen_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unbroken = tomtat.finetune(settings=frozen_settings, out=tmp_path / "unbroken")
    monkeypatch.setenv("TOMTAT_STATES", str(tmp_path / "other"))
    opened = StateFiles._open_own

    def on_a_full_disk(self: StateFiles) -> Any:
        _, index, reading = opened(self)
        full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
        self._own = full, index, reading
        return self._own

    monkeypatch.setattr(StateFiles, "_open_own", on_a_full_disk)
    assert adapter(tomtat.finetune(settings=frozen_settings, out=tmp_path / "full")) == adapter(unbroken)


def test_one_epoch_keeps_nothing_unless_told(tiny_t5: Path, states_of_frozen_parts: Path):
    model = prepared(tiny_t5, "decoder")
    open_states(model, [encoded(model)], TrainSettings(epochs=1), Progress())
    assert not states_of_frozen_parts.exists()
    open_states(model, [encoded(model)], TrainSettings(epochs=1, cache="on"), Progress())
    assert states_of_frozen_parts.exists()


def test_a_family_that_cannot_be_cut_is_run_whole(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = prepared(tiny_llama, "top-1")
    states = FrozenPart.states
    monkeypatch.setattr(FrozenPart, "states", lambda self, ids: 2 * states(self, ids).flip(0))
    assert open_states(model, [encoded(model)], TrainSettings(), Progress()) is None


# --- the head


@pytest.mark.parametrize("trains", [False, True])
def test_the_heads_loss_in_parts_is_that_of_all_logits(trains: bool, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=False).requires_grad_(trains)
    hidden, labels, bias = torch.randn(7, 8, requires_grad=True), torch.randint(50, (7,)), torch.randn(1, 50)
    expected = F.cross_entropy(head(hidden) + bias, labels, reduction="sum")
    wanted = torch.autograd.grad(3 * expected, [hidden, *([head.weight] if trains else [])])

    monkeypatch.setattr("tomtat.models.head_loss.TOKENS_AT_LEAST", 2)
    monkeypatch.setattr("tomtat.models.head_loss.LOGITS_AT_ONCE", 100)
    loss = head_loss(hidden, labels, head, bias)
    found = torch.autograd.grad(3 * loss, [hidden, *([head.weight] if trains else [])])

    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
