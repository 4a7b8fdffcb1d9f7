"""ROUGE-1/2/L/Lsum (Lin 2004) by rouge-score, with both sides split into sentences by us.

ROUGE-Lsum compares sentence by sentence and takes newlines as their ends. Many tokenizers drop newlines, which costs
7 points on CNN/DailyMail when only the reference has them; so neither side's newlines are trusted alone.

What the Perl script calls ROUGE-L is Lsum here; its names are `rouge155-1`, `-2`, `-L` and `-Lsum`.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tomtat.metrics.stemmers import tokenizer_for
from tomtat.metrics.values import Measured, Rows, by_reference
from tomtat.text import SPLITTER, UNICODE_WORDS, language_of, sentences, share_beyond_ascii

AVERAGED = ("rouge1", "rouge2", "rougeL")
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MOST_BEYOND_ASCII = 0.0075
"""A larger share of letters outside a to z, and rouge-score's words would be shreds. CNN/DailyMail has 0.0001, the
bundled English chats with their names from everywhere 0.004; Italian 0.01, German 0.02, French 0.04, Vietnamese 0.27.
"""

_CHECK = (
    "The rules were changed on Monday.\nNobody agreed.",
    "Nobody agreed on Mondays: the changing rules were agreements.\nIt's 1,000 easy-going dogs.",
)


class Rouge:
    """One protocol over all rows. `protocol` is `google`, `rouge155` or `unicode`."""

    def __init__(self, protocol: str, language: str = "en", wordnet: Path | None = None) -> None:
        self.protocol = protocol
        self.language = language
        self._tokenizer = tokenizer_for(protocol, wordnet)
        self._scorer, engine = _fastest_scorer(self._tokenizer)
        self._lines = lru_cache(maxsize=100_000)(self._split)
        words = {
            "google": "words=a-z0-9 stem=porter-nltk",
            "rouge155": "words=a-z0-9 stem=wordnet-3.0-exceptions+porter-perl",
            "unicode": f"words={UNICODE_WORDS} stem=no",
        }[protocol]
        self.recipe = f"ROUGE {protocol} by {engine} F x100, {words}, sentences=newlines+{SPLITTER}[{language}]"

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        each = [self.row(prediction, texts) for prediction, texts in zip(predictions, rows.references, strict=True)]
        values = []
        for kind in KINDS:
            values += by_reference(self._name(kind), self.recipe, [row[kind] for row in each])
        return Measured(values)

    def row(self, prediction: str, references: Sequence[str]) -> dict[str, list[float]]:
        """F-measures x100 of one prediction, per kind, against each of its references."""
        each = [self.pair(self._lines(prediction), self._lines(reference)) for reference in references]
        return {kind: [100 * scores[kind].fmeasure for scores in each] for kind in KINDS}

    def mean(self, prediction: str, references: Sequence[str]) -> float:
        """One number for a summary, from 0 to 100: over ROUGE-1, -2 and -L, each the mean over the references."""
        found = self.row(prediction, references)
        return sum(sum(found[kind]) / len(references) for kind in AVERAGED) / len(AVERAGED)

    @property
    def mean_recipe(self) -> str:
        return f"mean of {', '.join(AVERAGED)}, each the mean over references: {self.recipe}"

    def pair(self, prediction: str, reference: str) -> Any:
        """rouge-score's scores (0 to 1; precision, recall, fmeasure) by kind; one sentence a line on both sides."""
        return self._scorer.score(reference, prediction)

    def _split(self, text: str) -> str:
        return "\n".join(sentences(text, self.language))

    def _name(self, kind: str) -> str:
        return f"rouge155-{kind.removeprefix('rouge')}" if self.protocol == "rouge155" else kind


def choose_protocol(asked: str, rows: Rows) -> tuple[str, str]:
    """`google` or `unicode`, and the language for splitting sentences, by looking at the references' letters."""
    texts = [text for references in rows.references for text in references]
    protocol = asked
    if asked == "auto":
        protocol = "unicode" if share_beyond_ascii(texts) > MOST_BEYOND_ASCII else "google"
    return protocol, language_of(texts)


def _fastest_scorer(tokenizer: Any) -> tuple[Any, str]:
    """A scorer and its name: the Rust one where it is installed and agrees with rouge-score here, else that."""
    from rouge_score.rouge_scorer import RougeScorer

    known = RougeScorer(list(KINDS), tokenizer=tokenizer)
    label = f"rouge-score-{version('rouge-score')}"
    try:
        from rouge_score_rs.rouge_scorer import RougeScorer as RustScorer

        fast = RustScorer(list(KINDS), tokenizer=tokenizer)
        label_fast = f"{label} (rouge-score-rs-{version('rouge-score-rs')})"
    except (ImportError, PackageNotFoundError):
        return known, label
    pairs = [(a, b) for a in _CHECK for b in (*_CHECK, "")]
    agrees = all(tuple(known.score(a, b)[kind]) == tuple(fast.score(a, b)[kind]) for a, b in pairs for kind in KINDS)
    return (fast, label_fast) if agrees else (known, label)
