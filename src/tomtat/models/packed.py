"""Linear layers laid out for oneDNN: the same sums, up to three times as fast where a few tokens go through at once.

That is what decoding does. Torch multiplies by MKL (fp32), which on AMD processors reads the weights at a fraction of
the memory's speed, or lays them out anew for each product (bf16); so it is measured, and done where it pays.
"""

import time
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

PAYS_FROM = 1.2
FEW_TOKENS = 16


def pack(network: Any) -> None:
    """Let each linear layer use the faster layout, in place. Its own weights stay beside; adapters may change."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Linear and ".lora_" not in name:
            module.__class__ = PackedLinear


class PackedLinear(nn.Linear):  # type: ignore[misc]
    """A linear layer that repacks when its weights are others than before."""

    _packed: torch.Tensor | None = None
    _packed_from: tuple[Any, int] | None = None
    """The parameter and how often it had been written to. Not its address: the next one may get the same."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        version = 0 if weight.is_inference() else weight._version
        known = self._packed_from
        if known is None or known[0]() is not weight or known[1] != version:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW_TOKENS)
            self._packed_from = weakref.ref(weight), version
        return torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self.bias, "none", [], "")


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
