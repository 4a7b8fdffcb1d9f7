"""A decoder's steps by code of our own: they compute what Transformers' own modules compute."""

from typing import Any

import pytest
import torch
import transformers

from tiny_families import make_lively
from tomtat.models.attention import quick_attention
from tomtat.models.cache import GrowingLayer, keep_keys_in
from tomtat.models.int8 import quantize
from tomtat.models.lanes import CausalLanes, Lanes, Seq2SeqLanes
from tomtat.models.packed import pack
from tomtat.models.steps import causal_steps, seq2seq_steps

PAD = 0
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [20, 21, 22, 23, 24]]

CHAT = {
    "vocab_size": 80, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
}  # fmt: skip
CAUSAL: dict[str, dict[str, Any]] = {
    "Llama": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {},
}
T5 = {
    "vocab_size": 80, "d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 6,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
}  # fmt: skip
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "T5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "T5-relu": {"feed_forward_proj": "relu"},
    "MT5": {"feed_forward_proj": "gated-gelu"},
}


def network(name: str) -> Any:
    torch.manual_seed(0)
    kind = name.partition("-")[0]
    if name in CAUSAL:
        config = getattr(transformers, f"{kind}Config")(**CHAT | CAUSAL[name])
        made = getattr(transformers, f"{kind}ForCausalLM")(config)
    else:
        config = getattr(transformers, f"{kind}Config")(**T5 | SEQ2SEQ[name], decoder_start_token_id=PAD)
        made = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    make_lively(made)
    for parameter_name, parameter in made.named_parameters():
        if "norm" in parameter_name:
            parameter.data = torch.rand_like(parameter) + 0.5
        if parameter_name.endswith("bias"):
            parameter.data = torch.randn_like(parameter) * 0.3
    return made.eval().requires_grad_(False)


def start(made: Any, prompts: list[list[int]]) -> Any:
    if not made.config.is_encoder_decoder:
        return CausalLanes(made, prompts, PAD, None)
    mask = torch.tensor([[1] * len(prompt) + [0] * (7 - len(prompt)) for prompt in prompts]).bool()
    ids = torch.tensor([prompt + [PAD] * (7 - len(prompt)) for prompt in prompts])
    states = made.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return Seq2SeqLanes(made, states, mask, PAD)


def said(made: Any, own: bool) -> list[torch.Tensor]:
    """Logits of lanes that are of different ages, take guesses, leave and join, over more columns than room was."""

    def lanes_of(prompts: list[list[int]]) -> Lanes:
        lanes = start(made, prompts)
        assert lanes._steps is not None
        lanes._steps = lanes._steps if own else None
        return lanes  # type: ignore[no-any-return]

    found = []
    with torch.inference_mode(), quick_attention():
        lanes = lanes_of(PROMPTS)

        def advance(tokens: list[list[int]]) -> None:
            lanes.advance(tokens)
            found.append(torch.cat([row[: len(ids)] for row, ids in zip(lanes.logits, tokens, strict=True)]))

        advance([[30], [31], [32]])
        advance([[33, 34, 35], [36], [37, 38]])
        lanes.settle([2, 1, 1])
        advance([[40], [41], [42]])
        lanes.keep([0, 2])
        advance([[43], [44]])
        lanes.join(lanes_of([PROMPTS[1]]))
        for token in range(80):
            advance([[token], [token], [79 - token]])
        lanes.keep([2])
        for token in range(60):
            advance([[token]])
        if made.config.is_encoder_decoder:
            lanes.repeat(3)
            lanes.branch([1, 0, 0], 2)
            advance([[1], [2], [3]])
    return found


