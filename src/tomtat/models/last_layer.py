"""The last layer of a causal model, at the places whose output is asked for.

All its tokens give keys and values. But queries, the projection behind attention and the feed-forward network matter
only where a target follows, and of what a summarizer reads nine tokens in ten are the prompt's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tomtat.models.widths import padded_width

BY_TOKEN = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Parts that read each token alone, by the names that most families have; a part of another name is run whole."""

WORTH_IT = 0.8
"""Share of all places from which on leaving out the others saves less than gathering costs."""


@contextmanager
def last_layer_at(stack: Any, wanted: torch.Tensor) -> Iterator[None]:
    """Within, the outputs of `stack` hold at `wanted` (rows, tokens), a mask; elsewhere they mean nothing."""
    places = _places(wanted, next(stack.parameters()).dtype)
    parts = [] if len(places) > WORTH_IT * wanted.numel() else _parts(stack)
    before = {part: part.__dict__.get("forward") for part in parts}
    for part in parts:
        part.__dict__["forward"] = _at(places, part.forward)
    try:
        yield
    finally:
        for part, forward in before.items():
            del part.__dict__["forward"]
            if forward is not None:
                part.__dict__["forward"] = forward


def _places(wanted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of the wanted places in (rows * tokens), and of some others, so that there are few different counts."""
    flat = wanted.flatten()
    count = padded_width(int(flat.sum()), dtype, flat.device, len(flat))
    return flat.byte().argsort(descending=True, stable=True)[:count]


def _parts(stack: Any) -> list[nn.Module]:
    layers = next((child for child in stack.children() if isinstance(child, nn.ModuleList) and len(child)), None)
    if layers is None:
        return []
    named = dict(layers[-1].named_modules())
    return [named[name] for name in BY_TOKEN if name in named and _reads_tokens_alone(named[name])]


def _reads_tokens_alone(part: nn.Module) -> bool:
    """Linear layers, LoRA's among them, and what has no weights; not experts, convolutions or states."""
    with_weights = [module for module in part.modules() if next(module.parameters(False), None) is not None]
    return all(isinstance(module, nn.Linear) for module in with_weights)


def _at(places: torch.Tensor, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def at_places(values: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        flat = values.reshape(-1, values.shape[-1])
        output = forward(flat.index_select(0, places)[None], *rest, **options)[0]
        whole = output.new_zeros(len(flat), output.shape[-1]).index_copy_(0, places, output)
        return whole.view(*values.shape[:-1], -1)

    return at_places
