"""Frozen weights in parts: each process keeps a share of every layer and gathers a layer's while it runs (FSDP).

Zhao et al. 2023, arXiv:2304.11277, but for one thing. There a layer's hooks gather at once, so all processes must run
the same layers equally often. Ours don't: they have different numbers of micro-batches, of rows whose frozen states
are still missing, and of tokens to generate. So before each gathering all say which part they need next, and each of
these is gathered by all; who has finished answers until all have. What is trained stays whole in each process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

ALIGNED = 64
"""Bytes on whose multiples weights begin, as torch's own do; elsewhere products may differ in their last bits."""

NOTHING = -1
"""Said by a process that needs no part any more."""


class _Part:
    """Weights that are gathered together, as bytes; the network's parameters look into them."""

    def __init__(self, number: int, weights: list[nn.Parameter], device: torch.device) -> None:
        self.number = number
        places, end = [], 0
        for weight in weights:
            places.append(end)
            end += -(-weight.nbytes // ALIGNED) * ALIGNED
        self.own_size = -(-end // dist.get_world_size())
        self.size = self.own_size * dist.get_world_size()
        self.own = _own_share(weights, places, self.size).to(device)
        self._whole = torch.empty(self.size, dtype=torch.uint8, device=device)
        for weight, place in zip(weights, places, strict=True):
            there = self._whole[place : place + weight.nbytes]
            weight.data = there.view(weight.dtype).view(weight.shape)
        self.drop()

    def gather(self) -> None:
        # The same memory as before to autograd, which holds on to the tensors that look into it.
        self._whole.untyped_storage().resize_(self.size)
        _all_gather(self._whole, self.own)

    def drop(self) -> None:
        self._whole.untyped_storage().resize_(0)


def _own_share(weights: list[nn.Parameter], places: list[int], size: int) -> torch.Tensor:
    whole = torch.zeros(size, dtype=torch.uint8)
    for weight, place in zip(weights, places, strict=True):
        content = weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
        whole[place : place + len(content)] = content
    return whole.chunk(dist.get_world_size())[dist.get_rank()].clone()


def _all_gather(whole: torch.Tensor, own: torch.Tensor, group: Any = None) -> None:
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
    gather(whole, own, group=group)


class Shards:
    """The frozen weights of a network, shared out among the processes, which make and use it together.

    `device` is where the network will run: there lie the shares, what is not shared out, and single layers.
    """

    def __init__(self, network: Any, device: torch.device) -> None:
        # What is said is read on the CPU: a GPU goes on with its work meanwhile.
        self._group = dist.new_group(backend="gloo")
        self._held: _Part | None = None
        self._are_together = False
        self._parts: list[_Part] = []
        for modules in _modules_of_parts(network):
            part = _Part(len(self._parts), _frozen(modules), device)
            self._parts.append(part)
            for module in modules:
                self._watch(module, part)
        network._apply(lambda tensor: tensor.to(device) if tensor.untyped_storage().size() else tensor)

    @property
    def own_bytes(self) -> int:
        """Of this process's share."""
        return sum(part.own_size for part in self._parts)

    @property
    def whole_bytes(self) -> int:
        return sum(part.size for part in self._parts)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, each process may run the network forth and back as often as it likes; it ends when all are done.

        No other word may go between the processes within. An error of one ends the others when its process ends.
        """
        self._are_together = True
        try:
            yield
            self._drop()
            while self._round(NOTHING):
                pass
        finally:
            self._are_together = False
            self._drop()

    def _need(self, part: _Part) -> None:
        """Hold this part, and no other: a layer is done with when the next one begins."""
        if part is self._held:
            return
        if not self._are_together:
            raise RuntimeError("The network's weights lie in several processes, and it was run outside of together().")
        self._drop()
        self._round(part.number)
        self._held = part

    def _drop(self) -> None:
        if self._held is not None:
            self._held.drop()
            self._held = None

    def _round(self, needed: int) -> bool:
        """Gather what any process needs next, and keep what this one needs; whether there was anything."""
        said = torch.empty(dist.get_world_size(), dtype=torch.int64)
        _all_gather(said, torch.tensor([needed]), self._group)
        numbers = sorted(set(said.tolist()) - {NOTHING})
        for number in numbers:
            self._parts[number].gather()
            if number != needed:
                self._parts[number].drop()
        return bool(numbers)

    def _watch(self, module: Any, part: _Part) -> None:
        def before(*_: Any) -> None:
            if reads_weights(module):
                self._need(part)

        def on_the_way_back(_: torch.Tensor) -> None:
            self._need(part)

        def after(_: Any, __: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                    tensor.register_hook(on_the_way_back)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        for weight in _frozen([module]):
            weight.needed = lambda: self._need(part)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight that is read outside of its layer: gathered first where it is shared out, and whole until another is."""
    needed: Callable[[], None] | None = getattr(weight, "needed", None)
    if needed:
        needed()
    return weight


def idle(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark what stands in for a module's forward pass and reads none of its weights."""
    forward.reads_weights = False  # type: ignore[attr-defined]
    return forward


def reads_weights(module: Any) -> bool:
    return getattr(module.__dict__.get("forward"), "reads_weights", True)


def _modules_of_parts(network: Any) -> list[list[Any]]:
    """Layers of stacks, and matrices outside of them (embeddings, head); in one list what shares a weight."""
    parts: list[list[Any]] = []
    for module in _runs_alone(network):
        weights = {id(weight) for weight in _frozen([module])}
        sharing = [part for part in parts if weights & {id(weight) for weight in _frozen(part)}]
        parts = [part for part in parts if part not in sharing]
        if weights:
            parts.append([other for part in sharing for other in part] + [module])
    return parts


def _runs_alone(module: Any) -> Iterator[Any]:
    for child in module.children():
        if isinstance(module, nn.ModuleList) or hasattr(child, "base_layer"):
            yield child
        elif not any(True for _ in child.children()):
            # Norms at the end of a stack are too small to be worth a gathering.
            if any(weight.ndim > 1 for weight in child.parameters()):
                yield child
        else:
            yield from _runs_alone(child)


def _frozen(modules: list[Any]) -> list[nn.Parameter]:
    """Each once."""
    weights = [weight for module in modules for weight in module.parameters() if not weight.requires_grad]
    return list({id(weight): weight for weight in weights}.values())
