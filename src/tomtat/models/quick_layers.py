"""Norms and activations in fewer passes over memory, on a CPU: in training, and where an encoder reads.

Autograd takes Transformers' RMSNorm apart into a dozen passes on the way back, and its GELU by tanh into nine forward;
both are arithmetic that a processor does while it waits for memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@contextmanager
def quick_layers(network: Any) -> Iterator[None]:
    """Within, the network's frozen RMSNorms and its GELUs by tanh run like this, where they lie on a CPU."""
    from transformers.activations import NewGELUActivation

    forwards: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {}
    for module in network.modules():
        if _is_plain_norm(module):
            forwards[module] = _norm_of(module)
        elif type(module) is NewGELUActivation:
            forwards[module] = _gelu
    # Those that stand in already stay: a training generates in between, and goes on with them.
    forwards = {module: forward for module, forward in forwards.items() if "forward" not in module.__dict__}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


def _is_plain_norm(module: Any) -> bool:
    """T5's and Llama's kind, weight times x over its root mean square; Gemma's adds one to the weight."""
    weight = getattr(module, "weight", None)
    return (
        hasattr(module, "variance_epsilon")
        and isinstance(weight, nn.Parameter)
        and not weight.requires_grad
        and weight.device.type == "cpu"
        and [name for name, _ in module.named_parameters()] == ["weight"]
    )


def _norm_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(values: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = _RMSNorm.apply(values, module.weight, module.variance_epsilon)
        return normed

    return forward


def _gelu(values: torch.Tensor) -> torch.Tensor:
    return F.gelu(values, approximate="tanh")


class _RMSNorm(torch.autograd.Function):  # type: ignore[misc]
    """Of values (..., width) with a weight (width,) that does not train; sums are in fp32."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        exact = values.float()
        inverse = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(values, inverse, weight)
        normed = exact * inverse if exact is values else exact.mul_(inverse)
        return normed.to(weight.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        values, inverse, weight = ctx.saved_tensors
        normed = values.float() * inverse
        by_normed = (gradients[0] * weight).float()
        along = (by_normed * normed).mean(-1, keepdim=True)
        return by_normed.sub_(normed.mul_(along)).mul_(inverse).to(values.dtype), None, None