def error(rounded: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Share of what is said, over all of it."""
    parts = list(zip(rounded, exact, strict=True))
    return sum(float((one.float() - other).norm() / other.norm()) for one, other in parts) / len(parts)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
def test_steps_say_what_transformers_says(name: str, is_packed: bool):
    made = network(name)
    if is_packed:
        pack(made)
    for ours, theirs in zip(said(made, True), said(made, False), strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


ROUNDED = {
    "bf16": lambda made: made.to(torch.bfloat16),
    "bf16 keys": lambda made: keep_keys_in(made, torch.bfloat16),
    "8 bits": quantize,
}


@pytest.mark.parametrize("form", ROUNDED)
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "T5", "T5-relu"])
def test_rounded_steps_are_about_as_exact_as_transformers(name: str, form: str):
    if "bf16" in form and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bf16")
    made = network(name)
    exact = said(made, True)
    ROUNDED[form](made)
    assert 0 < error(said(made, True), exact) < 1.1 * error(said(made, False), exact) + 0.02


def test_steps_follow_adapters_that_change():
    made = network("Llama")
    pack(made)
    with torch.inference_mode(), quick_attention():
        lanes = start(made, PROMPTS)
        lanes.advance([[30], [31], [32]])
        before = lanes.logits.clone()
    with torch.no_grad():
        made.model.layers[1].self_attn.k_proj.weight.mul_(-1.0)
    with torch.inference_mode(), quick_attention():
        lanes = start(made, PROMPTS)
        lanes.advance([[30], [31], [32]])
        fresh = network("Llama")
        fresh.load_state_dict(made.state_dict())
        other = start(fresh, PROMPTS)
        other.advance([[30], [31], [32]])
    assert not torch.allclose(lanes.logits, before, atol=1e-3)
    torch.testing.assert_close(lanes.logits, other.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "T5"])
def test_candidates_of_one_prompt_step_over_its_one_copy(name: str):
    made = network(name)
    with torch.inference_mode(), quick_attention():
        shared, apart = start(made, PROMPTS), start(made, [prompt for prompt in PROMPTS for _ in range(3)])
        shared.repeat(3)
        assert shared._readers

        def step(token: int) -> None:
            for lanes in (shared, apart):
                lanes.advance([[token + lane] for lane in range(len(lanes))])
            torch.testing.assert_close(shared.logits, apart.logits, rtol=1e-4, atol=1e-4)

        for token in range(5):
            step(token)
        for lanes in (shared, apart):  # none of the first prompt's are left, one of the second's, all of the last's
            lanes.keep([8, 7, 6, 3])
            lanes.join(start(made, [PROMPTS[0]]))
        for token in range(5):
            step(token)
        more = start(made, PROMPTS[:2])
        more.repeat(2)
        shared.join(more)
        apart.join(start(made, [prompt for prompt in PROMPTS[:2] for _ in range(2)]))
        shared.branch([1, 1, 2, 3, 4, 5, 5, 7, 7], 1)
        apart.branch([1, 1, 2, 3, 4, 5, 5, 7, 7], 1)
        for token in range(5):
            step(token)


def test_candidates_of_an_encoder_decoder_take_guesses_over_one_source():
    made = network("T5")
    with torch.inference_mode(), quick_attention():
        shared, apart = start(made, PROMPTS[:1]), start(made, PROMPTS[:1] * 3)
        shared.repeat(3)
        for lanes in (shared, apart):
            lanes.advance([[1, 2, 3], [4], [5, 6]])
            lanes.settle([2, 1, 1])
            lanes.advance([[7], [8], [9]])
        torch.testing.assert_close(shared.logits, apart.logits, rtol=1e-4, atol=1e-4)
        assert [cross.keys.shape[0] for _, cross in shared._layers] == [1] * 3, "the source is there once"


def test_networks_of_other_kinds_go_their_own_way():
    gemma = transformers.GemmaForCausalLM(transformers.GemmaConfig(**CHAT))
    umt5 = transformers.UMT5ForConditionalGeneration(transformers.UMT5Config(**T5))
    assert causal_steps(gemma) is None
    assert seq2seq_steps(umt5) is None
    assert causal_steps(network("T5")) is None
    for home in ("modeling_llama", "llama.modeling_llama"):
        stranger = type("LlamaForCausalLM", (transformers.LlamaForCausalLM,), {"__module__": home})
        assert causal_steps(stranger(network("Llama").config)) is None
    hooked = network("Llama")
    hooked.model.layers[1].register_forward_pre_hook(lambda module, inputs: None)
    assert causal_steps(hooked) is None, "whoever hooks in wants to be called"


@pytest.mark.parametrize("saved", [["lm_head"], ["lm_head", "embed_tokens"], ["norm"], ["mlp"], ["self_attn"]])
def test_what_an_adapter_has_whole_is_the_adapters(saved: list[str]):
    from peft import LoraConfig, get_peft_model

    made = network("Llama")
    pack(made)
    start(made, PROMPTS)  # runs once in its packed form
    target = "down_proj" if saved == ["self_attn"] else "q_proj"
    tuned = get_peft_model(made, LoraConfig(r=2, target_modules=[target], modules_to_save=saved))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(-2.0)
    made.eval().requires_grad_(False)
    assert (causal_steps(made) is None) == (saved[0] != "lm_head")
    with torch.inference_mode(), quick_attention():
        lanes, plain = start(made, PROMPTS), start(made, PROMPTS)
        plain._steps = None
        for one in (lanes, plain):
            one.advance([[30], [31], [32]])
        torch.testing.assert_close(lanes.logits, plain.logits, rtol=1e-4, atol=1e-4)
        untuned = network("Llama")
        other = start(untuned, PROMPTS)
        other.advance([[30], [31], [32]])
        assert not torch.allclose(lanes.logits, other.logits, rtol=1e-2, atol=1e-2)


def test_what_lies_in_the_room_behind_is_never_read():
    layer = GrowingLayer()
    one = torch.ones(2, 3, 5, 8)
    keys, values = layer.write(one, one)
    assert keys.shape[2] == layer.room_for(0) > 5
    assert keys.is_contiguous()
    assert not keys[:, :, 5:].any()
    assert not values[:, :, 5:].any()
    layer.trim(2, 5)
    assert layer.room_for(1) == 4 + 64, "what is left moves into a room of its own"
    keys, _ = layer.write(one[:, :, :1], one[:, :, :1])
    assert keys.is_contiguous()
    assert keys.shape[2] == 4 + 64
    assert keys[:, :, :4].all()
    assert not keys[:, :, 4:].any()
