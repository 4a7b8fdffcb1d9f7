"""Beam search of one summary, as Transformers' `generate` has it with `early_stopping=True` and `length_penalty=1.0`.

Token for token the same; but its prompt is read once and not once a beam, others join it and leave beside it, and of
the memory only what beams differ in is copied: their own tokens.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from tomtat.models.decoding import Decoding

NEVER = -1e9
"""A score that nothing has: of beams that have not begun, as Transformers writes it."""


class Continued(NamedTuple):
    """What a beam goes on from, and the token it says."""

    beam: int
    token: int


class Beams:
    """The best beginnings of a summary so far, and the best whole ones."""

    def __init__(self, decoding: Decoding, ends: Collection[int]) -> None:
        self.width = decoding.num_beams
        self.max_new_tokens = decoding.max_new_tokens
        self.ends = frozenset(ends)
        # All begin alike, so one is enough to go on from.
        self._scores = [0.0, *[NEVER] * (self.width - 1)]
        self._whole: list[tuple[float, list[int]]] = []
        self._length = 0

    @property
    def is_done(self) -> bool:
        return len(self._whole) == self.width or self._length == self.max_new_tokens

    @property
    def best(self) -> list[list[int]]:
        """Token ids of the whole summaries, the best first."""
        return [ids for _, ids in self._whole]

    def step(self, log_probs: torch.Tensor, said: Sequence[list[int]]) -> list[Continued]:
        """One token more in each beam. `log_probs` (beams, vocabulary) in fp32 are what follows `said`, in nats."""
        total = (log_probs + torch.tensor(self._scores, device=log_probs.device)[:, None]).flatten()
        # So many that enough remain to go on with where all others end.
        scores, places = total.topk(max(2, 1 + len(self.ends)) * self.width)
        self._length += 1
        whole, going_on = self._whole.copy(), []
        for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
            one = Continued(*divmod(place, log_probs.shape[1]))
            if one.token not in self.ends and self._length < self.max_new_tokens:
                going_on.append((score, one))
            elif rank < self.width:
                whole.append((score / self._length, [*said[one.beam], one.token]))
        self._whole = sorted(whole, key=lambda pair: -pair[0])[: self.width]
        self._scores = [score for score, _ in going_on[: self.width]]
        return [one for _, one in going_on[: self.width]]
