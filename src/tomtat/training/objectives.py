"""What a step makes smaller: the cross entropy of references, or the wrong order of a model's own candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from tomtat.config import CalibrateSettings
from tomtat.models import Encoded, SummarizerModel
from tomtat.models.base import Choices
from tomtat.models.devices import to_device
from tomtat.training.cache import FrozenStates, Rows
from tomtat.training.rows import Lengths, rough_lengths


@dataclass(frozen=True)
class TrainingData:
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    references: list[tuple[str, ...]]
    """Of each validation row."""
    candidates: list[list[list[int]]]
    """Target ids of each training row's candidates, the best first; no list at all where references are learned."""

    @cached_property
    def choices(self) -> list[Choices]:
        """Each training row's reference and candidates, in this order."""
        return [
            Choices(row.prompt_ids, [row.target_ids, *candidates])
            for row, candidates in zip(self.train, self.candidates, strict=True)
        ]

    @property
    def seen_each_epoch(self) -> list[Rows]:
        """What the network reads again and again."""
        return [self.choices if self.candidates else self.train, self.validation]


class Objective(Protocol):
    """Training rows go by their numbers. Neither sum depends on how rows are batched."""

    lengths: Sequence[int]
    """Tokens of each row, for micro-batches within a budget; asking for one may encode its row."""
    rough_lengths: Sequence[int]
    """The same, estimated where that is quicker, for batches of alike rows."""

    def weight(self, rows: Sequence[int]) -> int:
        """What the loss of these rows is divided by, to make it a mean."""

    def loss_sum(self, rows: Sequence[int]) -> torch.Tensor: ...


def objective_for(
    model: SummarizerModel, data: TrainingData, settings: CalibrateSettings, frozen: FrozenStates | None = None
) -> Objective:
    if data.candidates:
        return RankCandidates(model, data, settings, frozen)
    return CrossEntropy(model, data.train, frozen)


READ_SHARE = 1 / 8
"""What a source token costs that a frozen encoder has read, beside one that goes through all layers: each layer of the
decoder looks at it, and nothing more."""


class CrossEntropy:
    """Mean over the real target tokens, in nats."""

    def __init__(self, model: SummarizerModel, rows: Sequence[Encoded], frozen: FrozenStates | None = None) -> None:
        self.model = model
        self.rows = rows
        self.frozen = frozen
        is_read_already = frozen is not None and frozen.part.is_whole
        self.lengths: Sequence[int] = Lengths(rows, READ_SHARE if is_read_already else 1.0)
        self.rough_lengths: Sequence[int] = rough_lengths(rows)

    def weight(self, rows: Sequence[int]) -> int:
        return sum(len(self.rows[row].target_ids) for row in rows)

    def loss_sum(self, rows: Sequence[int]) -> torch.Tensor:
        chosen = [self.rows[row] for row in rows]
        if self.frozen is None:
            return self.model.loss_sum(chosen)
        return self.model.loss_sum(chosen, self.frozen.of(chosen))


class RankCandidates:
    """Mean over rows of the rank loss, plus the reference's weighted cross entropy per token."""

    def __init__(
        self,
        model: SummarizerModel,
        data: TrainingData,
        settings: CalibrateSettings,
        frozen: FrozenStates | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.frozen = frozen
        self.rows = data.choices
        # A source that a frozen encoder has read counts in full here: decoders of all targets look at it.
        self.lengths: Sequence[int] = [len(row) for row in self.rows]
        self.rough_lengths: Sequence[int] = self.lengths

    def weight(self, rows: Sequence[int]) -> int:
        return len(rows)

    def loss_sum(self, rows: Sequence[int]) -> torch.Tensor:
        chosen = [self.rows[row] for row in rows]
        found = self.model.log_probs(chosen, self.frozen.of(chosen) if self.frozen else None)
        return torch.stack([self._loss(*pair) for pair in zip(chosen, found, strict=True)]).sum()

    def _loss(self, row: Choices, log_probs: torch.Tensor) -> torch.Tensor:
        tokens = to_device(torch.tensor([len(target) for target in row.targets]), log_probs.device)
        cross_entropy = -log_probs[0] / tokens[0]
        normalised = log_probs[1:] / tokens[1:] ** self.settings.length_penalty
        return rank_loss(normalised, self.settings.margin) + self.settings.reference_weight * cross_entropy


def rank_loss(values: torch.Tensor, margin: float) -> torch.Tensor:
    """BRIO's contrastive loss of candidates (n,), the best first: sum over i < j of max(0, f_j - f_i + (j - i) margin).

    Liu et al. 2022, arXiv:2203.16804, equation 8.
    """
    places = torch.arange(len(values), device=values.device)
    apart = places[None, :] - places[:, None]
    excess = values[None, :] - values[:, None] + margin * apart
    return excess[apart > 0].clamp_min(0).sum()
