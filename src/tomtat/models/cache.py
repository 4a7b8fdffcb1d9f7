"""Keys and values of attention, in memory that grows by pieces."""

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Positions allocated beyond what is needed. Transformers' own layer copies everything at each token."""


def keep_keys_in(network: Any, dtype: torch.dtype) -> None:
    """From now on the network's growing caches hold keys and values in this; attention then multiplies in it.

    An encoder has no cache: its attention asks the module (attention.py).
    """
    for module in network.modules():
        module.keys_dtype = dtype


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values (lanes, heads, positions, head width), with lanes that come and go."""

    def __init__(self, dtype: torch.dtype | None = None, room: int = ROOM) -> None:
        super().__init__()
        self._dtype = dtype
        """None: as they come."""
        self._spare = room
        self._room: list[torch.Tensor] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.write(keys, values)
        return self.keys, self.values

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Further positions; all keys and all values in one piece, with what room there is behind them."""
        start, size = self.get_seq_length(), self.room_for(keys.shape[-2])
        end = start + keys.shape[-2]
        if not self._fits(end):
            self._grow(keys, values, start, size)
        for room, new in zip(self._room, (keys, values), strict=True):
            room[:, :, start:end] = new
        self._hold(end)
        return self.whole()

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._room
        return keys, values

    def room_for(self, count: int) -> int:
        """Positions in all, once so many are written to those that are."""
        end = self.get_seq_length() + count
        return int(self._room[0].shape[-2]) if self._fits(end) else end + self._spare

    def _fits(self, end: int) -> bool:
        return bool(self._room) and end <= self._room[0].shape[-2] and self._room[0].is_contiguous()

    def _grow(self, keys: torch.Tensor, values: torch.Tensor, length: int, size: int) -> None:
        rooms = [new.new_empty(*new.shape[:2], size, new.shape[3], dtype=self._dtype) for new in (keys, values)]
        for room, old in zip(rooms, self._room, strict=False):
            room[:, :, :length] = old[:, :, :length]
        for room in rooms:
            # Whoever reads the whole room hides this, but nothing times what is no number is none either.
            room[:, :, length:] = 0
        self._room = rooms

    def _hold(self, length: int) -> None:
        self.keys, self.values = (room[:, :, :length] for room in self._room)
        self.is_initialized = True

    def put(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold exactly these."""
        self._room = [keys, values]
        self._hold(keys.shape[-2])

    def keep(self, order: list[int]) -> None:
        """Lane `order[n]` becomes lane n; each is n or comes from behind those kept, so that little is copied."""
        length = self.get_seq_length()
        for place, lane in enumerate(order):
            if place != lane:
                for room in self._room:
                    room[place, :, :length] = room[lane, :, :length]
        self._room = [room[: len(order)] for room in self._room]
        self._hold(length)

    def trim(self, first: int, last: int) -> None:
        """Only the positions from `first` up to before `last` are left. Their memory goes when the layer next grows."""
        self._room = [room[:, :, first:] for room in self._room]
        self._hold(last - first)

    def drop_last(self, count: int) -> None:
        """Without the last positions; what is taken next stands in their place."""
        self._hold(self.get_seq_length() - count)

    def shift(self, lane: int, by: int) -> None:
        """Let a lane lose its last positions, and move what is left to the right edge; a mask must hide the left."""
        end = self.get_seq_length()
        for room in self._room:
            room[lane, :, by:end] = room[lane, :, : end - by].clone()

    def branch(self, sources: list[int], recent: int) -> None:
        """Lane n goes on from lane `sources[n]`, which differs from it in the last `recent` positions at most."""
        end = self.get_seq_length()
        places = [place for place, source in enumerate(sources) if place != source]
        moved = [sources[place] for place in places]
        for room in self._room:
            room[places, :, end - recent : end] = room[moved, :, end - recent : end]

    def repeat(self, times: int) -> None:
        self.put(self.keys.repeat_interleave(times, 0), self.values.repeat_interleave(times, 0))

    def join(self, other: "GrowingLayer", left: bool) -> None:
        """Further lanes; the shorter ones are filled with zeros, which a mask must hide."""
        both = zip((self.keys, self.values), (other.keys, other.values), strict=True)
        self.put(*(torch.cat(level(ours, theirs, left)) for ours, theirs in both))


def level(ours: torch.Tensor, theirs: torch.Tensor, left: bool, dimension: int = 2) -> list[torch.Tensor]:
    """Both at the longer one's length along a dimension, filled with zeros on the left or the right."""
    length = max(ours.shape[dimension], theirs.shape[dimension])
    filled = []
    for part in (ours, theirs):
        shape = list(part.shape)
        shape[dimension] = length - shape[dimension]
        zeros = part.new_zeros(shape)
        filled.append(torch.cat([zeros, part] if left else [part, zeros], dimension) if shape[dimension] else part)
    return filled


def growing_cache(network: Any, layers: int, room: int = ROOM, dtype: torch.dtype | None = None) -> Any:
    dtype = dtype or getattr(network, "keys_dtype", None)
    cache = DynamicCache()
    cache.layers = [GrowingLayer(dtype, room) for _ in range(layers)]
    cache.layer_class_to_replicate = None
    return cache
