"""Linear layers in 8 bits on a CPU, by the kernels that come with torch: oneDNN's where it has VNNI, else FBGEMM's.

Weights are rounded once, one scale a row; activations at each call, one scale a token, because torch's own dynamic
quantization takes one scale for the whole batch, and a single outlier then rounds everyone else away. With VNNI a few
tokens, as in decoding, go in bf16 through the rounded weights. Layers that read the same inputs are one product.
"""

import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tomtat.models.cache import keep_keys_in
from tomtat.models.precision import BF16_PAYS_FROM, bf16_speedup
from tomtat.models.side_by_side import Once, Product, places_of, side_by_side

EXACT_LOGITS = 64
"""The likeliest tokens whose logits are computed again in full precision: the head is where 8 bits cost most."""

FEW_TOKENS = 4
"""Up to so many at once the weights are read as fast as by one; with more, that kernel reads them twice."""

BLOCK = 16

KEPT_FROM = 64
"""Tokens: what decoding reads in between is fewer."""

_SMALLEST = 1e-9


def few_tokens() -> int | None:
    """Up to so many at once the weights are read as fast as by one; None where no number stands out."""
    return FEW_TOKENS if torch.cpu._is_vnni_supported() else None


def quantize(network: Any) -> None:
    """Replace each linear layer by its 8-bit form, in place; adapters must be folded in, and stay.

    Keys and values are kept in bf16 from then on, where the processor multiplies it fast.
    """
    head = network.get_output_embeddings()
    for module, layers in list(side_by_side(network)):
        if next(iter(layers.values())) is getattr(head, "base_layer", head):
            [name] = layers
            setattr(module, name, Int8Head(layers[name]))
            continue
        for name, part in zip(layers, Int8Linear.side_by_side(list(layers.values())), strict=True):
            setattr(module, name, part)
    if network.config._attn_implementation == "sdpa" and bf16_speedup(torch.device("cpu")) >= BF16_PAYS_FROM:
        keep_keys_in(network, torch.bfloat16)


class Int8Linear(nn.Module):  # type: ignore[misc]
    """One layer of a product that may be that of several."""

    weight = None
    """There is none in floating point; Transformers' T5 asks."""

    def __init__(self, layer: nn.Linear, product: Product | None = None, places: slice | None = None) -> None:
        super().__init__()
        self._product = product or _product([layer])
        self._places = places
        """Which of the product's outputs are this layer's; None: all of them."""
        self.bias = layer.bias.detach().float() if layer.bias is not None else None

    @classmethod
    def side_by_side(cls, layers: Sequence[nn.Linear]) -> "list[Int8Linear]":
        if len(layers) == 1:
            return [cls(layers[0])]
        product = Once(_product(layers))
        return [cls(layer, product, places) for layer, places in zip(layers, places_of(layers), strict=True)]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self._product(inputs)
        if self._places is not None:
            outputs = outputs[..., self._places]
        return outputs if self.bias is None else outputs + self.bias


class Int8Head(Int8Linear):
    """Logits in 8 bits, the likeliest of them exact."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.exact = layer.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().forward(hidden)
        likeliest = logits.topk(min(EXACT_LOGITS, logits.shape[-1])).indices
        exact = (self.exact[likeliest] @ hidden[..., None]).squeeze(-1)
        if self.bias is not None:
            exact = exact + self.bias[likeliest]
        return logits.scatter_(-1, likeliest, exact)


def _product(layers: Sequence[nn.Linear]) -> Product:
    weight = torch.cat([layer.weight.detach().float() for layer in layers])
    return _OneDnn(weight) if torch.cpu._is_vnni_supported() else _Fbgemm(weight)


class _OneDnn:
    """Levels 0 to 255 from each token's lowest to its highest number; what the lowest one adds is added apart.

    Of a few tokens only the weights are rounded: what takes time is reading them.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        # As bf16 has them, in which the product of a few tokens takes them.
        self._few_scales = (weight.abs().amax(1) / 127).clamp_min_(_SMALLEST).bfloat16()
        self._scales = self._few_scales.float()
        self._rounded = (weight / self._scales[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self._zeros = torch.zeros(len(weight), dtype=torch.long)
        self._sums = self._rounded.sum(1) * self._scales
        self._weight = torch.ops.onednn.qlinear_prepack(self._rounded, None)
        # That kernel reads whole blocks of inputs, and beyond the row where they do not fit.
        self._takes_few = weight.shape[1] % BLOCK == 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if not inputs.numel():
            return inputs.new_empty(*inputs.shape[:-1], len(self._rounded))
        if self._takes_few and inputs.numel() <= FEW_TOKENS * inputs.shape[-1]:
            flat = inputs.reshape(-1, inputs.shape[-1]).bfloat16()
            few = torch._weight_int8pack_mm(flat, self._rounded, self._few_scales).to(inputs.dtype)
            return few.view(*inputs.shape[:-1], len(self._rounded))
        levels, lowest, step = _levels_of(inputs)
        outputs: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 0, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return outputs.addcmul_(lowest, self._sums).mul_(step)


_kept = threading.local()


def _levels_of(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each number's level, and each token's lowest number, in steps, and step.

    Those of many tokens are kept for who asks next: all layers of a decoder read the encoder's states.
    """
    known: weakref.ref[torch.Tensor] | None = getattr(_kept, "inputs", None)
    if known is not None and known() is inputs:
        kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _kept.levels
        return kept
    lowest = inputs.amin(-1, keepdim=True)
    step = (inputs.amax(-1, keepdim=True) - lowest).div_(255).clamp_min_(_SMALLEST)
    lowest /= step
    # Through 16 bits: torch's way from fp32 to uint8 takes twice as long as both.
    levels = (inputs / step).add_(0.5 - lowest).to(torch.int16).to(torch.uint8)
    if inputs.numel() > KEPT_FROM * inputs.shape[-1]:
        _kept.inputs, _kept.levels = weakref.ref(inputs), (levels, lowest, step)
    return levels, lowest, step


class _Fbgemm:
    """Torch's own dynamic quantization, which takes one range for all tokens."""

    def __init__(self, weight: torch.Tensor) -> None:
        scales = (weight.abs().amax(1) / 127).clamp_min_(_SMALLEST).double()
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # Torch will drop this tensor type some day; the kernels' other way in is slower for a few tokens at once.
            warnings.simplefilter("ignore", UserWarning)
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(rounded, None)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        largest = inputs.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST)
        # Without VNNI two products are added in 16 bits, which overflow unless activations have 7.
        outputs: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs / largest, self._packed, True)
        return outputs.mul_(largest)
