"""ROUGE-1/2/L/Lsum by rouge-score, with both sides split into sentences by us.

ROUGE-Lsum compares sentence by sentence and takes newlines as their ends. Many tokenizers drop newlines, which costs
7 points on CNN/DailyMail when only the reference has them; so neither side's newlines are trusted alone.
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from tomtat.metrics.intervals import RESAMPLES, mean_interval
from tomtat.text import SPLITTER, sentences
from tomtat.types import Score

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[Score]:
    """F-measures; where rows have several references, their mean and (`-best`) the best of them for each metric."""
    rows = [row_scores(prediction, texts) for prediction, texts in zip(predictions, references, strict=True)]
    most = max(len(texts) for texts in references)
    scores = [
        _score(kind, [_mean(row[kind]) for row in rows], "mean" if most > 1 else "single", most) for kind in KINDS
    ]
    if most > 1:
        scores += [_score(f"{kind}-best", [max(row[kind]) for row in rows], "best", most) for kind in KINDS]
    return scores


def row_scores(prediction: str, references: Sequence[str]) -> dict[str, list[float]]:
    """F-measures x100 of one prediction, per kind, against each of its references."""
    predicted = "\n".join(sentences(prediction))
    each = [_scorer().score("\n".join(sentences(reference)), predicted) for reference in references]
    return {kind: [100 * result[kind].fmeasure for result in each] for kind in KINDS}


def _score(name: str, values: list[float], policy: str, most: int) -> Score:
    low, high = mean_interval(values)
    recipe = (
        f"rouge-score-{version('rouge-score')} F x100, stem=yes, sentences={SPLITTER}, references={policy}"
        + (f" of {most}" if most > 1 else "")
        + f", n={len(values)}, bootstrap={RESAMPLES} seed=0"
    )
    return Score(name, _mean(values), low, high, recipe)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=True)
