"""Cross entropy through the output head, a few tokens at a time, so that no tensor holds all logits."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tomtat.models.shards import whole

LOGITS_AT_ONCE = 1 << 22
"""16 MB in fp32, which the allocator hands out again and again: five times as fast as fresh memory for all logits."""

TOKENS_AT_LEAST = 64
"""With fewer at once the head's weights would be read more often than is worth it."""


def head_loss(hidden: torch.Tensor, labels: torch.Tensor, head: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the cross entropy, in nats and fp32, of what enters the head (tokens, width) against labels (tokens,).

    `bias` (vocabulary,) is what a family adds to the logits after its head.
    """
    size = max(TOKENS_AT_LEAST, LOGITS_AT_ONCE // _vocabulary(head))
    parts = list(zip(hidden.split(size), labels.split(size), strict=True))
    if type(head) is nn.Linear and not any(parameter.requires_grad for parameter in head.parameters()):
        losses = [_FrozenHeadLoss.apply(part, wanted, head, bias) for part, wanted in parts]
    else:
        losses = [checkpoint(_loss, part, wanted, head, bias, use_reentrant=False) for part, wanted in parts]
    return torch.stack(losses).sum()


def _vocabulary(head: Any) -> int:
    return int(getattr(head, "out_features", 0) or head.weight.shape[0])


def _logits(hidden: torch.Tensor, head: Any, bias: torch.Tensor | None) -> torch.Tensor:
    logits = head(hidden)
    logits = logits if bias is None else logits + bias.flatten()
    return logits.float() if logits.dtype != torch.float32 else logits


def _loss(hidden: torch.Tensor, labels: torch.Tensor, head: Any, bias: torch.Tensor | None) -> torch.Tensor:
    return F.cross_entropy(_logits(hidden, head, bias), labels, reduction="sum")


class _FrozenHeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """The gradient is made where the logits are at hand, so they are neither kept nor made twice.

    (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, section 3.2.)
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, labels: torch.Tensor, head: Any, bias: torch.Tensor | None) -> Any:
        # In place: each pass over fresh memory of this size costs as much as the head itself.
        logits = _logits(hidden, head, bias)
        wanted = logits.gather(1, labels[:, None])
        top = logits.amax(-1, keepdim=True)
        exponentials = logits.sub_(top).exp_()
        total = exponentials.sum(-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            off = exponentials.div_(total)
            off[torch.arange(len(labels), device=labels.device), labels] -= 1
            ctx.save_for_backward(off.to(hidden.dtype) @ whole(head.weight))
        return (total.log() + top - wanted).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (by_hidden,) = ctx.saved_tensors
        return by_hidden * gradients[0].to(by_hidden.dtype), None, None, None
