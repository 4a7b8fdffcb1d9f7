"""No n-gram twice within a summary, while the source may be copied freely."""

import torch
from transformers import LogitsProcessor

from tomtat.models.decoding import continuations


class NoRepeatedNgrams(LogitsProcessor):  # type: ignore[misc]
    """Transformers' own processor counts a causal model's prompt too, so it forbids copying from the article:
    on CNN/DailyMail that costs what it should win."""

    def __init__(self, size: int, skip: int) -> None:
        self.size = size
        self.skip = skip
        """Tokens at the front that are not part of the summary."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for row, ids in enumerate(input_ids[:, self.skip :].tolist()):
            if banned := continuations(ids, self.size):
                scores[row, banned] = -torch.inf
        return scores
