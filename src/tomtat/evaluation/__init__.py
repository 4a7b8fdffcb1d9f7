"""How good a run is: its summaries of held-out rows, scored beside yardsticks on the same rows."""

from tomtat.evaluation.evaluate import Evaluation, evaluate
from tomtat.evaluation.yardsticks import lead3

__all__ = ["Evaluation", "evaluate", "lead3"]
