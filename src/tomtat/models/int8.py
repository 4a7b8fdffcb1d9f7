"""Linear layers in 8 bits on a CPU, by the kernels that come with torch (FBGEMM, or oneDNN where it has VNNI).

Weights are rounded once, one scale a row; activations at each call, one scale a token, because torch's own dynamic
quantization takes one scale for the whole batch, and a single outlier then rounds everyone else away.
"""

import warnings
import weakref
from typing import Any

import torch
from torch import nn

EXACT_LOGITS = 64
"""The likeliest tokens whose logits are computed again in full precision: the head is where 8 bits cost most."""

_SMALLEST = 1e-9


def quantize(network: Any) -> None:
    """Replace each linear layer by its 8-bit form, in place; adapters must be folded in, and stay."""
    head = network.get_output_embeddings()
    for name, module in list(network.named_modules()):
        # What lies inside an adapted layer goes with it.
        if ".base_layer" in name or ".lora_" in name:
            continue
        layer = getattr(module, "base_layer", module)
        if isinstance(layer, nn.Linear):
            parent, _, own_name = name.rpartition(".")
            setattr(network.get_submodule(parent), own_name, (Int8Head if module is head else Int8Linear)(layer))


class Int8Linear(nn.Module):  # type: ignore[misc]
    weight = None
    """There is none in floating point; Transformers' T5 asks."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scales = (weight.abs().amax(1) / 127).clamp_min(_SMALLEST).double()
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # Torch will drop this tensor type some day; the kernels' other way in is slower for a few tokens at once.
            warnings.simplefilter("ignore", UserWarning)
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        bias = layer.bias.detach().float() if layer.bias is not None else None
        self._packed = torch.ops.quantized.linear_prepack(rounded, bias)
        # Without VNNI two products are added in 16 bits, which overflow unless activations have 7.
        self._seven_bits = not torch.cpu._is_vnni_supported()
        self._has_bias = bias is not None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._has_bias:
            return torch.ops.quantized.linear_dynamic(inputs, self._packed, self._seven_bits)
        scaled, largest = _scaled(inputs)
        return torch.ops.quantized.linear_dynamic(scaled, self._packed, self._seven_bits).mul_(largest)


_last: tuple[Any, torch.Tensor, torch.Tensor] | None = None
"""What was scaled last: query, key and value, or gate and up, read the same inputs one after the other."""


def _scaled(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's numbers between -1 and 1, and what they were divided by."""
    global _last
    if _last is not None and _last[0]() is inputs:
        return _last[1:]
    largest = inputs.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST)
    scaled = inputs / largest
    _last = (weakref.ref(inputs), scaled, largest)
    return scaled, largest


class Int8Head(Int8Linear):
    """Logits in 8 bits, the likeliest of them exact."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.exact = layer.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().forward(hidden)
        likeliest = logits.topk(min(EXACT_LOGITS, logits.shape[-1])).indices
        exact = (self.exact[likeliest] @ hidden[..., None]).squeeze(-1)
        return logits.scatter_(-1, likeliest, exact)
