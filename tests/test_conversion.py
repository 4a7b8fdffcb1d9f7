import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tomtat.errors import ModelError
from tomtat.models.conversion import TOLERANCE, convert_to_ctranslate2

ctranslate2 = pytest.importorskip("ctranslate2", reason="needs the extra ctranslate2")


@pytest.fixture(params=["t5", "tied_t5", "llama"])
def model(request: pytest.FixtureRequest, tiny_t5: Path, tiny_tied_t5: Path, tiny_llama: Path) -> Path:
    return {"t5": tiny_t5, "tied_t5": tiny_tied_t5, "llama": tiny_llama}[request.param]


def test_log_probabilities_are_those_of_transformers(model: Path, tmp_path: Path):
    assert convert_to_ctranslate2(model, tmp_path / "ct2").largest_difference < TOLERANCE / 10


def flan_like(tiny_t5: Path, folder: Path) -> Path:
    """FLAN-T5's files say tie_word_embeddings = false, which Transformers reads as: logits are not scaled."""
    shutil.copytree(tiny_t5, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return folder


def test_the_logits_of_a_flan_t5_are_not_scaled(tiny_t5: Path, tmp_path: Path):
    flan = flan_like(tiny_t5, tmp_path / "flan")
    assert convert_to_ctranslate2(flan, tmp_path / "ct2").largest_difference < TOLERANCE / 10


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_a_conversion_that_computes_something_else_is_refused(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
):
    from ctranslate2.converters.transformers import T5Loader

    original = T5Loader.get_model_spec

    def as_ctranslate2_does_it(self: Any, model: Any) -> Any:
        model.config.tie_word_embeddings = True
        return original(self, model)

    monkeypatch.setattr(T5Loader, "get_model_spec", as_ctranslate2_does_it)
    with pytest.raises(ModelError, match=r"does not compute T5ForConditionalGeneration .* --to merged"):
        convert_to_ctranslate2(flan_like(tiny_t5, tmp_path / "flan"), tmp_path / "ct2", quantization)
    assert [path.name for path in tmp_path.iterdir()] == ["flan"]


def test_rope_parameters_are_read(tiny_llama: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(tiny_llama)
    network.config.rope_parameters = {"rope_type": "default", "rope_theta": 77.0}
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    network.save_pretrained(folder)
    assert convert_to_ctranslate2(folder, tmp_path / "ct2").largest_difference < TOLERANCE / 10


def test_a_vocabulary_may_be_padded_beyond_the_tokenizer(model: Path, tmp_path: Path):
    from tomtat.models.loading import load_plain

    network, tokenizer = load_plain(model)
    network.resize_token_embeddings(len(tokenizer) + 13, mean_resizing=False)
    folder = shutil.copytree(model, tmp_path / "model")
    network.save_pretrained(folder)
    assert convert_to_ctranslate2(folder, tmp_path / "ct2").largest_difference < TOLERANCE / 10


def test_int8_is_told_and_not_refused(model: Path, tmp_path: Path):
    assert convert_to_ctranslate2(model, tmp_path / "ct2", "int8").largest_difference > 0


def test_tokenizer_and_trained_info_travel_along(model: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "tomtat.json").write_text("{}")
    convert_to_ctranslate2(folder, tmp_path / "ct2")
    here, there = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(tmp_path / "ct2")

    assert (tmp_path / "ct2" / "tomtat.json").read_text() == "{}"
    assert there.get_vocab() == here.get_vocab()
    assert (there.chat_template, there.eos_token) == (here.chat_template, here.eos_token)
    assert json.loads((tmp_path / "ct2" / "config.json").read_text())["eos_token"] == here.eos_token


@pytest.mark.parametrize(("quantization", "message"), [("int4", "no quantization"), ("float32", "exists already")])
def test_impossible_conversions_are_refused(tiny_t5: Path, tmp_path: Path, quantization: str, message: str):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ModelError, match=message):
        convert_to_ctranslate2(tiny_t5, tmp_path / "taken", quantization)


def test_an_architecture_without_a_converter_is_refused(tiny_llama: Path, tmp_path: Path):
    from transformers import OlmoConfig, OlmoForCausalLM

    config = OlmoConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    folder = shutil.copytree(tiny_llama, tmp_path / "olmo")
    OlmoForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="no converter for OlmoForCausalLM"):
        convert_to_ctranslate2(folder, tmp_path / "ct2")


BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 0,
    "decoder_start_token_id": 0, "forced_eos_token_id": 1, "max_position_embeddings": 256,
}  # fmt: skip
T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
LLAMA = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def random_model(name: str, values: dict[str, Any], tokenizer_of: Path, folder: Path) -> Path:
    import torch
    import transformers

    folder = shutil.copytree(tokenizer_of, folder)
    network_class = getattr(transformers, name)
    torch.manual_seed(0)
    network = network_class(network_class.config_class(vocab_size=383, **values))
    for parameter in network.parameters():
        if parameter.dim() > 1:  # Transformers starts with such small weights that a wrong model looks right
            torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("BartForConditionalGeneration", BART),
        ("PegasusForConditionalGeneration", BART),
        ("MT5ForConditionalGeneration", T5),
        ("UMT5ForConditionalGeneration", T5),
        ("Qwen2ForCausalLM", LLAMA),
        ("Qwen3ForCausalLM", LLAMA),
        ("MistralForCausalLM", LLAMA),
    ],
)
def test_other_families_that_come_out_right(
    tiny_t5: Path, tiny_llama: Path, tmp_path: Path, name: str, values: dict[str, Any]
):
    tokenizer_of = tiny_llama if "Causal" in name else tiny_t5
    model = random_model(name, values, tokenizer_of, tmp_path / "model")
    assert convert_to_ctranslate2(model, tmp_path / "ct2").largest_difference < TOLERANCE / 10


@pytest.mark.parametrize(
    ("name", "values"),
    [("Gemma2ForCausalLM", LLAMA), ("Gemma3ForCausalLM", LLAMA), ("LlamaForCausalLM", LLAMA | {"head_dim": 16})],
)
def test_families_that_ctranslate2_gets_wrong_are_refused(
    tiny_llama: Path, tmp_path: Path, name: str, values: dict[str, Any]
):
    model = random_model(name, values, tiny_llama, tmp_path / "model")
    with pytest.raises(ModelError, match=f"CTranslate2 (does not compute|can't run what it made of) {name}"):
        convert_to_ctranslate2(model, tmp_path / "ct2", "int8")
    assert not (tmp_path / "ct2").exists()
