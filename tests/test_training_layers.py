from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from test_frozen_cache import encoded, prepared, tiny_bart  # noqa: F401
from tomtat.config import LoraSettings, ModelSettings, PromptSettings, TrainSettings
from tomtat.models import attention, load_base
from tomtat.models.adapters import prepare_training, trainable_state
from tomtat.models.attention import quick_attention
from tomtat.models.base import Encoded, SummarizerModel
from tomtat.models.dropout import quick_dropout
from tomtat.models.fused import fused_lora
from tomtat.models.precision import cast_parameters
from tomtat.models.quick_layers import quick_layers


class Layer:
    is_causal = True
    num_key_value_groups = 3


def as_heads(heads: int) -> torch.Tensor:
    return torch.randn(2, 30, heads, 16).transpose(1, 2).requires_grad_()


MASK = torch.ones(2, 1, 30, 30, dtype=torch.bool).tril()
MASK[1, :, 6:, 5] = False


@pytest.mark.parametrize(("held", "at_once"), [(1 << 23, 64), (1, 64), (1 << 23, 8), (1, 7)])
@pytest.mark.parametrize(
    ("mask", "options"),
    [(None, {}), (MASK, {}), (None, {"is_causal": False}), (None, {"position_bias": torch.randn(1, 9, 30, 30)}),
     (MASK, {"position_bias": torch.randn(1, 9, 30, 30), "scaling": 1.0})],
)  # fmt: skip
def test_attention_by_products_is_attention(
    mask: torch.Tensor | None, options: dict[str, Any], held: int, at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "HELD", held)
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    torch.manual_seed(0)
    parts = [as_heads(9), as_heads(3), as_heads(3)]
    wanted, _ = sdpa_attention_forward(Layer(), *parts, mask, **options)  # type: ignore[arg-type]
    found = attention._attend(Layer(), *parts, mask, **options)
    assert torch.allclose(found, wanted, atol=1e-5)
    direction = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(found, parts, direction), torch.autograd.grad(wanted, parts, direction), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("at_once", [64, 3])
