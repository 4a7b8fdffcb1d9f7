"""Keys and values of a prompt that several lanes read: held once, and read from memory once a step.

Lanes of one prompt ask together, as so many rows of one product; what each has written itself lies apart. The weights
of both parts come from one softmax, so that nothing but the order of sums differs from attention over copies.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from tomtat.models.cache import GrowingLayer


def can_share(network: Any) -> bool:
    """Whether the network's attention takes `Shared`; ours does, in place of torch's (attention.py)."""
    return bool(network.config._attn_implementation == "sdpa")


class Readers:
    """Which lanes read which prompt.

    `seen` (prompts, columns) is false where a prompt has none of the columns; `prompt_of` names each lane's prompt.
    """

    def __init__(self, seen: torch.Tensor, prompt_of: list[int]) -> None:
        self.seen = seen
        self.prompt_of = prompt_of
        lanes: dict[int, list[int]] = defaultdict(list)
        for lane, prompt in enumerate(prompt_of):
            lanes[prompt].append(lane)
        most = max(map(len, lanes.values()))
        # Where a prompt has fewer lanes, its first one asks for them.
        table = [lanes[prompt] + lanes[prompt][:1] * (most - len(lanes[prompt])) for prompt in range(len(seen))]
        back = {lane: prompt * most + place for prompt in lanes for place, lane in enumerate(lanes[prompt])}
        self._lanes = torch.tensor(table, device=seen.device)
        self._back = torch.tensor([back[lane] for lane in range(len(prompt_of))], device=seen.device)

    def together(self, rows: torch.Tensor) -> torch.Tensor:
        """(lanes, groups, rows, width) as (prompts, groups, rows of all its lanes, width)."""
        return rows[self._lanes].transpose(1, 2).flatten(2, 3)

    def apart(self, rows: torch.Tensor) -> torch.Tensor:
        """The other way round."""
        each = self._lanes.shape[1]
        return rows.unflatten(2, (each, -1)).transpose(1, 2).flatten(0, 1)[self._back]


@dataclass
class Shared:
    """Keys, or values, as attention gets them."""

    prompts: torch.Tensor
    """(prompts, groups, columns, head width)"""
    own: torch.Tensor
    """(lanes, groups, columns, head width)"""
    readers: Readers


class SharedLayer(GrowingLayer):
    """What lanes have written, over the prompts that they read."""

    def __init__(self, prompts: GrowingLayer) -> None:
        super().__init__()
        self.prompts = prompts
        self.readers: Readers
        # In one piece, without the room to grow that nobody needs any longer.
        prompts.put(prompts.keys.contiguous(), prompts.values.contiguous())
        self.put(prompts.keys[:, :, :0], prompts.values[:, :, :0])

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[Shared, Shared]:
        dtype = self.prompts.keys.dtype
        own = super().update(keys.to(dtype), values.to(dtype))
        both = zip((self.prompts.keys, self.prompts.values), own, strict=True)
        k, v = (Shared(prompts, mine, self.readers) for prompts, mine in both)
        return k, v


def look_at_both(
    query: torch.Tensor, key: Shared, value: Shared, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """(lanes, 1, heads, width) from queries (lanes, heads, 1, width); `mask` is of what lanes wrote themselves."""
    lanes, heads, _one, width = query.shape
    readers, groups, dtype = key.readers, key.own.shape[1], query.dtype
    query = (query * (width**-0.5 if scaling is None else scaling)).to(key.own.dtype)
    query = query.view(lanes, groups, heads // groups, width)
    of_prompts = (readers.together(query) @ key.prompts.transpose(2, 3)).float()
    of_prompts = of_prompts.masked_fill_(~readers.seen[:, None, None], -torch.inf)
    of_own = (query @ key.own.transpose(2, 3)).float()
    if mask is not None:
        of_own = of_own.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else of_own + mask
    weights = torch.cat([readers.apart(of_prompts), of_own], -1).softmax(-1).to(value.own.dtype)
    columns = key.prompts.shape[2]
    said = readers.apart(readers.together(weights[..., :columns]) @ value.prompts)
    return (said + weights[..., columns:] @ value.own).to(dtype).view(lanes, 1, heads, width)
