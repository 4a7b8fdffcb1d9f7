"""A prompt and its several targets as one sequence, so that a causal model reads the prompt once.

prompt       first target    second target        each token sees the prompt and its own target up to itself;
0 1 2 3 4    5 6 7           5 6 7 8              positions go on from the prompt's end in each target
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tomtat.models.devices import to_device

PROMPT, PADDING = 0, -1
"""Which piece a token belongs to; targets count from 1."""


@dataclass(frozen=True)
class PackedRow:
    """One value for each token that is read: a target's last stands before none and is not read at all."""

    ids: list[int]
    positions: list[int]
    pieces: list[int]
    before_targets: list[int]
    """Place of what stands before each target token, target after target. The last prompt token stands before the first
    token of each target."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, prompt: Sequence[int], targets: Sequence[Sequence[int]]) -> "PackedRow":
        length = len(prompt)
        row = cls(list(prompt), list(range(length)), [PROMPT] * length, [])
        for piece, target in enumerate(targets, start=1):
            read = target[:-1]
            start = len(row.ids)
            row.before_targets.extend([length - 1, *range(start, start + len(read))])
            row.ids.extend(read)
            row.positions.extend(range(length, length + len(read)))
            row.pieces.extend([piece] * len(read))
        return row


@dataclass(frozen=True)
class Packed:
    """Tensors are (rows, tokens)."""

    ids: torch.Tensor
    positions: torch.Tensor
    pieces: torch.Tensor
    before_targets: tuple[torch.Tensor, torch.Tensor]
    """Row and place of what stands before each target token, row after row."""

    @classmethod
    def of(cls, rows: Sequence[PackedRow], pad: int, device: torch.device, width: int | None = None) -> "Packed":
        """`width` tokens wide, by default as wide as the longest row."""
        width = width or max(map(len, rows))

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return to_device(torch.tensor([[*row, *[fill] * (width - len(row))] for row in values]), device)

        found = torch.tensor([(number, place) for number, row in enumerate(rows) for place in row.before_targets])
        places = to_device(found, device)
        return cls(
            padded([row.ids for row in rows], pad),
            padded([row.positions for row in rows], 0),
            padded([row.pieces for row in rows], PADDING),
            (places[:, 0], places[:, 1]),
        )

    def layout(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What a network must be told beside the ids."""
        return {"attention_mask": self.additive_mask(dtype), "position_ids": self.positions}

    def additive_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """(rows, 1, tokens, tokens), 0 where a token is seen. Transformers hands a mask of four dimensions on as it is,
        and both its attentions add one in floating point; a boolean one means something to SDPA alone."""
        width = self.ids.shape[1]
        before = torch.ones(width, width, dtype=torch.bool, device=self.ids.device).tril()
        seen, seeing = self.pieces[:, None, :], self.pieces[:, :, None]
        visible = before & ((seen == seeing) | (seen == PROMPT))
        mask = torch.zeros(visible.shape, dtype=dtype, device=self.ids.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
