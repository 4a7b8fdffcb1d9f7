"""Attention by batched matrix products, for training in bf16 on a CPU.

Torch's flash attention multiplies in fp32 there, in blocks. Whole products in bf16, which oneDNN makes with
AVX512-BF16 or AMX, take a quarter of the time at the lengths of summarization (LOG.md). The price is memory: the
weights of attention are held whole, for the backward pass too where they are few (`HELD`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tomtat.models.dropout import kept_by_dropout

HELD = 1 << 23
"""Weights of attention that a layer keeps for its backward pass; where there are more, they are computed twice."""


@contextmanager
def quick_attention() -> Iterator[None]:
    """Within, networks with SDPA use this instead where it pays. For all networks of the process."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def forward(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        if _pays(query, key, attention_mask, options):
            return _attend(module, query, key, value, attention_mask, **options), None
        return usual(module, query, key, value, attention_mask, **options)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = forward
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _pays(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, options: dict[str, Any]) -> bool:
    constants = [part for part in (mask, options.get("position_bias")) if part is not None]
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == torch.bfloat16
        and query.shape[2] > 1
        and query.shape[3] == key.shape[3]
        and options.get("softcap") is None
        and options.get("cache") is None
        and not any(part.requires_grad for part in constants)
    )


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
    if mask is not None:
        added.append(_additive(mask, query.dtype) if mask.dtype == torch.bool else mask)
    elif causal:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        added.append(_additive(seen, query.dtype))
    output: torch.Tensor = _Attention.apply(query, key, value, scale, dropout, *added)
    return output.transpose(1, 2).contiguous()


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
        *added: torch.Tensor,
    ) -> torch.Tensor:
        rows, heads, tokens, width = query.shape
        groups = key.shape[1]
        # Heads that share keys stand below each other in one product, so keys and values are not repeated.
        q = query.reshape(rows * groups, heads // groups * tokens, width)
        k, v = (part.reshape(rows * groups, -1, width) for part in (key, value))
        weights = _weights(q, k, scale, added, query.shape)
        kept = kept_by_dropout(weights, dropout) if dropout else None
        dropped = weights if kept is None else weights * kept
        ctx.shapes = query.shape, key.shape
        ctx.scale, ctx.added = scale, added
        held = weights if kept is not None or weights.numel() <= HELD else None
        ctx.save_for_backward(q, k, v, held, kept)
        return torch.bmm(dropped, v).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        q, k, v, weights, kept = ctx.saved_tensors
        (query_shape, key_shape), scale = ctx.shapes, ctx.scale
        if weights is None:
            weights = _weights(q, k, scale, ctx.added, query_shape)
        by_output = gradients[0].reshape(q.shape)
        used = weights if kept is None else weights * kept
        by_value = torch.bmm(used.transpose(1, 2), by_output)
        by_weights = torch.bmm(by_output, v.transpose(1, 2))
        if kept is not None:
            by_weights = by_weights.mul_(kept)
        by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
        by_scores = by_scores.mul_(scale) if scale != 1 else by_scores
        by_query = torch.bmm(by_scores, k).view(query_shape)
        by_key = torch.bmm(by_scores.transpose(1, 2), q).view(key_shape)
        return by_query, by_key, by_value.view(key_shape), *[None] * (2 + len(ctx.added))


def _weights(
    q: torch.Tensor, k: torch.Tensor, scale: float, added: tuple[torch.Tensor, ...], shape: torch.Size
) -> torch.Tensor:
    rows, heads, tokens, _ = shape
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    for part in added:
        scores.view(rows, heads, tokens, -1).add_(part)
    return scores.softmax(-1)
