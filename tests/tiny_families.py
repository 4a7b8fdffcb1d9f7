"""One tiny random model per family, with the tokenizer, chat template and generation settings of its released ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_tokenizers as tokenizers

QWEN2 = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

QWEN3 = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

GEMMA3 = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}"""

SMOLLM3 = """\
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = '/think' if enable_thinking else '/no_think' -%}
{{- '<|im_start|>system\\n## Metadata\\n\\nToday Date: ' + strftime_now('%d %B %Y') + '\\nReasoning Mode: ' + mode }}
{%- if messages[0].role == 'system' %}{{- '\\n\\n' + messages[0].content }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + ('' if enable_thinking else '<think>\\n\\n</think>\\n') }}
        {{- message.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' + ('' if enable_thinking else '<think>\\n\\n</think>\\n') }}
{%- endif %}"""

PHI3 = """\
{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}\
{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}\
{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

PHI4_MINI = """\
{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""

T5_SHAPE = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
T5_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
BART_SHAPE = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
BART_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
CHAT_SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2,
}  # fmt: skip


def t5(tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = T5_SHAPE | {"feed_forward_proj": "gated-gelu"}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer) + 3, **shape, **T5_IDS))


def mt5(tokenizer: Any) -> Any:
    from transformers import MT5Config, MT5ForConditionalGeneration

    return MT5ForConditionalGeneration(
        MT5Config(vocab_size=len(tokenizer) + 3, tie_word_embeddings=False, **T5_SHAPE, **T5_IDS)
    )


def umt5(tokenizer: Any) -> Any:
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    return UMT5ForConditionalGeneration(
        UMT5Config(vocab_size=len(tokenizer) + 3, tie_word_embeddings=False, **T5_SHAPE, **T5_IDS)
    )


def long_t5(kind: str) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        from transformers import LongT5Config, LongT5ForConditionalGeneration

        shape = T5_SHAPE | {"feed_forward_proj": "gated-gelu", "local_radius": 7, "global_block_size": 4}
        return LongT5ForConditionalGeneration(
            LongT5Config(
                vocab_size=len(tokenizer) + 3, encoder_attention_type=kind, tie_word_embeddings=False, **shape, **T5_IDS
            )
        )

    return make


def bart(tokenizer: Any) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

    network = BartForConditionalGeneration(
        BartConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **BART_SHAPE, **BART_IDS)
    )
    # bart-large-cnn's own.
    network.generation_config = GenerationConfig(
        **BART_IDS, forced_bos_token_id=0, forced_eos_token_id=2, min_length=56, max_length=142, num_beams=4,
        no_repeat_ngram_size=3, length_penalty=2.0, early_stopping=True,
    )  # fmt: skip
    return network


def mbart(tokenizer: Any) -> Any:
    from transformers import GenerationConfig, MBartConfig, MBartForConditionalGeneration

    is_50 = type(tokenizer).__name__ == "MBart50Tokenizer"
    ids = BART_IDS | ({} if is_50 else {"decoder_start_token_id": tokenizer.convert_tokens_to_ids("ro_RO")})
    config = MBartConfig(
        vocab_size=len(tokenizer), max_position_embeddings=256, scale_embedding=True, **BART_SHAPE, **ids
    )
    config.tokenizer_class = type(tokenizer).__name__
    network = MBartForConditionalGeneration(config)
    network.generation_config = GenerationConfig(**ids, max_length=200, num_beams=5, forced_eos_token_id=2)
    return network


def pegasus(tokenizer: Any) -> Any:
    from transformers import GenerationConfig, PegasusConfig, PegasusForConditionalGeneration

    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    network = PegasusForConditionalGeneration(
        PegasusConfig(
            vocab_size=len(tokenizer), max_position_embeddings=128, scale_embedding=True, forced_eos_token_id=None,
            **BART_SHAPE, **ids,
        )
    )  # fmt: skip
    # pegasus-xsum's own.
    network.generation_config = GenerationConfig(
        **ids, forced_eos_token_id=1, max_length=64, num_beams=8, length_penalty=0.6
    )
    return network


