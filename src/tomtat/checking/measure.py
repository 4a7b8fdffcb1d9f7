"""What is remembered of a split while its rows go by: numbers, places and findings, not texts."""

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tomtat.checking.abstractive import Copying, copying
from tomtat.checking.duplicates import DuplicateFinder
from tomtat.checking.suspicions import FEWEST_WORDS, OFTEN, Suspicion, look, suspicions
from tomtat.data import Reject
from tomtat.prompts import source_text
from tomtat.text import words
from tomtat.text.runs import Hashed, hashed
from tomtat.types import Example

SAMPLE = 500
"""Texts kept to see what the tokenizer loses of them."""
BEGINNING = 60
"""Characters kept of each source, to show duplicates by."""


class Counts(Protocol):
    """What a model's tokenizer is needed for (`tomtat.models.SummarizerModel` has it)."""

    def count_tokens(self, text: str) -> int: ...

    def target(self, summary: str) -> list[int]: ...


@dataclass(frozen=True)
class Seen:
    """One row after it was measured, for what compares splits."""

    number: int
    source: Hashed


class Measured:
    def __init__(self, label: str, counts: Counts | None) -> None:
        self.label = label
        self.bad: list[Reject] = []
        self.places: list[str] = []
        self.beginnings: list[str] = []
        self.lengths: dict[str, array[int]] = defaultdict(lambda: array("L"))
        """By name: `source words`, `summary words`, and with a tokenizer `source tokens`, `summary tokens`."""
        self.turns = array("L")
        self.references = 0
        self.copying: list[Copying] = []
        self.languages: Counter[tuple[str, str]] = Counter()
        """Of source and summary."""
        self.suspicions: list[Suspicion] = []
        self.duplicates = DuplicateFinder()
        self.sample: list[tuple[str, str]] = []
        self._counts = counts
        self._rows_with: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._random = random.Random(0)

    @property
    def rows(self) -> int:
        return len(self.places)

    def reject(self, row: Reject) -> None:
        self.bad.append(row)

    def add(self, example: Example, place: str) -> Seen:
        """Of several references the first is measured: it is the one that training learns."""
        number = self.rows
        text, summary = source_text(example.source), example.references[0]
        source_words, summary_words = words(text), words(summary)
        source, summary_hash = hashed(source_words), hashed(summary_words)
        self.places.append(place)
        self.beginnings.append(" ".join(text[: 2 * BEGINNING].split())[:BEGINNING])
        self.references += len(example.references)
        if not isinstance(example.source, str):
            self.turns.append(len(example.source))
        self._measure_lengths(text, summary, len(source_words), len(summary_words))
        if source_words and summary_words:
            self.copying.append(copying(source_words, summary_words))
        self.duplicates.add(source, summary_hash)
        if len(summary_words) >= FEWEST_WORDS:
            self._rows_with[summary_hash.whole].append((number, source.whole))
        row = look(example.source, text, source_words, summary, summary_words)
        self.languages[row.languages] += 1
        self.suspicions += [Suspicion(kind, number, what) for kind, what in suspicions(row)]
        self._keep_a_sample(text, summary)
        return Seen(number, source)

    def finish(self) -> None:
        """Once all rows are in: what only all of them together show."""
        for rows in self._rows_with.values():
            if len({source for _, source in rows}) >= OFTEN:
                self.suspicions += [Suspicion("repeated", row, f"in {len(rows):,} rows") for row, _ in rows]
        self._rows_with.clear()

    def _measure_lengths(self, text: str, summary: str, source_words: int, summary_words: int) -> None:
        self.lengths["source words"].append(source_words)
        self.lengths["summary words"].append(summary_words)
        if self._counts is not None:
            self.lengths["source tokens"].append(self._counts.count_tokens(text))
            self.lengths["summary tokens"].append(len(self._counts.target(summary)))

    def _keep_a_sample(self, text: str, summary: str) -> None:
        """Each row with the same chance, whatever their number turns out to be."""
        if len(self.sample) < SAMPLE:
            self.sample.append((text, summary))
        elif (place := self._random.randrange(self.rows)) < SAMPLE:
            self.sample[place] = (text, summary)

    def kinds(self) -> dict[str, Sequence[Suspicion]]:
        """Suspicions by kind, most frequent first."""
        by_kind: dict[str, list[Suspicion]] = defaultdict(list)
        for suspicion in self.suspicions:
            by_kind[suspicion.kind].append(suspicion)
        return dict(sorted(by_kind.items(), key=lambda item: -len(item[1])))
