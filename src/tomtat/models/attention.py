"""Attention on a CPU: by batched matrix products in bf16, and the quick way for a single token.

Keys and values in bf16 (cache.py) ask for both from a network that computes in fp32.

Torch's flash attention multiplies in fp32 there, in blocks. Whole products in bf16, which oneDNN makes with
AVX512-BF16 or AMX, take a quarter of the time in training and half of it in reading prompts, at the lengths of
summarization (LOG.md). The price is memory: the weights of attention are held whole, for the backward pass too where
they are few (`HELD`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from tomtat.models.dropout import kept_by_dropout
from tomtat.models.shared import Shared, look_at_both

HELD = 1 << 23
"""Weights of attention that a layer keeps for its backward pass; where there are more, they are computed twice."""

AT_ONCE = 64
"""Queries of a causal layer that look at once, at keys up to their own last: a third of all pairs is never computed,
and what is lies in the processor's cache."""


FEW = 16
"""Tokens of a row that look back together, where some are guesses."""

MANY_ROWS = 4
"""From so many on it pays to look at keys in bf16 without a copy in fp32: fewer would wait for the calls themselves."""


_lock = threading.Lock()
_within = 0
"""How many are within `quick_attention`, in all threads."""


@contextmanager
def quick_attention() -> Iterator[None]:
    """Within, networks with SDPA use this instead where it pays. For all networks and threads of the process."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    global _within
    with _lock:
        if _within == 0:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = _forward
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _forward(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if isinstance(key, Shared):
        return look_at_both(query, key, value, attention_mask, options.get("scaling")), None
    if query.shape[2] > 1 and not torch.is_grad_enabled():
        dtype = getattr(module, "keys_dtype", key.dtype)
        key, value = key.to(dtype), value.to(dtype)
    if _is_plain(query, key, attention_mask, options):
        if query.shape[2] > 1 and _pays_for_many(key):
            found = _attend(module, query.to(key.dtype), key, value, attention_mask, **options)
            return found.to(query.dtype), None
        if query.shape[2] <= FEW and _pays_for_few(query, key, attention_mask, options):
            return _look_back(query, key, value, attention_mask, **options), None
    key, value = key.to(query.dtype), value.to(query.dtype)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _is_plain(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, options: dict[str, Any]) -> bool:
    constants = [part for part in (mask, options.get("position_bias")) if part is not None]
    return (
        query.device.type == "cpu"
        and (query.dtype == key.dtype or not torch.is_grad_enabled())
        and query.shape[3] == key.shape[3]
        and options.get("softcap") is None
        and options.get("cache") is None
        and not any(part.requires_grad for part in constants)
    )


def _pays_for_many(key: torch.Tensor) -> bool:
    """In bf16 where oneDNN has it; a training in bf16 was found to be worth it before (precision.py)."""
    if key.dtype != torch.bfloat16:
        return False
    return torch.is_grad_enabled() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pays_for_few(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, options: dict[str, Any]) -> bool:
    """Of one token Transformers packs heads that share keys only where there is a mask, of several it copies the keys
    for each; and MKL's products of one row in bf16 are several times slower than those in fp32."""
    if torch.is_grad_enabled() or options.get("dropout"):
        return False
    if query.shape[2] > 1:
        return mask is not None and query.shape[1] > key.shape[1] and options.get("position_bias") is None
    if query.dtype != key.dtype:
        own_keys = query.shape[1] == key.shape[1]
        return key.dtype == torch.bfloat16 and (own_keys or options.get("position_bias") is None)
    if query.shape[1] > key.shape[1]:
        return mask is None and options.get("position_bias") is None
    return bool(query.dtype == torch.bfloat16)


