"""Parts of a network by words that mean the same in each family.

    all-linear             every linear layer but the output head
    attention              linear layers of attention blocks
    encoder, decoder       of that stack (a causal model is all decoder)
    top-10, bottom-4       of the uppermost, lowest layers of each stack
    top-50%, bottom-25%    of a share of its layers, rounded up
    embeddings             token embeddings, not those of positions
    lm_head, q_proj, ...   modules of that name, wherever they stand
    re:PATTERN             modules whose whole name matches

Words side by side narrow (`decoder attention`), `+` joins (`decoder + lm_head`), a list is a union.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tomtat.errors import ConfigError

_STACK = re.compile(r"(?:^|\.)(encoder|decoder)\.")
_LAYER = re.compile(r"\.(?:block|layers|h|layer)\.(\d+)\.")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_NORM = re.compile(r"norm$", re.IGNORECASE)
_TOP = re.compile(r"(top|bottom)-(\d+)(%?)")


@dataclass(frozen=True)
class Part:
    """A module with weights of its own, and what the words ask about it."""

    name: str
    is_linear: bool
    is_embedding: bool
    is_head: bool
    stack: str | None
    layer: int | None
    layers: int
    """Number of layers in its stack."""

    def is_called(self, name: str) -> bool:
        return (
            self.name == name
            or self.name.endswith(f".{name}")
            or self.name.startswith(f"{name}.")
            or f".{name}." in self.name
        )


def parts_of(network: Any) -> list[Part]:
    head = network.get_output_embeddings()
    reads_text = _that_reads_text(network)
    found = [
        (name, module, _stack(name, network.config.is_encoder_decoder), _layer(name))
        for name, module in network.named_modules()
        if module in reads_text and any(True for _ in module.parameters(recurse=False))
    ]
    vocabulary = network.get_input_embeddings().weight.shape[0]
    depth: Counter[str | None] = Counter()
    for _, _, stack, layer in found:
        if layer is not None:
            depth[stack] = max(depth[stack], layer + 1)
    return [
        Part(
            name=name,
            is_linear=isinstance(module, nn.Linear),
            is_embedding=isinstance(module, nn.Embedding) and module.num_embeddings == vocabulary,
            is_head=module is head,
            stack=stack,
            layer=layer,
            layers=depth[stack],
        )
        for name, module, stack, layer in found
    ]


def select(network: Any, expression: str | Sequence[str], setting: str, linear_only: bool) -> list[str]:
    """Names of the modules that an expression means, in the network's order.

    `linear_only` is for adapters: words then mean linear layers, and the head only where it is named. Each joined
    term must match something: `wi` on a FLAN-T5, whose layers are `wi_0` and `wi_1`, is an error and not a silent miss.
    """
    parts = parts_of(network)
    if linear_only:
        parts = [part for part in parts if part.is_linear]
    chosen: set[str] = set()
    for term in _terms(expression):
        matching = {part.name for part in parts if all(_matches(word, part, linear_only) for word in _words(term))}
        if not matching:
            there = describe(part.name for part in parts)
            raise ConfigError(f"{setting}: {term!r} matches nothing in {type(network).__name__}. It has: {there}.")
        chosen |= matching
    return [part.name for part in parts if part.name in chosen]


def describe(names: Iterable[str]) -> str:
    """Module names with layer numbers folded: `decoder.block.*.layer.0.SelfAttention.q (8)`."""
    counts = Counter(fold_layer(name) for name in names)
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in counts.items())


def fold_layer(name: str) -> str:
    return _LAYER.sub(lambda match: match[0].replace(match[1], "*"), name, count=1)


def _terms(expression: str | Sequence[str]) -> list[str]:
    texts = [expression] if isinstance(expression, str) else list(expression)
    return [
        term.strip()
        for text in texts
        for term in ([text] if text.startswith("re:") else text.split("+"))
        if term.strip()
    ]


def _words(term: str) -> list[str]:
    return [term] if term.startswith("re:") else term.split()


def _matches(word: str, part: Part, linear_only: bool) -> bool:
    if word.startswith("re:"):
        try:
            return re.fullmatch(word[3:], part.name) is not None
        except re.error as error:
            raise ConfigError(f"{word} is not a valid pattern: {error}.") from None
    if word == "all-linear":
        return part.is_linear and not part.is_head
    if word == "attention":
        return _is_in_attention(part.name) and (part.is_linear or not linear_only)
    if word == "embeddings":
        return part.is_embedding
    if word in ("encoder", "decoder"):
        return part.stack == word and not part.is_head
    if match := _TOP.fullmatch(word):
        if part.layer is None:
            return False
        count = -(-int(match[2]) * part.layers // 100) if match[3] else int(match[2])
        return part.layer >= part.layers - count if match[1] == "top" else part.layer < count
    return part.is_called(word)


def _that_reads_text(network: Any) -> set[Any]:
    """All modules; of a model that sees images too (Gemma 3 from 4B on) those that a text goes through."""
    if network.config.is_encoder_decoder or network.config.get_text_config() is network.config:
        return set(network.modules())
    return {*network.get_decoder().modules(), network.get_output_embeddings()}


def _is_in_attention(name: str) -> bool:
    """Whether it lies in an attention block. BART's `self_attn_layer_norm` and Gemma's `post_attention_layernorm`
    stand beside one; Qwen3's `self_attn.q_norm` is in it."""
    *around, last = name.split(".")
    return any(map(_ATTENTION.search, around)) or bool(_ATTENTION.search(last) and not _NORM.search(last))


def _stack(name: str, is_encoder_decoder: bool) -> str | None:
    if match := _STACK.search(name):
        return match[1]
    return None if is_encoder_decoder or not _LAYER.search(name) else "decoder"


def _layer(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None
