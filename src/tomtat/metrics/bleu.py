"""BLEU twice: over the corpus by sacreBLEU, and as the course notebook took it, for comparison only."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from tomtat.metrics.values import Measured, Rows, RowValues, mean_of

UNSPACED = {"zh": "zh", "ja": "char", "th": "char"}
"""sacreBLEU's tokenizers that need nothing more; its default 13a knows no words without blanks."""


class CorpusBleu:
    """Corpus BLEU (Papineni et al. 2002; Post 2018); with several references the closest length and all n-grams."""

    def __init__(self, language: str = "en") -> None:
        from sacrebleu.metrics import BLEU

        # Sentence by sentence only for the counts, which add up to the corpus's.
        self._bleu = BLEU(tokenize=UNSPACED.get(language, "13a"), effective_order=True)
        self._labelled = BLEU(tokenize=UNSPACED.get(language, "13a"))

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        counts = []
        for prediction, references in zip(predictions, rows.references, strict=True):
            score = self._bleu.sentence_score(prediction, list(references))
            counts.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
        return Measured([RowValues("bleu", self._recipe(rows), np.asarray(counts, dtype=np.float64), "bleu")])

    def _recipe(self, rows: Rows) -> str:
        numbers = {len(references) for references in rows.references}
        self._labelled.num_refs = numbers.pop() if len(numbers) == 1 else -1  # "var" in sacreBLEU's signature
        return f"sacrebleu {self._labelled.get_signature().format()}"


class NotebookBleu:
    """Mean of NLTK's sentence BLEU, split on blanks, smoothing method1, x100 (the notebook prints 0 to 1).

    Kept so that old figures can be compared; it favours short texts (two equal one-word texts score 17.8).
    """

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

        smoothing = SmoothingFunction().method1
        values = [
            100
            * float(sentence_bleu([text.split() for text in texts], prediction.split(), smoothing_function=smoothing))
            for prediction, texts in zip(predictions, rows.references, strict=True)
        ]
        recipe = f"nltk-{version('nltk')} mean of sentence BLEU x100, split on blanks, smoothing=method1"
        return Measured([mean_of("bleu-nltk", f"{recipe}, references={_policy(rows)}", values)])


def _policy(rows: Rows) -> str:
    return "single" if rows.most_references == 1 else f"all {rows.most_references} at once"
