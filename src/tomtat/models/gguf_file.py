"""A Llama-shaped model as a GGUF file for llama.cpp and what is built on it.

llama.cpp's own converter is in no well-kept PyPI distribution, so the one shape we train is written here with the
`gguf` package. What this file does not know is refused: a GGUF with a guessed tokenizer runs and is quietly worse.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tomtat.errors import ModelError
from tomtat.models.loading import load_plain

QUANTIZATIONS = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
        _BYTES | {"use_regex": False},
    ],
}
"""How text is cut before merges, by llama.cpp's name for it."""


def write_gguf(merged: Path, path: Path, quantization: str = "f16") -> None:
    """Write a folder with a whole Llama model as one GGUF file, with its tokenizer and chat template inside."""
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"{quantization!r} is no GGUF format of ours. Choose {', '.join(QUANTIZATIONS)}.")
    network, tokenizer = load_plain(merged)
    _require_llama(network)
    writer = gguf.GGUFWriter(path, "llama")
    _add_shape(writer, network.config)
    writer.add_file_type(_FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer, network.config.vocab_size)
    _add_weights(writer, network, QUANTIZATIONS[quantization])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _require_llama(network: Any) -> None:
    config, name = network.config, type(network).__name__
    if name != "LlamaForCausalLM":
        raise ModelError(
            f"tomtat writes GGUF for models of Llama's shape only, not for {name}: llama.cpp's converter, which knows "
            "others, is in no well-kept PyPI package. Export it --to merged and run its convert_hf_to_gguf.py on that."
        )
    rope = config.rope_parameters or {}
    if config.attention_bias or config.mlp_bias or rope.get("rope_type", "default") != "default":
        what = "scaled rotary positions" if rope.get("rope_type", "default") != "default" else "biases"
        raise ModelError(
            f"This Llama has {what}, which tomtat's GGUF writer does not know. Export it --to merged and run "
            "llama.cpp's convert_hf_to_gguf.py on that."
        )


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base((config.rope_parameters or {}).get("rope_theta", 10_000.0))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, vocab_size: int) -> None:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {token["id"]: token["special"] for token in backend["added_tokens"]}
    types = [
        gguf.TokenType.UNUSED if number not in names
        else gguf.TokenType.NORMAL if number not in added
        else gguf.TokenType.CONTROL if added[number] else gguf.TokenType.USER_DEFINED
        for number in range(vocab_size)
    ]  # fmt: skip
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in backend["model"].get("merges", [])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(backend))
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(vocab_size)])
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(backend: dict[str, Any]) -> str:
    """llama.cpp's name for the way this tokenizer cuts text before it merges bytes."""
    pre = backend["pre_tokenizer"] or {}
    steps = pre.get("pretokenizers", [pre])
    if backend["model"]["type"] == "BPE" and not backend["normalizer"]:
        for name, known in _PRE_TOKENIZERS.items():
            if len(steps) == len(known) and all(map(_contains, steps, known)):
                return name
    raise ModelError(
        f"tomtat's GGUF writer does not know this tokenizer (it has the byte-level ones of {', '.join(_PRE_TOKENIZERS)}"
        "). Export it --to merged and run llama.cpp's convert_hf_to_gguf.py on that."
    )


def _contains(step: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return step.items() >= wanted.items()


def _add_weights(writer: gguf.GGUFWriter, network: Any, kind: gguf.GGMLQuantizationType) -> None:
    config = network.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    is_tied = network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()
    for name, tensor in network.state_dict().items():
        if is_tied and name == "lm_head.weight":
            continue  # llama.cpp takes the embeddings where there is no output matrix
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleave(values, config.head_dim)
        stored = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        try:
            data = gguf.quants.quantize(np.ascontiguousarray(values), stored)
        except gguf.quants.QuantError as error:
            raise ModelError(f"{name} can't be stored as {stored.name}: {error}. Take --quantization f16.") from None
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=stored)


def _interleave(weight: Any, head_dim: int) -> Any:
    """Rotary pairs side by side, as llama.cpp rotates them; Transformers keeps the two halves of a head apart."""
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