def _look_back(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """(rows, tokens, heads, width): a few tokens of each row look at all keys that the mask lets them. Heads that share
    keys stand below each other, and with each head its tokens."""
    rows, heads, tokens, width = query.shape
    groups, dtype = key.shape[1], query.dtype
    query = query.reshape(rows, groups, heads // groups * tokens, width)
    if tokens > 1 and mask is not None:
        mask = mask.repeat(1, 1, heads // groups, 1)
    if key.dtype != dtype and rows < MANY_ROWS:
        key, value = key.to(dtype), value.to(dtype)
    if key.dtype != dtype:
        output = _look_back_in(key.dtype, query, key, value, _in_one(mask, position_bias), scaling)
        return output.to(dtype).view(rows, heads, tokens, width).transpose(1, 2)
    if groups == heads:
        query, key, value = query.float(), key.float(), value.float()
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=_in_one(mask, position_bias), scale=scaling)
    return output.to(dtype).reshape(rows, heads, tokens, width).transpose(1, 2)


def _look_back_in(
    dtype: torch.dtype,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Both products in the keys' dtype, half as much to read from memory; what lies between them in fp32."""
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    # Keys times queries: the other way round oneDNN lays keys out anew where they lie in a larger room.
    scores = torch.matmul(key, query.to(dtype).transpose(2, 3)).transpose(2, 3).float().contiguous()
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return torch.matmul(scores.softmax(-1).to(dtype), value)


def _in_one(mask: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor | None:
    """A mask, boolean or to be added, and a bias, in fp32 where there is something to add."""
    if mask is not None and mask.dtype == torch.bool:
        return mask if bias is None else bias.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    parts = [part.float() for part in (mask, bias) if part is not None]
    if len(parts) == 2:
        return parts[0] + parts[1]
    return parts[0] if parts else None


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """(rows, tokens, heads, width) from queries, keys and values (rows, heads, tokens, width).

    Keys and values may have fewer heads than queries, each for several of theirs.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    added = [] if position_bias is None else [_laid_out(position_bias, query.dtype)]
    blocks = None
    if mask is not None and _tells_blocks(mask) and not added:
        blocks, mask = _read_once(mask, query.dtype)
    if mask is not None:
        added.append(_additive(mask, query.dtype) if mask.dtype == torch.bool else mask)
    if blocks is None:
        blocks = _blocks(query.shape[2], key.shape[2], only_before=mask is None and causal)
    output: torch.Tensor = _Attention.apply(query, key, value, scale, dropout, blocks, *added)
    return output.transpose(1, 2).contiguous()


class _Block(NamedTuple):
    """Queries that look at once, and the keys that any of them sees."""

    queries: slice
    keys: slice
    all_see: int = 0
    """So many keys are seen by all of them: no mask is added there."""
    is_causal: bool = False
    """A query sees the keys up to its own place, counted from the first of both."""


def _blocks(tokens: int, keys: int, only_before: bool) -> list[_Block]:
    if not only_before:
        return [_Block(slice(0, tokens), slice(0, keys))]
    ends = [(start, min(start + AT_ONCE, tokens)) for start in range(0, tokens, AT_ONCE)]
    return [_Block(slice(start, end), slice(0, min(end, keys)), start, is_causal=True) for start, end in ends]


def _tells_blocks(mask: torch.Tensor) -> bool:
    """Whether its queries see different keys; in training it is not asked, where masks are new in each step."""
    return mask.dtype == torch.bool and mask.shape[-2] > 1 and not torch.is_grad_enabled()


def _read_once(mask: Any, dtype: torch.dtype) -> tuple[list[_Block], torch.Tensor]:
    """The blocks of a boolean mask (rows, heads, queries, keys), and the mask to be added.

    Remembered on the mask itself, since all layers have the same.
    """
    known: tuple[list[_Block], torch.Tensor] | None = getattr(mask, "read", None)
    if known is None or known[1].dtype != dtype:
        known = mask.read = _blocks_of(mask.flatten(0, 1)), _additive(mask, dtype)
    return known


def _blocks_of(mask: torch.Tensor) -> list[_Block]:
    tokens, blocks = mask.shape[1], []
    for start in range(0, tokens, AT_ONCE):
        rows = mask[:, start : start + AT_ONCE].flatten(0, 1)
        seen, hidden = rows.any(0).nonzero(), (~rows.all(0)).nonzero()
        end = int(seen[-1]) + 1 if len(seen) else 1
        all_see = min(end, int(hidden[0])) if len(hidden) else end
        blocks.append(_Block(slice(start, min(start + AT_ONCE, tokens)), slice(0, end), all_see))
    return blocks


def _laid_out(bias: Any, dtype: torch.dtype) -> torch.Tensor:
    """In one piece: T5 makes its bias once for all layers, across memory; added so it takes as long as a product.

    Remembered on the tensor itself, so that it is done once and goes with it.
    """
    if bias.is_contiguous():
        laid_out: torch.Tensor = bias.to(dtype)
        return laid_out
    known = getattr(bias, "laid_out", None)
    if known is None or known.dtype != dtype:
        known = bias.laid_out = bias.to(dtype).contiguous()
    return known


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # Half the smallest number: with a bias it must not become infinite.
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min / 2)


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        dropout: float,
        blocks: list[_Block],
        *added: torch.Tensor,
    ) -> torch.Tensor:
        looks = _Looks(query, key, scale, blocks, added)
        k, v = looks.by_group(key), looks.by_group(value)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        held: list[torch.Tensor | None] = []
        for block in looks.blocks:
            weights = looks.weights(query, k, block)
            kept = kept_by_dropout(weights, dropout) if dropout else None
            dropped = weights if kept is None else weights * kept
            output[:, :, block.queries] = torch.bmm(dropped, v[:, block.keys]).view(looks.heads_of(block.queries))
            held += [weights if looks.holds or kept is not None else None, kept]
        ctx.looks = looks
        ctx.save_for_backward(query, k, v, *held)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        looks: _Looks = ctx.looks
        query, k, v, *held = ctx.saved_tensors
        by_query, by_key, by_value = torch.empty_like(gradients[0]), torch.zeros_like(k), torch.zeros_like(v)
        for block, weights, kept in zip(looks.blocks, held[::2], held[1::2], strict=True):
            queries, keys = block.queries, block.keys
            weights = looks.weights(query, k, block) if weights is None else weights
            by_output = looks.in_one(gradients[0], queries)
            used = weights if kept is None else weights * kept
            by_value[:, keys].baddbmm_(used.transpose(1, 2), by_output)
            by_weights = torch.bmm(by_output, v[:, keys].transpose(1, 2))
            if kept is not None:
                by_weights = by_weights.mul_(kept)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            by_scores = by_scores.mul_(looks.scale) if looks.scale != 1 else by_scores
            by_query[:, :, queries] = torch.bmm(by_scores, k[:, keys]).view(looks.heads_of(queries))
            by_key[:, keys].baddbmm_(by_scores.transpose(1, 2), looks.in_one(query, queries))
        shape = looks.key_shape
        return by_query, by_key.view(shape), by_value.view(shape), *[None] * (3 + len(looks.added))


class _Looks:
    """Which queries look at which keys in one product, and how heads that share keys stand below each other in it."""

    def __init__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        scale: float,
        blocks: list[_Block],
        added: tuple[torch.Tensor, ...],
    ) -> None:
        self.shape, self.key_shape = query.shape, key.shape
        self.groups = key.shape[1]
        self.scale, self.blocks, self.added = scale, blocks, added
        self.holds = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2] <= HELD

    def by_group(self, keys: torch.Tensor) -> torch.Tensor:
        """(rows * groups, keys, width), not repeated for the heads that share them."""
        rows, groups, tokens, width = keys.shape
        return keys.reshape(rows * groups, tokens, width)

    def in_one(self, values: torch.Tensor, queries: slice) -> torch.Tensor:
        """Values (rows, heads, tokens, width) of some queries as (rows * groups, heads of a group * queries, width)."""
        return values[:, :, queries].reshape(self.shape[0] * self.groups, -1, self.shape[3])

    def heads_of(self, queries: slice) -> tuple[int, ...]:
        rows, heads, _, width = self.shape
        return rows, heads, queries.stop - queries.start, width

    def weights(self, query: torch.Tensor, k: torch.Tensor, block: _Block) -> torch.Tensor:
        queries, keys = block.queries, block.keys
        q = self.in_one(query, queries)
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k[:, keys].transpose(1, 2), beta=0, alpha=self.scale)
        seen = scores.view(*self.heads_of(queries)[:3], -1)
        if block.is_causal:
            own = seen[..., block.all_see :]
            before = torch.ones(own.shape[-2:], dtype=torch.bool, device=own.device).tril()
            own.add_(_additive(before, own.dtype))
        first = 0 if block.is_causal else block.all_see
        for part in self.added:
            rows = part[..., queries, :] if part.shape[-2] > 1 else part
            seen[..., first:].add_(rows[..., first : keys.stop])
        return scores.softmax(-1)