def test_attention_with_dropout_has_the_gradient_of_what_it_did(at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    torch.manual_seed(0)
    parts = [part.detach().double().requires_grad_() for part in (as_heads(3), as_heads(3), as_heads(3))]

    def attend(*parts: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return attention._attend(Layer(), *parts, None, dropout=0.3)

    assert torch.autograd.gradcheck(attend, [part[:1, :, :4, :3].detach().requires_grad_() for part in parts])


def test_quick_dropout_keeps_the_mean_and_the_rate_and_only_in_training():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Dropout(0.1))
    values = torch.ones(1000, 301, requires_grad=True)
    with quick_dropout(network):
        dropped = network(values)
        [gradient] = torch.autograd.grad(dropped.sum(), values)
        network.eval()
        assert torch.equal(network(values), values)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert dropped.mean().item() == pytest.approx(1, abs=0.002)
    assert torch.equal(gradient, dropped)
    # Neighbours, and places four apart, which share a number, are dropped independently.
    for distance in (1, 2, 4):
        both = (dropped.flatten()[distance:] == 0) & (dropped.flatten()[:-distance] == 0)
        assert float(both.float().mean()) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_bart", "tiny_llama"])
def test_in_bf16_a_network_says_nearly_the_same_with_quick_attention(name: str, request: pytest.FixtureRequest):
    model = prepared(request.getfixturevalue(name), "all-linear")
    cast_parameters(model.network, torch.bfloat16)
    rows = encoded(model)
    usual = model.loss_sum(rows).item()
    with quick_attention():
        quick = model.loss_sum(rows).item()
    assert quick == pytest.approx(usual, rel=5e-3)
    assert quick != usual or name == "tiny_t5"
    assert model.loss_sum(rows).item() == usual


@pytest.mark.parametrize("heads", [(6, 6), (6, 2)], ids=["own-keys", "shared-keys"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_one_token_looks_back_as_transformers_has_it(
    heads: tuple[int, int], dtype: torch.dtype, with_mask: bool, with_bias: bool
):
    torch.manual_seed(0)
    module = SimpleNamespace(num_key_value_groups=heads[0] // heads[1], is_causal=True, training=False)
    query = torch.randn(3, heads[0], 1, 16).to(dtype)
    key, value = (torch.randn(3, heads[1], 40, 16).to(dtype) for _ in range(2))
    mask = torch.ones(3, 1, 1, 40, dtype=torch.bool)
    mask[1, ..., :7] = False
    options = {"scaling": 0.3}
    if with_bias:
        options["position_bias"] = torch.randn(1, heads[0], 1, 40).to(dtype)
    arguments = (module, query, key, value, mask if with_mask else None)

    with torch.inference_mode():
        usual, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](*arguments, **options)
        with quick_attention():
            quick, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](*arguments, **options)

    assert quick.dtype == dtype
    assert quick.shape == usual.shape
    torch.testing.assert_close(quick, usual, **({"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}))


@pytest.mark.parametrize("tokens", [1, 5, 30])
@pytest.mark.parametrize("heads", [(6, 6), (6, 2)], ids=["own-keys", "shared-keys"])
@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_keys_in_bf16_are_looked_at_in_bf16(
    tokens: int, heads: tuple[int, int], with_mask: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "AT_ONCE", 8)
    torch.manual_seed(0)
    module = SimpleNamespace(num_key_value_groups=heads[0] // heads[1], is_causal=True, training=False)
    query = torch.randn(3, heads[0], tokens, 16)
    key, value = (torch.randn(3, heads[1], 64, 16)[:, :, :30].bfloat16() for _ in range(2))
    mask = torch.ones(3, 1, tokens, 30, dtype=torch.bool).tril(30 - tokens)
    mask[1, ..., : 31 - tokens] &= torch.arange(31 - tokens) >= 7  # padding on the left
    options = {"scaling": 0.3, "is_causal": False}
    if with_bias:
        options["position_bias"] = torch.randn(1, heads[0], tokens, 30)
    shared = (mask if with_mask else None,)

    with torch.inference_mode():
        usual, _ = sdpa_attention_forward(module, query, key.float(), value.float(), *shared, **options)
        with quick_attention():
            quick, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, *shared, **options)

    seen = mask.any(-1)[:, 0] if with_mask else torch.ones(3, tokens, dtype=torch.bool)
    assert quick.dtype == torch.float32
    torch.testing.assert_close(quick[seen], usual[seen], rtol=2e-2, atol=2e-2)


def test_blocks_leave_out_what_nobody_sees_and_know_what_all_see():
    mask = torch.ones(2, 1, 130, 150, dtype=torch.bool).tril(20)
    assert [tuple(block[:3]) for block in attention._blocks_of(mask.flatten(0, 1))] == [
        (slice(0, 64), slice(0, 84), 21), (slice(64, 128), slice(0, 148), 85), (slice(128, 130), slice(0, 150), 149),
    ]  # fmt: skip
    mask[1, ..., :3] = False
    assert [block.all_see for block in attention._blocks_of(mask.flatten(0, 1))] == [0, 0, 0]


@pytest.mark.parametrize("padding", [0, 5])
def test_a_mask_read_in_blocks_changes_nothing(padding: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "AT_ONCE", 7)
    torch.manual_seed(0)
    parts = [as_heads(heads).detach() for heads in (9, 3, 3)]
    parts[0] = parts[0][:, :, 10:]
    mask = torch.ones(2, 1, 20, 30, dtype=torch.bool).tril(10)
    mask[1, ..., :padding] = False
    with torch.no_grad():
        wanted, _ = sdpa_attention_forward(Layer(), *parts, mask)
        found = attention._attend(Layer(), *parts, mask)
        again = attention._attend(Layer(), *parts, mask)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, found)


def test_quick_attention_goes_when_the_last_one_leaves_it():
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with quick_attention():
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: _within_for_a_moment(), range(200)))
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not usual
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is usual


def _within_for_a_moment() -> None:
    with quick_attention():
        pass


def loss_and_gradients(model: SummarizerModel, rows: list[Encoded]) -> tuple[float, list[torch.Tensor]]:
    model.network.zero_grad()
    loss = model.loss_sum(rows)
    loss.backward()
    return loss.item(), [weight.grad.clone() for weight in trainable_state(model.network).values()]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_llama"])
def test_quick_norms_and_activations_have_the_same_loss_and_gradients(name: str, request: pytest.FixtureRequest):
    model = prepared(request.getfixturevalue(name), "all-linear")
    rows = encoded(model)

    before = {id(module): module.forward for module in model.network.modules()}
    loss, gradients = loss_and_gradients(model, rows)
    with quick_layers(model.network):
        changed = {type(module).__name__ for module in model.network.modules() if "forward" in module.__dict__}
        quick_loss, quick_gradients = loss_and_gradients(model, rows)
    assert {"tiny_t5": {"T5LayerNorm", "NewGELUActivation"}, "tiny_llama": {"LlamaRMSNorm"}}[name] <= changed
    assert {id(module): module.forward for module in model.network.modules()} == before
    assert quick_loss == pytest.approx(loss, rel=1e-6)
    for quick, gradient in zip(quick_gradients, gradients, strict=True):
        assert float((quick - gradient).norm()) < 1e-5 * float(gradient.norm()) + 1e-7


def test_quick_layers_within_others_leave_those_alone(tiny_t5: Path):
    network = load_base(ModelSettings(name=str(tiny_t5)), PromptSettings()).network.requires_grad_(False)

    def quick() -> int:
        return sum("forward" in module.__dict__ for module in network.modules())

    with quick_layers(network):
        outer = quick()
        with quick_layers(network.get_encoder()):
            assert quick() == outer > 0
        assert quick() == outer
    assert quick() == 0


def test_a_norm_that_trains_or_is_of_another_kind_is_left_alone(tiny_llama: Path):
    model = load_base(ModelSettings(name=str(tiny_llama)), PromptSettings())
    for parameter in model.network.parameters():
        parameter.requires_grad_(True)
    with quick_layers(model.network):
        assert not [module for module in model.network.modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_bart", "tiny_llama"])
def test_fused_layers_have_pefts_loss_and_gradients(name: str, request: pytest.FixtureRequest):
    model = prepared(request.getfixturevalue(name), "all-linear")
    rows = encoded(model)

    loss, gradients = loss_and_gradients(model, rows)
    with fused_lora(model.network):
        fused_loss, fused_gradients = loss_and_gradients(model, rows)
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    for fused, gradient in zip(fused_gradients, gradients, strict=True):
        assert float((fused - gradient).norm()) < 1e-5 * float(gradient.norm()) + 1e-7


@pytest.mark.parametrize(
    ("lora", "fused"),
    [({}, True), ({"dropout": 0.1}, False), ({"use_dora": True}, False), ({"options": {"lora_bias": True}}, False)],
    ids=str,
)
def test_what_is_not_plain_lora_is_left_to_peft(tiny_llama: Path, lora: dict[str, Any], fused: bool):
    model = load_base(ModelSettings(name=str(tiny_llama)), PromptSettings())
    prepare_training(model, LoraSettings(**lora), TrainSettings())
    with fused_lora(model.network):
        assert any("forward" in module.__dict__ for module in model.network.modules()) == fused
    assert not any("forward" in module.__dict__ for module in model.network.modules())
