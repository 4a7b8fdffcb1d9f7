"""fp32 copies of trained weights that the network holds in bf16.

A step of 1e-3 on a weight near 1 is below bf16's resolution, and sums of many gradients lose their small ones; so
gradients are summed and steps taken in fp32, and the network gets the rounded result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tomtat.models.adapters import trainable_state


class MasterWeights:
    def __init__(self, network: Any) -> None:
        self.working = trainable_state(network)
        self.masters = {
            name: weight if weight.dtype == torch.float32 else torch.nn.Parameter(weight.detach().float())
            for name, weight in self.working.items()
        }

    def parameters(self) -> list[torch.Tensor]:
        return list(self.masters.values())

    def collect_gradients(self) -> None:
        """Add the network's gradients to the masters' and clear them; call after each micro-batch."""
        for name, weight in self.working.items():
            master = self.masters[name]
            if weight is master or weight.grad is None:
                continue
            gradient = weight.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            weight.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the network; call after each step."""
        for name, weight in self.working.items():
            if weight is not self.masters[name]:
                weight.copy_(self.masters[name])

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """The network holds the masters themselves, for saving."""
        rounded = {name: weight.data for name, weight in self.working.items()}
        for name, weight in self.working.items():
            weight.data = self.masters[name].data
        try:
            yield
        finally:
            for name, weight in self.working.items():
                weight.data = rounded[name]

    def state(self) -> dict[str, torch.Tensor]:
        return {name: master.detach() for name, master in self.masters.items()}

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name, master in self.masters.items():
            master.copy_(state[name])
        self.publish()
