"""How good a run is: its summaries of held-out rows, scored beside yardsticks on the same rows."""

from tomtat.evaluation.compare import Comparison, compare
from tomtat.evaluation.evaluate import Evaluation, evaluate, evaluate_predictions
from tomtat.evaluation.yardsticks import lead3

__all__ = ["Comparison", "Evaluation", "compare", "evaluate", "evaluate_predictions", "lead3"]
