"""Linear layers laid out for oneDNN: the same sums, up to three times as fast where a few tokens go through at once.

That is what decoding does. Torch multiplies by MKL (fp32), which on AMD processors reads the weights at a fraction of
the memory's speed, or lays them out anew for each product (bf16); so it is measured, and done where it pays.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from tomtat.models.side_by_side import Once, Product, places_of, side_by_side

PAYS_FROM = 1.2
FEW_TOKENS = 16


def pack(network: Any) -> None:
    """Let linear layers use the faster layout, in place; those that read the same inputs are one product.

    Their own weights stay beside; adapters may change.
    """
    for _, layers in list(side_by_side(network)):
        plain = [layer for layer in layers.values() if type(layer) is nn.Linear]
        alike = len(plain) == len(layers) and len({layer.bias is None for layer in plain}) == 1
        for together in [plain] if alike else [[layer] for layer in plain]:
            product: Product = _Packed(together)
            product = Once(product) if len(together) > 1 else product
            for layer, places in zip(together, places_of(together), strict=True):
                layer.__class__ = PackedLinear
                layer.product, layer.places = product, places if len(together) > 1 else None


class PackedLinear(nn.Linear):  # type: ignore[misc]
    """A layer of a packed product, which may be that of several."""

    product: Product
    places: slice | None
    """Which of the product's outputs are this layer's; None: all of them."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.product(inputs)
        return outputs if self.places is None else outputs[..., self.places]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied or pickled it is a plain layer: the product is that of this layer's weights, not of the copy's.

        PEFT copies layers that an adapter has whole (`modules_to_save`).
        """
        state = {name: value for name, value in self.__dict__.items() if name not in ("product", "places")}
        return _empty_layer, (), state


def _empty_layer() -> nn.Linear:
    return nn.Linear.__new__(nn.Linear)


class _Packed:
    """The weights of some layers below each other, laid out again when they are others than before."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        # The layers hold this: by weak references they go when nobody has them any longer.
        self._layers = [weakref.ref(layer) for layer in layers]
        self._weight = torch.empty(0)
        self._bias: torch.Tensor | None = None
        self._made_from: list[tuple[Any, int]] = []
        """Each parameter and how often it had been written to. Not its address: the next one may get the same."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        layers = [layer() for layer in self._layers]
        parameters = [layer.weight for layer in layers if layer is not None]
        count = len(parameters)
        parameters += [layer.bias for layer in layers if layer is not None and layer.bias is not None]
        if not self._is_of(parameters):
            self._weight = torch.ops.mkldnn._reorder_linear_weight(_below(parameters[:count]), FEW_TOKENS)
            self._bias = _below(parameters[count:]) if parameters[count:] else None
            self._made_from = [(weakref.ref(parameter), _version(parameter)) for parameter in parameters]
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
        return outputs

    def _is_of(self, parameters: Sequence[torch.Tensor]) -> bool:
        known = self._made_from
        return len(known) == len(parameters) and all(
            old() is new and version == _version(new) for (old, version), new in zip(known, parameters, strict=True)
        )


def _version(parameter: torch.Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version


def _below(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts))).detach()


def pays_here(dtype: torch.dtype) -> bool:
    """Whether this processor gains by it in fp32 or bf16; measured once a process, in about 50 ms each."""
    if dtype not in (torch.float32, torch.bfloat16) or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return bool(_speedup(dtype) >= PAYS_FROM)


@cache
@torch.inference_mode()
def _speedup(dtype: torch.dtype) -> float:
    # More weights than caches hold, as in a model.
    plain = [nn.Linear(768, 2048, bias=False, dtype=dtype) for _ in range(12)]
    packed = [nn.Linear(768, 2048, bias=False, dtype=dtype) for _ in range(12)]
    for layer in packed:
        pack(nn.Sequential(layer))
    inputs = torch.ones(FEW_TOKENS // 2, 768, dtype=dtype)
    return _seconds(lambda: [layer(inputs) for layer in plain]) / _seconds(lambda: [layer(inputs) for layer in packed])


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times[1:])
