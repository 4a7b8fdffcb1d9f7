"""LoRA's linear layers in as few passes over memory as they need, for training.

PEFT makes the update, scales it and adds it, each a pass over (tokens, outputs), and autograd does so again on the way
back. Here the products add up in place. PEFT's weights stay PEFT's; what is not plain (dropout, DoRA, several adapters,
a base that trains) is left to it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def fused_lora(network: Any) -> Iterator[None]:
    """Within, plain LoRA layers of the network run fused."""
    from peft.tuners.lora.layer import Linear

    fused = [module for module in network.modules() if type(module) is Linear and _is_plain(module)]
    for module in fused:
        module.__dict__["forward"] = _forward_of(module)
    try:
        yield
    finally:
        for module in fused:
            module.__dict__.pop("forward", None)


def _is_plain(module: Any) -> bool:
    adapters = module.active_adapters
    if len(adapters) != 1 or module.disable_adapters or module.merged or adapters[0] not in module.lora_A:
        return False
    name = adapters[0]
    base, parts = module.base_layer, (module.lora_A[name], module.lora_B[name])
    return (
        type(base) is nn.Linear
        and not any(parameter.requires_grad for parameter in base.parameters())
        and all(type(part) is nn.Linear and part.bias is None for part in parts)
        and all(part.weight.dtype == base.weight.dtype for part in parts)
        and not getattr(module.lora_dropout[name], "p", 0)
        and name not in module.lora_variant
    )


def _forward_of(module: Any) -> Callable[..., torch.Tensor]:
    [name] = module.active_adapters
    base, down, up, scale = module.base_layer, module.lora_A[name], module.lora_B[name], module.scaling[name]

    def forward(inputs: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        output: torch.Tensor = _LoraLinear.apply(flat, base.weight, base.bias, down.weight, up.weight, scale)
        return output.view(*inputs.shape[:-1], output.shape[-1])

    return forward


class _LoraLinear(torch.autograd.Function):  # type: ignore[misc]
    """inputs (tokens, in), weight (out, in), bias (out,) or None, down (rank, in), up (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        output = nn.functional.linear(inputs, weight, bias)
        inner = inputs @ down.t()
        ctx.save_for_backward(inputs, inner, weight, down, up)
        ctx.scale = scale
        return output.addmm_(inner, up.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inputs, inner, weight, down, up = ctx.saved_tensors
        by_output = gradients[0]
        by_inner = (by_output @ up).mul_(ctx.scale)
        by_up = (by_output.t() @ inner).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        by_down = by_inner.t() @ inputs if ctx.needs_input_grad[3] else None
        by_inputs = None
        if ctx.needs_input_grad[0]:
            by_inputs = (by_output @ weight).addmm_(by_inner, down)
        return by_inputs, None, None, by_down, by_up, None
