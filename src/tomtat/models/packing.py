"""A prompt and its several targets as one sequence, so that a causal model reads the prompt once.

prompt       first target    second target        each token sees the prompt and its own target up to itself;
0 1 2 3 4    5 6 7           5 6 7 8              positions go on from the prompt's end in each target
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tomtat.models.base import Choices

PROMPT, PADDING = 0, -1
"""Which piece a token belongs to; targets count from 1."""


@dataclass(frozen=True)
class Packed:
    """Tensors are (rows, tokens)."""

    ids: torch.Tensor
    positions: torch.Tensor
    pieces: torch.Tensor
    before_targets: tuple[torch.Tensor, torch.Tensor]
    """Row and place of what stands before each target token, target after target. The last prompt token stands before
    the first token of each target; a target's last token stands before none and is not read at all."""

    @classmethod
    def of(cls, rows: Sequence[Choices], pad: int, device: torch.device) -> "Packed":
        ids: list[list[int]] = []
        positions: list[list[int]] = []
        pieces: list[list[int]] = []
        places: list[tuple[int, int]] = []
        for number, row in enumerate(rows):
            length = len(row.prompt_ids)
            ids.append(list(row.prompt_ids))
            positions.append(list(range(length)))
            pieces.append([PROMPT] * length)
            for piece, target in enumerate(row.targets, start=1):
                read = target[:-1]
                start = len(ids[-1])
                places += [(number, length - 1), *((number, start + offset) for offset in range(len(read)))]
                ids[-1] += read
                positions[-1] += range(length, length + len(read))
                pieces[-1] += [piece] * len(read)
        width = max(map(len, ids))

        def padded(values: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([[*row, *[fill] * (width - len(row))] for row in values], device=device)

        found = torch.tensor(places, device=device)
        return cls(padded(ids, pad), padded(positions, 0), padded(pieces, PADDING), (found[:, 0], found[:, 1]))

    def additive_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """(rows, 1, tokens, tokens), 0 where a token is seen. Transformers hands a mask of four dimensions on as it is,
        and both its attentions add one in floating point; a boolean one means something to SDPA alone."""
        width = self.ids.shape[1]
        before = torch.ones(width, width, dtype=torch.bool, device=self.ids.device).tril()
        seen, seeing = self.pieces[:, None, :], self.pieces[:, :, None]
        visible = before & ((seen == seeing) | (seen == PROMPT))
        mask = torch.zeros(visible.shape, dtype=dtype, device=self.ids.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
