"""How much of the summaries is copied, and how much is told in other words."""

from collections.abc import Sequence
from dataclasses import dataclass

from tomtat.text.fragments import SourceIndex, coverage, density, ngrams

ORDERS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Copying:
    """Of one summary, or the mean over those of a split."""

    coverage: float
    """Share of the summary's words that stand in a run copied from the source (Grusky et al. 2018)."""
    density: float
    """Mean length of the copied run that a word stands in, words not copied counting 0 (the same paper)."""
    novel: tuple[float, ...]
    """Share of its runs of 1, 2, 3 and 4 words that don't stand in the source."""
    compression: float
    """Words of the source per word of the summary."""


def copying(source: Sequence[str], summary: Sequence[str]) -> Copying:
    """Of a summary with at least one word. Words are compared as they are."""
    found = SourceIndex(source).fragments(summary)
    return Copying(
        coverage(found, len(summary)),
        density(found, len(summary)),
        tuple(_novel(source, summary, order) for order in ORDERS),
        len(source) / len(summary),
    )


def _novel(source: Sequence[str], summary: Sequence[str], order: int) -> float:
    wanted = ngrams(summary, order)
    known = set(ngrams(source, order)) if wanted else set()
    return sum(run not in known for run in wanted) / len(wanted) if wanted else 0.0


def mean_copying(rows: Sequence[Copying]) -> Copying | None:
    if not rows:
        return None
    count = len(rows)
    return Copying(
        sum(row.coverage for row in rows) / count,
        sum(row.density for row in rows) / count,
        tuple(sum(row.novel[place] for row in rows) / count for place in range(len(ORDERS))),
        sum(row.compression for row in rows) / count,
    )


def in_words(mean: Copying) -> str:
    """What a density says. The bounds are those between the thirds of Newsroom's summaries, about."""
    if mean.density < 1.5:
        return "told in other words"
    return "partly copied" if mean.density < 8 else "mostly copied"
