"""What a metric finds in each row, and how rows become one number with an interval.

Every score here is a function of sums over rows: a mean or a share divides two sums, corpus BLEU needs ten. So one
bootstrap (Efron 1979; Koehn 2004 for text scores) and one permutation test serve all metrics, by products of weights
with columns.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tomtat.text import words
from tomtat.types import Fact, Score

RESAMPLES = 2000
SEED = 0
CHUNK = 100
"""Resamples at a time: 2,000 over 11,490 rows at once would hold 180 MB."""

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Rows:
    """What predictions are measured against; each list has one entry a row."""

    references: Sequence[tuple[str, ...]]
    sources: Sequence[str] | None = None
    """Conversations as one `Speaker: words` line per message; None where nobody gave them."""
    facts: Sequence[tuple[Fact, ...]] | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def most_references(self) -> int:
        return max(len(texts) for texts in self.references)

    @cached_property
    def source_words(self) -> list[list[str]]:
        """Cut once for all metrics and systems; equal words are one object, or long articles would fill the memory."""
        return [[sys.intern(word) for word in words(source)] for source in self.sources or ()]

    def take(self, numbers: Sequence[int], references: Sequence[tuple[str, ...]]) -> "Rows":
        """Some of the rows, held against other references; words that were cut already come along."""
        sources, facts = self.sources, self.facts
        other = Rows(
            references,
            None if sources is None else [sources[number] for number in numbers],
            None if facts is None else [facts[number] for number in numbers],
        )
        if "source_words" in self.__dict__:
            other.__dict__["source_words"] = [self.source_words[number] for number in numbers]
        return other


@dataclass(frozen=True)
class RowValues:
    """One metric's findings in every row of one system."""

    name: str
    recipe: str
    """All that is needed to make the number again, but for the rows themselves."""
    columns: Array
    """(rows, 2): a numerator and a denominator, whose sums are divided; (rows, 10) for corpus BLEU's counts."""
    kind: Literal["ratio", "bleu"] = "ratio"

    def total(self, sums: Array) -> Array:
        """Scores from sums over rows, (..., width) to (...); not a number where nothing was counted."""
        if self.kind == "bleu":
            return bleu_from_counts(sums)
        counted = sums[..., 1]
        return np.where(counted > 0, sums[..., 0] / np.where(counted > 0, counted, 1), np.nan)

    @property
    def value(self) -> float:
        return float(self.total(self.columns.sum(axis=0)))

    @property
    def per_row(self) -> Array:
        """(rows,): each row's own value, not a number where it has none."""
        return self.total(self.columns)

    def take(self, rows: Sequence[int]) -> "RowValues":
        return RowValues(self.name, self.recipe, self.columns[list(rows)], self.kind)


@dataclass
class Measured:
    """What one metric made of one system's predictions."""

    values: list[RowValues]
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers must know: texts that were too long, for instance."""


def mean_of(name: str, recipe: str, values: Sequence[float]) -> RowValues:
    """The mean over all rows."""
    return RowValues(name, recipe, np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1))


def share_of(name: str, recipe: str, found: Sequence[float], counted: Sequence[float], scale: float = 100) -> RowValues:
    """Found over counted, both summed over rows, so that a row with many counts for more than one with few."""
    columns = np.stack([scale * np.asarray(found, dtype=np.float64), np.asarray(counted, dtype=np.float64)], axis=1)
    return RowValues(name, recipe, columns)


def share_of_pairs(name: str, recipe: str, pairs: Sequence[tuple[float, float]]) -> RowValues:
    """`share_of` for one (found, counted) a row."""
    return share_of(name, recipe, [found for found, _ in pairs], [counted for _, counted in pairs])


def by_reference(name: str, recipe: str, each: Sequence[Sequence[float]]) -> list[RowValues]:
    """From values against every reference: their mean; with several also the best, and the jackknife.

    The jackknife leaves each reference out in turn and takes the best of the others, then the mean: the only way in
    which a system with k references to match can stand beside a human, who has k - 1 (as in ROUGE-1.5.5).
    """
    fewest, most = min(len(values) for values in each), max(len(values) for values in each)
    if most == 1:
        return [mean_of(name, f"{recipe}, references=single", [values[0] for values in each])]
    count = str(most) if fewest == most else f"{fewest} to {most}"
    return [
        mean_of(name, f"{recipe}, references=mean of {count}", [sum(values) / len(values) for values in each]),
        mean_of(f"{name}-best", f"{recipe}, references=best of {count}", [max(values) for values in each]),
        mean_of(f"{name}-jackknife", f"{recipe}, references=jackknife of {count}", [_jackknife(v) for v in each]),
    ]


def _jackknife(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    best_others = [max(*values[:left_out], *values[left_out + 1 :], 0.0) for left_out in range(len(values))]
    return sum(best_others) / len(best_others)


def score_rows(values: Sequence[RowValues]) -> list[Score]:
    """A score with its 95 % percentile interval for each metric that counted anything, all over the same resamples."""
    if not values:
        return []
    rows = len(values[0].columns)
    totals = [np.concatenate(parts) for parts in zip(*_resampled(values, rows), strict=True)]
    scores = []
    for metric, resampled in zip(values, totals, strict=True):
        value = metric.value
        if np.isnan(value):
            continue
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        recipe = f"{metric.recipe}, n={rows}, bootstrap={RESAMPLES} seed={SEED}"
        # The percentiles of a skewed corpus score may leave the score itself just outside.
        scores.append(Score(metric.name, value, min(float(low), value), max(float(high), value), recipe))
    return scores


def _resampled(values: Sequence[RowValues], rows: int) -> Iterator[list[Array]]:
    columns = np.concatenate([metric.columns for metric in values], axis=1)
    ends = np.cumsum([metric.columns.shape[1] for metric in values])[:-1]
    for weights in resamples(rows):
        parts = np.split(weights @ columns, ends, axis=1)
        yield [metric.total(sums) for metric, sums in zip(values, parts, strict=True)]


def resamples(rows: int, count: int = RESAMPLES, seed: int = SEED) -> Iterator[Array]:
    """Chunks of bootstrap weights, (chunk, rows): how often each row is drawn."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, CHUNK):
        drawn = generator.integers(0, rows, (min(CHUNK, count - start), rows))
        yield np.stack([np.bincount(row, minlength=rows) for row in drawn]).astype(np.float64)


BLEU_ORDERS = 4


def bleu_from_counts(sums: Array) -> Array:
    """Corpus BLEU with sacreBLEU's default smoothing (`exp`) from summed matches, totals and the two lengths.

    (..., 10) to (...): matches of 1- to 4-grams, 1- to 4-grams in all, length of the predictions, of the references.
    """
    matches, totals = sums[..., :4], sums[..., 4:8]
    ours, theirs = sums[..., 8], sums[..., 9]
    log_sum = np.zeros(ours.shape)
    halving = np.ones(ours.shape)
    usable = np.ones(ours.shape, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for order in range(BLEU_ORDERS):
            missed = (matches[..., order] == 0) & (totals[..., order] > 0)
            halving = np.where(missed, 2 * halving, halving)
            precision = np.where(
                missed, 100 / (halving * totals[..., order]), 100 * matches[..., order] / totals[..., order]
            )
            usable &= totals[..., order] > 0
            log_sum = log_sum + np.log(np.where(usable, precision, 1))
        brevity = np.where(ours < theirs, np.exp(1 - theirs / np.maximum(ours, 1e-9)), 1.0)
    any_match = matches[..., 0] > 0
    return np.where(usable & any_match, brevity * np.exp(log_sum / BLEU_ORDERS), 0.0)
