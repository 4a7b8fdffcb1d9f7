"""Scores of predictions against references and sources, each with a 95 % interval and the recipe that made it.

    scorer = Scorer(Rows(references, sources), EvaluateSettings())
    print(scorer.score(predictions).scores, scorer.not_run)

A metric gives values for every row (`values.py`); means, intervals, comparisons and slices are made from those.
"""

from tomtat.metrics.scorer import Scored, Scorer
from tomtat.metrics.values import Rows, RowValues, score_rows

__all__ = ["RowValues", "Rows", "Scored", "Scorer", "score_rows"]
