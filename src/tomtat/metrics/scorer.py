"""Which metrics can be had for these rows on this machine, and what they say of each system."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from tomtat.assets import WORDNET
from tomtat.config import METRICS, EvaluateSettings
from tomtat.errors import DataError, TomtatError
from tomtat.metrics.values import Array, Measured, Rows, RowValues, score_rows
from tomtat.types import Score

FEWEST_FOR_IDF = 10


class Metric(Protocol):
    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured: ...


@dataclass(frozen=True)
class Scored:
    """One system's numbers."""

    values: list[RowValues]
    scores: list[Score]
    notes: list[str] = field(default_factory=list)

    def row_values(self, name: str) -> RowValues:
        return next(metric for metric in self.values if metric.name == name)


class Scorer:
    """The metrics that settings ask for, loaded once for all systems on the same rows.

    `not_run` says of each that can't be had why, instead of a number that is something else.
    """

    def __init__(self, rows: Rows, settings: EvaluateSettings | None = None) -> None:
        from tomtat.metrics.rouge import choose_protocol

        _check(rows)
        self.rows = rows
        self.settings = settings or EvaluateSettings()
        self.protocol, self.language = choose_protocol(self.settings.rouge_words, rows)
        self.not_run: dict[str, str] = {}
        self._metrics: list[Metric] = []
        for name in METRICS:  # in this order, whatever order was asked for
            if name in self.settings.metrics:
                self._add(name)
        if self.settings.faithfulness_model:
            self._add("trained-faithfulness")

    def _add(self, name: str) -> None:
        try:
            self._metrics.append(self._make(name))
        except TomtatError as error:
            self.not_run[name] = str(error)

    def _make(self, name: str) -> Metric:
        """Raises a TomtatError whose message says why this metric can't be had here."""
        from tomtat.metrics.bleu import UNSPACED, CorpusBleu, NotebookBleu
        from tomtat.metrics.faithfulness import Faithfulness
        from tomtat.metrics.form import Form
        from tomtat.metrics.rouge import Rouge

        match name:
            case "rouge":
                return Rouge(self.protocol, self.language)
            case "rouge155":
                return Rouge("rouge155", wordnet=self._wordnet("its stemmer knows only English"))
            case "bleu":
                return CorpusBleu(self.language)
            case "bleu-nltk":
                if self.language in UNSPACED:
                    raise DataError("it splits on blanks, and this language puts none between words")
                return NotebookBleu()
            case "meteor":
                from tomtat.metrics.meteor import Meteor

                return Meteor(self._wordnet("its stems and synonyms are English"))
            case "bertscore":
                from tomtat.metrics.bertscore import BertScore

                settings = self.settings
                if settings.bertscore_idf and len(self.rows) < FEWEST_FOR_IDF:
                    raise DataError(f"idf weights of fewer than {FEWEST_FOR_IDF} rows mean nothing; leave idf off")
                return BertScore(settings.bertscore_model, settings.bertscore_layer, settings.bertscore_idf)
            case "faithfulness":
                self._require_sources()
                return Faithfulness()
            case "form":
                return Form()
            case _:
                from tomtat.metrics.trained import TrainedScorer

                self._require_sources()
                return TrainedScorer(str(self.settings.faithfulness_model))

    def _require_sources(self) -> None:
        if self.rows.sources is None:
            raise DataError("there are no sources to hold the summaries against")

    def _wordnet(self, why_english: str) -> Path:
        if self.protocol != "google":
            raise DataError(f"the references are not in plain Latin letters, and {why_english}")
        if (folder := WORDNET.find()) is None:
            raise DataError("WordNet is not here; fetch it once: tomtat models pull wordnet")
        return folder

    def score(self, predictions: Sequence[str]) -> Scored:
        """All metrics of one prediction a row."""
        if len(predictions) != len(self.rows):
            # sacreBLEU and zip would cut to the shorter list without a word.
            raise DataError(f"{len(predictions):,} predictions but references for {len(self.rows):,} rows.")
        measured = [metric.measure(predictions, self.rows) for metric in self._metrics]
        values = [metric for part in measured for metric in part.values]
        return Scored(values, score_rows(values), [note for part in measured for note in part.notes])

    def score_humans(self) -> Scored | None:
        """Each reference against the others of its row, where every row has two or more: the human line.

        Comparable with a system's mean over references, and its jackknife with a system's jackknife.
        """
        counts = np.array([len(texts) for texts in self.rows.references])
        if counts.min() < 2:
            return None
        means: dict[str, _HumanSum] = {}
        for left_out in range(int(counts.max())):
            numbers = [int(number) for number in np.flatnonzero(counts > left_out)]
            others = [
                (*texts[:left_out], *texts[left_out + 1 :])
                for texts in (self.rows.references[number] for number in numbers)
            ]
            texts = [self.rows.references[number][left_out] for number in numbers]
            rows = self.rows.take(numbers, others)
            for metric in self._metrics:
                _add_round(means, metric.measure(texts, rows).values, numbers, len(self.rows))
        values = [RowValues(name, total.recipe, total.columns / counts[:, None]) for name, total in means.items()]
        return Scored(values, score_rows(values))


@dataclass
class _HumanSum:
    recipe: str
    columns: Array


def _add_round(means: dict[str, _HumanSum], found: list[RowValues], numbers: list[int], rows: int) -> None:
    """The best of the others is what the jackknife of a system takes too; of a single other it is the mean."""
    by_name = {metric.name: metric for metric in found}
    for name, metric in by_name.items():
        if name in ("bleu", "bleu-nltk") or name.endswith(("-best", "-jackknife")):
            continue  # BLEU against k - 1 references at once is not what systems are measured by
        recipe, has_policy, _ = metric.recipe.partition(", references=")
        parts = {name: (metric, "the mean over the others")}
        if has_policy:
            parts[f"{name}-jackknife"] = (by_name.get(f"{name}-best", metric), "the best of the others")
        for part, (values, policy) in parts.items():
            label = f"{recipe}, references=each against {policy}" if has_policy else recipe
            total = means.setdefault(part, _HumanSum(label, np.zeros((rows, values.columns.shape[1]))))
            total.columns[numbers] += values.columns


def _check(rows: Rows) -> None:
    if not len(rows):
        raise DataError("There is nothing to score: no row.")
    if empty := sum(not texts for texts in rows.references):
        raise DataError(f"{empty:,} of {len(rows):,} rows have no reference to score against.")
