"""METEOR by NLTK's stages: exact words, Porter stems, WordNet synonyms (Lavie, Agarwal 2007).

NLTK's own `meteor_score` looks synonyms up by stem since 3.8, so that "movies" finds nothing and film/movie never
match; here each stage sees the words as they stand. This is the formula of 2007, not Java METEOR 1.5.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from tomtat.metrics.values import Measured, Rows, by_reference
from tomtat.metrics.wordnet import WordNet, load_wordnet
from tomtat.text import words

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5


class Meteor:
    """For English texts. `wordnet` is the folder with WordNet's files."""

    def __init__(self, wordnet: Path) -> None:
        from nltk.stem.porter import PorterStemmer
        from nltk.translate.meteor_score import exact_match, stem_match, wordnetsyn_match

        stemmer, synonyms = _Stemmer(PorterStemmer().stem), _Synonyms(load_wordnet(wordnet))
        self._stages: list[Callable[[list[str], list[str]], Any]] = [
            exact_match,
            lambda ours, theirs: stem_match(ours, theirs, stemmer),
            lambda ours, theirs: wordnetsyn_match(ours, theirs, synonyms),
        ]
        self.recipe = (
            f"METEOR 2007 formula x100, nltk-{version('nltk')}'s stages, exact+porter+wordnet-3.0 by surface form, "
            f"alpha={ALPHA} beta={BETA:g} gamma={GAMMA}, words without punctuation, lower case"
        )

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        tokens = cache(words)
        each = [
            [100 * self.pair(tokens(prediction), tokens(reference)) for reference in references]
            for prediction, references in zip(predictions, rows.references, strict=True)
        ]
        return Measured(by_reference("meteor", self.recipe, each))

    def pair(self, prediction: list[str], reference: list[str]) -> float:
        """Between 0 and 1, for two lists of words."""
        matches = self._align(prediction, reference)
        if not matches:
            return 0.0
        precision, recall = len(matches) / len(prediction), len(matches) / len(reference)
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        chunks = 1 + sum(later != (earlier[0] + 1, earlier[1] + 1) for earlier, later in pairwise(matches))
        return float((1 - GAMMA * (chunks / len(matches)) ** BETA) * mean)

    def _align(self, prediction: list[str], reference: list[str]) -> list[tuple[int, int]]:
        """Pairs of positions, in the prediction's order; each stage sees the words that the one before left."""
        ours, theirs = list(enumerate(prediction)), list(enumerate(reference))
        pairs = []
        for stage in self._stages:
            found, _, _ = stage([word for _, word in ours], [word for _, word in theirs])
            pairs += [(ours[i][0], theirs[j][0]) for i, j in found]
            left_i, left_j = {i for i, _ in found}, {j for _, j in found}
            ours = [pair for i, pair in enumerate(ours) if i not in left_i]
            theirs = [pair for j, pair in enumerate(theirs) if j not in left_j]
        return sorted(pairs)


class _Stemmer:
    def __init__(self, stem: Callable[[str], str]) -> None:
        self.stem = cache(stem)


class _Synonyms:
    """WordNet in the shape in which NLTK's matcher asks for it."""

    def __init__(self, wordnet: WordNet) -> None:
        self.synsets = cache(lambda word: [_Synset(wordnet.synonyms(word))])


class _Synset:
    def __init__(self, names: frozenset[str]) -> None:
        self._lemmas = [_Lemma(name) for name in names]

    def lemmas(self) -> "list[_Lemma]":
        return self._lemmas


class _Lemma(str):
    def name(self) -> str:
        return self
