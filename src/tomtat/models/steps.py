"""The next tokens of some lanes through a decoder, with less beside the products.

A step of a small model spends about half of its time on what is not a product of weights. Here a norm is five calls,
what is the same for all layers (masks, positions, biases) is laid out once, and keys are read where they lie: with the
room that is not written yet, since a mask hides that for nothing, while products of what has gaps are copied first.
What goes from layer to layer is in fp32.

Linear layers are the network's own, so adapters, oneDNN's layout and 8 bits are in them as everywhere.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from torch.nn import functional as F

from tomtat.models.cache import GrowingLayer
from tomtat.models.shared import Readers, look_at_both

HIDDEN = torch.finfo(torch.float32).min / 2
"""Added to the score of a key that is not to be seen; infinite it would make a row without keys no number."""

_CAUSAL = ("llama", "mistral", "qwen2", "qwen3")
_SEQ2SEQ = ("t5", "mt5")

Function = Callable[[torch.Tensor], torch.Tensor]


def causal_steps(network: Any) -> "CausalSteps | None":
    """None where the network is of another kind, or not on a CPU."""
    return CausalSteps(network) if _is_one_of(network, _CAUSAL) else None


def seq2seq_steps(network: Any) -> "Seq2SeqSteps | None":
    """None where the network is of another kind, or not on a CPU."""
    return Seq2SeqSteps(network) if seq2seq_steps_fit(network) else None


def seq2seq_steps_fit(network: Any) -> bool:
    return _is_one_of(network, _SEQ2SEQ)


def _is_one_of(network: Any, kinds: Sequence[str]) -> bool:
    # By its code, not by its config's name: a stranger's network may call itself a Llama.
    homes = tuple(f"transformers.models.{kind}." for kind in kinds)
    if not type(network).__module__.startswith(homes) or network.get_input_embeddings().weight.device.type != "cpu":
        return False
    # These run as they are.
    whole = {id(network.get_output_embeddings()), id(network.get_input_embeddings())}
    return not any(
        # Modules that do something before they run (shards.py gathers weights) would not be run here; and of one that
        # an adapter has whole, what is inside is the base's.
        module._forward_pre_hooks
        or module._forward_hooks
        or (hasattr(module, "modules_to_save") and id(module) not in whole)
        for module in network.modules()
    )


class CausalSteps:
    """Llama's kind: rotated queries and keys, several heads to a key, a gated feed-forward part."""

    def __init__(self, network: Any) -> None:
        decoder = network.model
        self._embed, self._rotary, self._head = decoder.embed_tokens, decoder.rotary_emb, network.lm_head
        dtype = decoder.embed_tokens.weight.dtype
        self._norm = _norm(decoder.norm, dtype)
        self._layers = [_CausalLayer(layer, dtype) for layer in decoder.layers]

    def __call__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: Sequence[GrowingLayer],
        readers: Readers | None,
    ) -> torch.Tensor:
        """Logits (lanes, tokens, vocabulary) after each of the ids (lanes, tokens) at their positions.

        `mask` (lanes, columns) says which columns a lane sees, these tokens' among them.
        """
        states = self._embed(ids)
        cos, sin = self._rotary(states, positions)
        half = cos.shape[-1] // 2
        # (lanes, tokens, 1, head width); the sign of the rotation stands with the sine.
        turn = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]
        added = None if readers else _hidden(mask, ids.shape[1], cache[0].room_for(ids.shape[1]))
        states = states.float()
        for layer, memory in zip(self._layers, cache, strict=True):
            states = layer(states, turn, added, mask, memory)
        logits: torch.Tensor = self._head(self._norm(states))
        return logits


