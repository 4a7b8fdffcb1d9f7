"""Scores of parts of the test rows: where a model is weak is hidden by the mean over all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tomtat.evaluation.leakage import Leakage
from tomtat.evaluation.names import headline
from tomtat.evaluation.yardsticks import speakers
from tomtat.metrics import score_rows
from tomtat.metrics.scorer import Scored
from tomtat.text import words
from tomtat.text.fragments import ngrams
from tomtat.types import Example, Score

SEEN = "seen in training"
FEWEST = 3
"""Fewer rows than these are no slice."""


@dataclass(frozen=True)
class Slice:
    by: str
    label: str
    rows: tuple[int, ...]
    scores: dict[str, list[Score]]
    """By system."""


def make_slices(
    examples: Sequence[Example],
    sources: Sequence[str],
    systems: dict[str, Scored],
    share_read: Sequence[float] | None,
    leakage: Leakage | None,
) -> list[Slice]:
    groups = _groups(examples, sources, share_read, leakage)
    large = [(by, label, rows) for by, label, rows in groups if len(rows) >= FEWEST]
    parts = Counter(by for by, _, _ in large)
    return [
        Slice(by, label, tuple(rows), {system: _scores(scored, rows) for system, scored in systems.items()})
        for by, label, rows in large
        if parts[by] > 1 or by == SEEN  # one part alone is nearly the whole, and says nothing
    ]


def _scores(scored: Scored, rows: Sequence[int]) -> list[Score]:
    wanted = headline(metric.name for metric in scored.values)
    return score_rows([metric.take(rows) for metric in scored.values if metric.name in wanted])


def _groups(
    examples: Sequence[Example], sources: Sequence[str], share_read: Sequence[float] | None, leakage: Leakage | None
) -> list[tuple[str, str, list[int]]]:
    lengths = [float(len(words(source))) for source in sources]
    groups = _thirds("length of the source, words", lengths)
    if share_read is not None and min(share_read) < 1:
        cut = [1 - share for share in share_read]
        bounds = [("all read", 0.0, 0.0), ("up to a third cut off", 1e-9, 1 / 3), ("more cut off", 1 / 3 + 1e-9, 1.0)]
        groups += [
            ("share of the source cut off", label, [n for n, share in enumerate(cut) if low <= share <= high])
            for label, low, high in bounds
        ]
    groups += _by_speakers([speakers(example.source) for example in examples])
    novelty = [_novelty(example.references[0], source) for example, source in zip(examples, sources, strict=True)]
    groups += _thirds("novel bigrams of the reference, %", novelty)
    if leakage is not None and leakage.seen:
        clean = [n for n in range(len(examples)) if n not in leakage.seen]
        groups += [(SEEN, "no (clean)", clean), (SEEN, "yes", sorted(leakage.seen))]
    return groups


def _thirds(by: str, values: Sequence[float]) -> list[tuple[str, str, list[int]]]:
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    if low == high:
        return []
    parts = [
        (f"up to {low:.0f}", [n for n, value in enumerate(values) if value <= low]),
        (f"{low:.0f} to {high:.0f}", [n for n, value in enumerate(values) if low < value <= high]),
        (f"over {high:.0f}", [n for n, value in enumerate(values) if value > high]),
    ]
    return [(by, label, rows) for label, rows in parts]


def _by_speakers(counts: Sequence[int]) -> list[tuple[str, str, list[int]]]:
    several = sorted(set(counts))
    if len(several) < 2:
        return []
    named = {0: "none (a text)", 1: "one", 2: "two"}
    return [
        ("speakers", named.get(many, str(many)), [n for n, c in enumerate(counts) if c == many]) for many in several
    ]


def _novelty(reference: str, source: str) -> float:
    known = frozenset(ngrams(words(source), 2))
    grams = ngrams(words(reference), 2)
    return 100 * sum(gram not in known for gram in grams) / len(grams) if grams else 0.0
