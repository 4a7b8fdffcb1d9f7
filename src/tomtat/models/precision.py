"""Which device and number format: measured on the machine at hand, not assumed."""

import time
from functools import cache
from typing import Any

import torch

from tomtat.errors import ModelError

BF16_PAYS_FROM = 1.3
"""bf16 is chosen when its matrix product is this many times faster; below, fp32's exactness is worth more."""


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name not in ("cpu", "cuda", "mps"):
        raise ModelError(f"{name!r} is no device. Take auto, cpu, cuda or mps.")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise ModelError(f"This machine has no {name} device that torch can use. Take --device auto or --device cpu.")
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device, model_type: str) -> torch.dtype:
    """`auto`, `fp32` or `bf16` as a dtype; fp16 is refused with the reason."""
    if precision == "fp16":
        if "t5" in model_type:
            raise ModelError(
                "fp16 overflows in T5's feed-forward layers and gives NaN. Use bf16 or fp32 (model.precision)."
            )
        raise ModelError("fp16 needs loss scaling, which tomtat does not do. Use bf16 or fp32 (model.precision).")
    if precision not in ("auto", "fp32", "bf16"):
        raise ModelError(f"{precision!r} is no precision. Take auto, fp32 or bf16.")
    if precision == "fp32":
        return torch.float32
    if precision == "bf16" or bf16_speedup(device) >= BF16_PAYS_FROM:
        return torch.bfloat16
    return torch.float32


@cache
def bf16_speedup(device: torch.device) -> float:
    """How many times faster a 1024-cubed matrix product is in bf16 than in fp32; about 0.1 s on two CPU cores."""
    if device.type == "cuda":
        return 2.0 if torch.cuda.is_bf16_supported(including_emulation=False) else 0.0
    if device.type == "mps":
        return 0.0
    return _seconds_per_product(torch.float32) / _seconds_per_product(torch.bfloat16)


def _seconds_per_product(dtype: torch.dtype) -> float:
    matrix = torch.ones(1024, 1024, dtype=dtype)
    times = []
    for _ in range(4):  # the first warms up; the best of the rest is least disturbed by neighbours
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return min(times[1:])


def cast_parameters(network: Any, dtype: torch.dtype) -> None:
    """Cast parameters only: `Module.to` would also round the rotary frequencies, and with them positions."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
