"""Linear layers that read the same inputs, one right after the other: one product for all of them."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

TOGETHER = [("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("gate_proj", "up_proj"), ("wi_0", "wi_1")]
"""Names of layers within a module that read the same inputs, one right after the other."""

_OTHER_INPUTS = ("enc", "cross")
"""Attention with this in its name has its keys and values from an encoder."""

Product = Callable[[torch.Tensor], torch.Tensor]
"""From inputs (..., in) to outputs (..., out), the layers' side by side."""


def side_by_side(network: Any) -> Iterator[tuple[nn.Module, dict[str, nn.Linear]]]:
    """Each module that has linear layers, with those of them that read the same inputs, by their names.

    Of an adapted layer it is the base's: what the adapter adds reads the same inputs anew.
    """
    for module_name, module in list(network.named_modules()):
        # What lies inside an adapted layer goes with it.
        if ".base_layer" in module_name or ".lora_" in module_name or hasattr(module, "base_layer"):
            continue
        layers = {name: getattr(child, "base_layer", child) for name, child in module.named_children()}
        layers = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        own_name = module_name.rpartition(".")[2].lower()
        together = [] if any(word in own_name for word in _OTHER_INPUTS) else TOGETHER
        for names in together:
            if set(names) <= set(layers):
                yield module, {name: layers.pop(name) for name in names}
        for name, layer in layers.items():
            yield module, {name: layer}


def places_of(layers: Sequence[nn.Linear]) -> list[slice]:
    """Which of their product's outputs are each layer's."""
    places, start = [], 0
    for layer in layers:
        places.append(slice(start, start + layer.out_features))
        start += layer.out_features
    return places


class Once:
    """A product that is computed once for the layers that ask for it one after the other."""

    _last = threading.local()
    """Of this thread: which of them was computed last, of which inputs, and what came. One for all of them, so that
    outputs don't lie about until the next token."""

    def __init__(self, product: Product) -> None:
        self._product = product

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        product, known, outputs = getattr(self._last, "found", (weakref.ref(self), weakref.ref(self), inputs))
        if product() is not self or known() is not inputs:
            outputs = self._product(inputs)
            self._last.found = weakref.ref(self), weakref.ref(inputs), outputs
        return outputs
