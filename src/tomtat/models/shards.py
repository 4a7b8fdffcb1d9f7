"""Frozen weights in parts: each process keeps a share of every layer and gathers a layer's while it runs (FSDP).

Zhao et al. 2023, arXiv:2304.11277, but for one thing. There a layer's hooks gather at once, so all processes must run
the same layers equally often. Ours don't: they have different numbers of micro-batches, of rows whose frozen states
are still missing, and of tokens to generate. So before each gathering all say which part they need next, and take
turns in having it gathered; who has finished answers until all have. What is trained stays whole in each process.

A part is whole from its module's call, or from where its gradient comes by, until another part is needed. That holds
for networks whose layers read their own weights only, and is tried out at the start (`share_out`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tomtat.errors import ModelError

ALIGNED = 64
"""Bytes on whose multiples weights begin, as torch's own do; elsewhere products may differ in their last bits."""

NOTHING = -1
"""Said by a process that needs no part any more."""

AGREES_WITHIN = 0.1
"""Norm of two gradients' difference over the norm: bf16 on a GPU and on a CPU is well within, other weights are not."""


class _Part:
    """Weights that are gathered together, as bytes."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.own_size: int = -(-sum(map(_room, weights)) // dist.get_world_size())
        self.size = self.own_size * dist.get_world_size()
        self.own = torch.empty(0)

    def move(self, weights: list[nn.Parameter], buffer: torch.Tensor) -> None:
        """Keep this process's share on the buffer's device; from now on the weights look into the buffer."""
        content = torch.zeros(self.size, dtype=torch.uint8)
        starts = accumulate(map(_room, weights), initial=0)
        for weight, start in zip(weights, starts, strict=False):
            there = slice(start, start + weight.nbytes)
            content[there] = weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
            weight.data = buffer[there].view(weight.dtype).view(weight.shape)
        # A copy, because a slice would keep the whole.
        self.own = content.chunk(dist.get_world_size())[dist.get_rank()].clone().to(buffer.device)


def _room(weight: torch.Tensor) -> int:
    return -(-int(weight.nbytes) // ALIGNED) * ALIGNED


def _all_gather(whole: torch.Tensor, own: torch.Tensor, group: Any = None) -> None:
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
    gather(whole, own, group=group)


class Shards:
    """The frozen weights of a network, shared out among the processes, which make and use it together.

    `device` is where the network will run: there lie the shares, what is not shared out, and one part at a time.
    """

    def __init__(self, network: Any, device: torch.device) -> None:
        # What is said is read on the CPU: a GPU goes on with its work meanwhile.
        self._group = dist.new_group(backend="gloo")
        self._rounds = 0
        self._held = NOTHING
        self._are_together = False
        groups = _modules_of_parts(network)
        self._parts = [_Part(_frozen(modules)) for modules in groups]
        # One for all: with memory of their own, parts that come and go leave a CPU's heap in pieces.
        self._buffer = torch.empty(max(part.size for part in self._parts), dtype=torch.uint8, device=device)
        for number, (part, modules) in enumerate(zip(self._parts, groups, strict=True)):
            part.move(_frozen(modules), self._buffer)
            for module in modules:
                self._watch(module, number)
        self._free()
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
        # The same storage as before: autograd holds on to the weights that look into it.
        self._buffer.untyped_storage().resize_(len(self._buffer))
        self._are_together = True
        try:
            yield
            while self._round(NOTHING) != NOTHING:
                pass
        finally:
            self._are_together = False
            self._free()

    def _free(self) -> None:
        self._buffer.untyped_storage().resize_(0)
        self._held = NOTHING

    def _need(self, number: int) -> None:
        """Hold this part, and no other: a layer is done with when the next one begins."""
        if not self._are_together:
            raise RuntimeError("The network's weights lie in several processes, and it was run outside of together().")
        while self._held != number:
            self._held = self._round(number)

    def _round(self, needed: int) -> int:
        """Gather a part that any process needs next, each of them in its turn; its number, NOTHING at the end."""
        said = torch.empty(dist.get_world_size(), dtype=torch.int64)
        _all_gather(said, torch.tensor([needed]), self._group)
        self._rounds += 1
        in_turn: list[int] = said.roll(self._rounds).tolist()
        chosen = next((number for number in in_turn if number != NOTHING), NOTHING)
        if chosen != NOTHING:
            part = self._parts[chosen]
            _all_gather(self._buffer[: part.size], part.own)
        return chosen

    def _watch(self, module: Any, number: int) -> None:
        def before(*_: Any) -> None:
            if _reads_weights(module):
                self._need(number)

        def on_the_way_back(_: torch.Tensor) -> None:
            self._need(number)

        def after(_: Any, __: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                    tensor.register_hook(on_the_way_back)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        for weight in _frozen([module]):
            weight.needed = lambda: self._need(number)


def share_out(network: Any, device: torch.device, run: Callable[[], torch.Tensor], name: str) -> Shards:
    """Shards of a network which lies on the CPU; called by all processes.

    `run` makes a loss. Raises ModelError where its gradient is another one afterwards: a layer that is gone would be
    read as whatever part has taken its place.
    """
    expected = _gradient(network, run)
    shards = Shards(network, device)
    with shards.together():
        found = _gradient(network, run)
    if not (found - expected).norm() <= AGREES_WITHIN * expected.norm():
        raise ModelError(
            f"{name} reads weights outside of the layers they belong to, so they can't lie in several processes. "
            "Launch with --multi_gpu instead of --use_fsdp."
        )
    return shards


def _gradient(network: Any, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    was_training = network.training
    network.eval()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    found = torch.autograd.grad(run(), weights, allow_unused=True)
    network.train(was_training)
    return torch.cat([gradient.float().cpu().flatten() for gradient in found if gradient is not None])


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


def _reads_weights(module: Any) -> bool:
    return getattr(module.__dict__.get("forward"), "reads_weights", True)


def _modules_of_parts(network: Any) -> list[list[Any]]:
    """Layers of stacks, and matrices outside of them (embeddings, head); in one list what shares a weight."""
    parts: list[list[Any]] = []
    for module in dict.fromkeys(_runs_alone(network)):
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