class _CausalLayer:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, feed = layer.self_attn, layer.mlp
        self._attention, self._feed = attention, feed
        self._before, self._between = (
            _norm(part, dtype) for part in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        self._act = _activation(feed.act_fn)
        self._width = attention.head_dim
        self._scale = attention.scaling
        # Qwen 3's.
        self._norms: tuple[Any, Any] | None = (
            (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None
        )

    def __call__(
        self,
        states: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        added: torch.Tensor | None,
        mask: torch.Tensor,
        memory: GrowingLayer,
    ) -> torch.Tensor:
        attention, feed = self._attention, self._feed
        inputs = self._before(states)
        shape = (*inputs.shape[:-1], -1, self._width)
        query, key, value = (
            part(inputs).view(shape) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if self._norms:
            query, key = (norm(part) for norm, part in zip(self._norms, (query, key), strict=True))
        heads = query.shape[2]
        both = _turned(torch.cat([query, key], 2), *turn)
        query, key, value = (
            both[:, :, :heads].transpose(1, 2),
            both[:, :, heads:].transpose(1, 2),
            value.transpose(1, 2),
        )
        if added is None:
            keys, values = memory.update(key, value)
            seen = look_at_both(query, keys, values, mask[:, None, None], self._scale)
            seen = seen.view(*inputs.shape[:-1], -1)
        else:
            seen = _in_row(_attend(query, *memory.write(key, value), added, self._scale))
        states = states + attention.o_proj(seen)
        inputs = self._between(states)
        return states.add_(feed.down_proj(self._act(feed.gate_proj(inputs)) * feed.up_proj(inputs)))


def _turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    return (states * cos).addcmul_(torch.cat([states[..., half:], states[..., :half]], -1), sin)


class Seq2SeqSteps:
    """T5's kind: biases by distance, attention to the source whose keys were laid down before."""

    def __init__(self, network: Any) -> None:
        decoder = network.decoder
        self._embed, self._head = decoder.embed_tokens, network.lm_head
        dtype = decoder.embed_tokens.weight.dtype
        scale = network.config.d_model**-0.5 if getattr(network.config, "scale_decoder_outputs", False) else 1.0
        self._norm = _norm(decoder.final_layer_norm, dtype, scale)
        self._layers = [_Seq2SeqLayer(block.layer, dtype) for block in decoder.block]
        self._distances = decoder.block[0].layer[0].SelfAttention
        self._bias = torch.empty(0)

    def __call__(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        source_mask: torch.Tensor,
        cache: Sequence[tuple[GrowingLayer, GrowingLayer]],
        readers: Readers | None,
    ) -> torch.Tensor:
        """Logits (lanes, tokens, vocabulary) after each of the ids (lanes, tokens).

        `mask` (lanes, columns) says which of the decoder's columns a lane sees, these tokens' among them, and
        `source_mask` (sources, columns) which there are of a source. The second layer of each pair of the cache has
        the sources' keys already; each lane reads one of its own, or as `readers` say.
        """
        own, source = cache[0]
        tokens, room = ids.shape[1], own.room_for(ids.shape[1])
        added = _hidden(mask, tokens, room) + self._biases(mask.shape[1], tokens, room)
        source_added = _hidden(source_mask, 1, source.room_for(0))
        states = self._embed(ids).float()
        for layer, (own, source) in zip(self._layers, cache, strict=True):
            states = layer(states, added, source_added, own, source, readers)
        logits: torch.Tensor = self._head(self._norm(states))
        return logits

    def _biases(self, columns: int, tokens: int, room: int) -> torch.Tensor:
        """(heads, tokens, room) of the last tokens of so many columns."""
        if self._bias.shape[-1] != 2 * room:
            # By distance, the largest first; nothing is added beyond a token's own column.
            past = self._distances.compute_bias(1, room, past_seen_tokens=room - 1)[0, :, 0].float()
            self._bias = F.pad(past, (0, room))
        rows = [self._bias[:, room - 1 - column :][:, :room] for column in range(columns - tokens, columns)]
        return torch.stack(rows, 1)


class _Seq2SeqLayer:
    def __init__(self, parts: Any, dtype: torch.dtype) -> None:
        own, source, feed = parts
        self._own, self._source, self._feed = own.SelfAttention, source.EncDecAttention, feed.DenseReluDense
        self._before, self._between, self._after = (_norm(part.layer_norm, dtype) for part in (own, source, feed))
        self._act = _activation(self._feed.act)
        self._is_gated = hasattr(self._feed, "wi_0")

    def __call__(
        self,
        states: torch.Tensor,
        added: torch.Tensor,
        source_added: torch.Tensor,
        own: GrowingLayer,
        source: GrowingLayer,
        readers: Readers | None,
    ) -> torch.Tensor:
        attention = self._own
        inputs = self._before(states)
        shape = (*inputs.shape[:-1], -1, attention.key_value_proj_dim)
        query, key, value = (
            part(inputs).view(shape).transpose(1, 2) for part in (attention.q, attention.k, attention.v)
        )
        states = states + attention.o(_in_row(_attend(query, *own.write(key, value), added, attention.scaling)))
        attention = self._source
        query = attention.q(self._between(states)).view(shape).transpose(1, 2)
        query = readers.together(query) if readers else query
        seen = _attend(query, *source.whole(), source_added, attention.scaling)
        states = states.add_(attention.o(_in_row(readers.apart(seen) if readers else seen)))
        return states.add_(self._fed(self._after(states)))

    def _fed(self, inputs: torch.Tensor) -> torch.Tensor:
        feed = self._feed
        inner = self._act(feed.wi_0(inputs)) * feed.wi_1(inputs) if self._is_gated else self._act(feed.wi(inputs))
        # Transformers keeps this one in fp32 in some number formats.
        weight = feed.wo.weight
        output: torch.Tensor = feed.wo(inner if weight is None else inner.to(weight.dtype))
        return output


def _norm(module: Any, dtype: torch.dtype, scale: float = 1.0) -> Function:
    """Weight times x over its root mean square, of x (..., width) in fp32; times `scale`."""
    width = len(module.weight)
    weight = module.weight.detach().float() * (sqrt(width) * scale)
    least = torch.tensor(sqrt(width * module.variance_epsilon))

    def norm(states: torch.Tensor) -> torch.Tensor:
        size = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return (states / torch.hypot(size, least)).mul_(weight).to(dtype)

    return norm


def _activation(module: Any) -> Function:
    from transformers.activations import NewGELUActivation

    if type(module) is NewGELUActivation:
        return lambda states: F.gelu(states, approximate="tanh")
    act: Function = module
    return act


def _hidden(mask: torch.Tensor, tokens: int, room: int) -> torch.Tensor:
    """(lanes, 1, tokens, room), to be added to the scores of the last tokens of a mask's columns."""
    columns = mask.shape[1]
    added = torch.full((len(mask), 1, tokens, room), HIDDEN)
    added[..., :columns].masked_fill_(mask[:, None, None], 0)
    if tokens > 1:
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
        added[..., columns - tokens : columns].masked_fill_(later, HIDDEN)
    return added


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, added: torch.Tensor, scale: float
) -> torch.Tensor:
    """(lanes, heads, tokens, width) from queries of that shape.

    Keys and values (lanes, groups, columns, width) may be of fewer heads; those that share them stand below each other.
    Products are in the keys' dtype, what lies between them in fp32.
    """
    lanes, heads, tokens, width = query.shape
    groups, columns, dtype = keys.shape[1], keys.shape[2], keys.dtype
    rows = query.to(dtype).reshape(lanes * groups, -1, width)
    scores = torch.bmm(rows, keys.view(lanes * groups, columns, width).transpose(1, 2))
    scores = torch.add(added, scores.view(lanes, heads, tokens, columns), alpha=scale)
    weights = scores.softmax(-1).to(dtype).view(lanes * groups, -1, columns)
    said = torch.bmm(weights, values.view(lanes * groups, columns, width)).to(query.dtype)
    return said.view(lanes, heads, tokens, width)


def _in_row(said: torch.Tensor) -> torch.Tensor:
    """(lanes, tokens, heads * width) from (lanes, heads, tokens, width)."""
    return said.transpose(1, 2).flatten(2)
