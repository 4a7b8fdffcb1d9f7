"""Dropout that draws its random numbers quickly, for training on a CPU.

Torch draws one of 64 bits for each value, by the Mersenne Twister, which takes as long as the matrix products around
it. Sixteen bits are enough to say whether a value stays, and SFC64 makes them in less than half the time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


def kept_by_dropout(values: torch.Tensor, rate: float) -> torch.Tensor:
    """What to multiply values (any shape, in floating point) by: 0 for about `rate` of them, else a little above 1.

    Torch's own generator gives the seed of each draw, so that seeds and checkpoints hold for it. The rate is rounded to
    a 65,536th.
    """
    count, steps = values.numel(), round(rate * (1 << 16))
    seed = int(torch.randint(1 << 62, (1,)))
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw((count + 3) // 4).view(np.int64))
    stays = bits.view(torch.int16)[:count].view(values.shape) >= steps - (1 << 15)
    return stays.to(values.dtype).mul_((1 << 16) / max(1, (1 << 16) - steps))


@contextmanager
def quick_dropout(network: Any) -> Iterator[None]:
    """Within, the network's dropout modules draw like this, where they lie on a CPU."""
    found = [module for module in network.modules() if type(module) is nn.Dropout and module.p > 0]
    for module in found:
        module.__dict__["forward"] = _forward_of(module)
    try:
        yield
    finally:
        for module in found:
            module.__dict__.pop("forward", None)


def _forward_of(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(values: torch.Tensor) -> torch.Tensor:
        if not module.training or values.device.type != "cpu":
            return nn.functional.dropout(values, module.p, module.training)
        return values * kept_by_dropout(values, module.p)

    return forward
