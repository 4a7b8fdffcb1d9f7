"""Scores of predictions against references, each with a 95 % interval and the recipe that made it.

Every metric here is a function from texts to values per row (or to a corpus statistic); a set of scores is made by
`score_all`. Values are on a scale from 0 to 100.
"""

from collections.abc import Sequence

from tomtat.errors import DataError
from tomtat.metrics.bleu import corpus_bleu, notebook_bleu
from tomtat.metrics.rouge import rouge
from tomtat.types import Score

__all__ = ["score_all"]


def score_all(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[Score]:
    """ROUGE-1/2/L/Lsum, corpus BLEU and the notebook's BLEU of one prediction a row against its references."""
    if len(predictions) != len(references):
        # sacreBLEU and zip would cut to the shorter list without a word.
        raise DataError(f"{len(predictions):,} predictions but references for {len(references):,} rows.")
    if not predictions:
        raise DataError("There is nothing to score: no row.")
    if empty := sum(not texts for texts in references):
        raise DataError(f"{empty:,} of {len(references):,} rows have no reference to score against.")
    return [
        *rouge(predictions, references),
        corpus_bleu(predictions, references),
        notebook_bleu(predictions, references),
    ]
