"""BLEU twice: over the corpus by sacreBLEU, and as the course notebook took it, for comparison only."""

from collections.abc import Sequence
from importlib.metadata import version

from tomtat.metrics.intervals import RESAMPLES, mean_interval
from tomtat.types import Score


def corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Corpus BLEU with sacreBLEU's tokenizer 13a and its bootstrap."""
    from sacrebleu.metrics import BLEU

    most = max(len(texts) for texts in references)
    # sacreBLEU wants one stream per reference number; rows with fewer have a hole there.
    streams = [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]
    bleu = BLEU()
    result = bleu.corpus_score(list(predictions), streams, n_bootstrap=1000)
    # sacreBLEU gives the bootstrap's mean and half-width; around the score itself the interval may lie a bit aside.
    low, high = result._mean - result._ci, result._mean + result._ci
    signature = f"sacrebleu {bleu.get_signature().format()}, n={len(predictions)}"
    return Score("bleu", result.score, min(low, result.score), max(high, result.score), signature)


def notebook_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """Mean of NLTK's sentence BLEU, split on blanks, smoothing method1, x100 (the notebook prints 0 to 1).

    Kept so that old figures can be compared; it favours short texts (two equal one-word texts score 17.8).
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    values = [
        100 * float(sentence_bleu([text.split() for text in texts], prediction.split(), smoothing_function=smoothing))
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    low, high = mean_interval(values)
    recipe = (
        f"nltk-{version('nltk')} mean of sentence BLEU x100, split on blanks, smoothing=method1, "
        f"n={len(values)}, bootstrap={RESAMPLES} seed=0"
    )
    return Score("bleu-nltk", sum(values) / len(values), low, high, recipe)
