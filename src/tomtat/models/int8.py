"""Linear layers in 8 bits on a CPU, by the kernels that come with torch: oneDNN's where it has VNNI, else FBGEMM's.

Weights are rounded once, one scale a row; activations at each call, one scale a token, because torch's own dynamic
quantization takes one scale for the whole batch, and a single outlier then rounds everyone else away. Layers that read
the same inputs are one product.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from tomtat.models.cache import keep_keys_in
from tomtat.models.precision import BF16_PAYS_FROM, bf16_speedup

EXACT_LOGITS = 64
"""The likeliest tokens whose logits are computed again in full precision: the head is where 8 bits cost most."""

TOGETHER = [("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("gate_proj", "up_proj"), ("wi_0", "wi_1")]
"""Names of layers within a module that read the same inputs, one right after the other."""

_OTHER_INPUTS = ("enc", "cross")
"""Attention with this in its name has its keys and values from an encoder."""

_SMALLEST = 1e-9

Product = Callable[[torch.Tensor], torch.Tensor]
"""From inputs (..., in) to outputs (..., out)."""


def quantize(network: Any) -> None:
    """Replace each linear layer by its 8-bit form, in place; adapters must be folded in, and stay.

    Keys and values are kept in bf16 from then on, where the processor multiplies it fast.
    """
    head = network.get_output_embeddings()
    for module_name, module in list(network.named_modules()):
        # What lies inside an adapted layer goes with it.
        if ".base_layer" in module_name or ".lora_" in module_name or hasattr(module, "base_layer"):
            continue
        layers = {name: getattr(child, "base_layer", child) for name, child in module.named_children()}
        layers = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        for names in _groups(module_name, layers):
            if getattr(module, names[0]) is head:
                setattr(module, names[0], Int8Head(layers[names[0]]))
                continue
            parts = Int8Linear.side_by_side([layers[name] for name in names])
            for name, part in zip(names, parts, strict=True):
                setattr(module, name, part)
    if network.config._attn_implementation == "sdpa" and bf16_speedup(torch.device("cpu")) >= BF16_PAYS_FROM:
        keep_keys_in(network, torch.bfloat16)


def _groups(module_name: str, layers: dict[str, nn.Linear]) -> list[tuple[str, ...]]:
    """Names of a module's linear layers, those that read the same inputs together."""
    own_name = module_name.rpartition(".")[2].lower()
    together = [] if any(word in own_name for word in _OTHER_INPUTS) else TOGETHER
    groups = [names for names in together if set(names) <= set(layers)]
    grouped = {name for names in groups for name in names}
    return groups + [(name,) for name in layers if name not in grouped]


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
        product, parts, start = _Shared(_product(layers)), [], 0
        for layer in layers:
            parts.append(cls(layer, product, slice(start, start + layer.out_features)))
            start += layer.out_features
        return parts

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


class _Shared:
    """A product that is computed once for the layers that ask for it one after the other."""

    _last = threading.local()
    """Of this thread: which of them was computed last, of which inputs, and what came. One for all of them, so that
    outputs don't lie about until the next token."""

    def __init__(self, product: Product) -> None:
        self._product = product

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        product, known, outputs = getattr(self._last, "found", (None, weakref.ref(inputs), inputs))
        if product is not self or known() is not inputs:
            outputs = self._product(inputs)
            self._last.found = self, weakref.ref(inputs), outputs
        return outputs


def _product(layers: Sequence[nn.Linear]) -> Product:
    weight = torch.cat([layer.weight.detach().float() for layer in layers])
    return _OneDnn(weight) if torch.cpu._is_vnni_supported() else _Fbgemm(weight)


class _OneDnn:
    """Levels 0 to 255 from each token's lowest to its highest number; what the lowest one adds is added apart."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._scales = (weight.abs().amax(1) / 127).clamp_min_(_SMALLEST)
        rounded = (weight / self._scales[:, None]).round_().to(torch.int8)
        self._zeros = torch.zeros(len(weight), dtype=torch.long)
        self._sums = rounded.sum(1) * self._scales
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._one_token = _Fbgemm(weight)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.numel() == inputs.shape[-1]:
            return self._one_token.alone(inputs)
        lowest = inputs.amin(-1, keepdim=True)
        step = (inputs.amax(-1, keepdim=True) - lowest).div_(255).clamp_min_(_SMALLEST)
        lowest /= step
        # Through 16 bits: torch's way from fp32 to uint8 takes twice as long as both.
        levels = (inputs / step).add_(0.5 - lowest).to(torch.int16).to(torch.uint8)
        outputs: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 0, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return outputs.addcmul_(lowest, self._sums).mul_(step)


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

    def alone(self, inputs: torch.Tensor) -> torch.Tensor:
        """A single token, whose range is its own: one call in place of a dozen, with VNNI."""
        outputs: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, False)
        return outputs
