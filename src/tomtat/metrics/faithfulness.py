"""Whether a summary says what its source says, as far as that can be told without a trained model.

ROUGE-1 precision against the source reaches about what large trained scorers reach on SummEval's consistency ratings,
so no faithfulness number should stand without it. Shares of numbers, names and dates that stand in the source are
stricter and blind to everything else.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from tomtat.metrics.values import Measured, Rows, mean_of, share_of, share_of_pairs
from tomtat.text import UNICODE_WORDS, Details, details, stands_in, words

KINDS = ("number", "name", "date")


class Faithfulness:
    def __init__(self) -> None:
        # Shared by the systems that are scored on the same rows.
        self._source = lru_cache(maxsize=None)(Details)

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        values = []
        if rows.sources is not None:
            precision = [
                _precision(words(text), source) for text, source in zip(predictions, rows.source_words, strict=True)
            ]
            values.append(
                mean_of("source-precision", f"ROUGE-1 precision against the source x100, {UNICODE_WORDS}", precision)
            )
            found = [self._details(text, source) for text, source in zip(predictions, rows.sources, strict=True)]
            for kind in KINDS:
                counts = [(sum(ok for k, ok in row if k == kind), sum(k == kind for k, _ in row)) for row in found]
                recipe = f"{kind}s of the summary that stand in the source x100, all rows together, details-1"
                values.append(share_of_pairs(f"{kind}s-in-source", recipe, counts))
        if rows.facts is not None and any(rows.facts):
            kept = [
                sum(stands_in(fact.text, text) for fact in facts)
                for text, facts in zip(predictions, rows.facts, strict=True)
            ]
            recipe = "facts of the data that stand word for word in the summary x100, all rows together"
            values.append(share_of("facts-kept", recipe, kept, [len(facts) for facts in rows.facts]))
        return Measured(values)

    def _details(self, text: str, source: str) -> list[tuple[str, bool]]:
        index = self._source(source)
        return [(detail.kind, index.has(detail)) for detail in details(text, index)]


def _precision(summary: list[str], source: list[str]) -> float:
    """Clipped, as ROUGE counts: a word said twice must stand twice."""
    shared = Counter(summary) & Counter(source)
    return 100 * shared.total() / len(summary) if summary else 0.0