def led(tokenizer: Any) -> Any:
    from transformers import LEDConfig, LEDForConditionalGeneration

    shape = BART_SHAPE | {"max_encoder_position_embeddings": 512, "max_decoder_position_embeddings": 128}
    return LEDForConditionalGeneration(
        LEDConfig(vocab_size=len(tokenizer), attention_window=[8, 8], **shape, **BART_IDS)
    )


def chat(config_name: str, network_name: str, **more: Any) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        import transformers

        config = getattr(transformers, config_name)(
            vocab_size=len(tokenizer) + 5, max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **(CHAT_SHAPE | more),
        )  # fmt: skip
        network = getattr(transformers, network_name)(config)
        # As Qwen's and others' say: tokens are drawn, and repeating is made less likely.
        network.generation_config.update(
            do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1, max_length=4096
        )
        return network

    return make


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "t5": (tokenizers.t5_tokenizer, t5),
    "mt5": (tokenizers.t5_tokenizer, mt5),
    "umt5": (tokenizers.t5_tokenizer, umt5),
    "longt5-local": (tokenizers.t5_tokenizer, long_t5("local")),
    "longt5-tglobal": (tokenizers.t5_tokenizer, long_t5("transient-global")),
    "bart": (tokenizers.bart_tokenizer, bart),
    "mbart": (tokenizers.mbart_tokenizer, mbart),
    "mbart50": (tokenizers.mbart50_tokenizer, mbart),
    "pegasus": (tokenizers.pegasus_tokenizer, pegasus),
    "led": (tokenizers.bart_tokenizer, led),
    "qwen2": (lambda: tokenizers.qwen_tokenizer(QWEN2), chat("Qwen2Config", "Qwen2ForCausalLM", tie_word_embeddings=True)),
    "qwen3": (lambda: tokenizers.qwen_tokenizer(QWEN3), chat("Qwen3Config", "Qwen3ForCausalLM", tie_word_embeddings=True)),
    "gemma": (lambda: tokenizers.gemma_tokenizer(GEMMA), chat("GemmaConfig", "GemmaForCausalLM")),
    "gemma2": (
        lambda: tokenizers.gemma_tokenizer(GEMMA),
        chat("Gemma2Config", "Gemma2ForCausalLM", sliding_window=16, query_pre_attn_scalar=8),
    ),
    "gemma3": (
        lambda: tokenizers.gemma_tokenizer(GEMMA3),
        chat("Gemma3TextConfig", "Gemma3ForCausalLM", sliding_window=16, query_pre_attn_scalar=8),
    ),
    "smollm3": (
        lambda: tokenizers.qwen_tokenizer(SMOLLM3),
        chat("SmolLM3Config", "SmolLM3ForCausalLM", tie_word_embeddings=True),
    ),
    "phi3": (lambda: tokenizers.phi_tokenizer(PHI3), chat("Phi3Config", "Phi3ForCausalLM", sliding_window=32)),
    "phi4-mini": (
        lambda: tokenizers.phi_tokenizer(PHI4_MINI),
        chat("Phi3Config", "Phi3ForCausalLM", partial_rotary_factor=0.75, tie_word_embeddings=True, sliding_window=None),
    ),
}  # fmt: skip
"""By name: what makes the tokenizer, and what makes a network for it."""


def save_family(name: str, folder: Path, lively: bool = True) -> Path:
    """Random weights so large that the model says something else of each text, and ends."""
    import torch

    make_tokenizer, make_network = FAMILIES[name]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    network = make_network(tokenizer)
    if lively:
        make_lively(network)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_lively(network: Any) -> None:
    import torch

    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2 and "relative" not in name and "position" not in name:
            parameter.data = torch.randn_like(parameter) * 0.3
    head = network.get_output_embeddings()
    if head.weight is network.get_input_embeddings().weight:
        head.weight.data *= 0.3  # else each token is followed by itself
