"""Which of several summaries of one source to give: the one most like the others that says nothing of its own."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tomtat.text import Details, details, language_of, words

DETAILS_WEIGHT = 0.5
"""What all names, numbers and dates being the source's own is worth, where likeness to the others runs from 0 to 1."""


def best(summaries: Sequence[str], source: str, language: str | None = None) -> int:
    """Number of the summary with the least Bayes risk (Kumar & Byrne 2004), less what it makes up.

    The risk is one less the mean likeness to the other summaries: F1 over words and pairs of words, which costs
    nothing beside drawing them. Those in another language than `language`, where one is asked for, are taken only
    where there are no others, and empty ones only where there is nothing else at all.
    """
    scores = score(summaries, source)
    says_something = [number for number, text in enumerate(summaries) if text.strip()]
    as_asked = [number for number in says_something if language in (None, language_of([summaries[number]]))]
    return max(as_asked or says_something or range(len(summaries)), key=lambda number: scores[number])


def score(summaries: Sequence[str], source: str, details_weight: float = DETAILS_WEIGHT) -> list[float]:
    """Each summary's mean likeness to the others, plus the weighted share of its details that the source has."""
    grams = [_grams(text) for text in summaries]
    known = Details(source)
    return [
        _mean([_likeness(own, other) for place, other in enumerate(grams) if place != number])
        + details_weight * _share_known(text, known)
        for number, (text, own) in enumerate(zip(summaries, grams, strict=True))
    ]


def likeness(one: str, other: str) -> float:
    """F1 over words and over pairs of words, averaged; from 0 to 1."""
    return _likeness(_grams(one), _grams(other))


_Grams = tuple[Counter[Any], Counter[Any]]


def _grams(text: str) -> _Grams:
    found = words(text)
    return Counter(found), Counter(pairwise(found))


def _likeness(one: _Grams, other: _Grams) -> float:
    return _mean([_f1(a, b) for a, b in zip(one, other, strict=True)])


def _f1(one: Counter[Any], other: Counter[Any]) -> float:
    both = one.total() + other.total()
    return 2 * (one & other).total() / both if both else 0.0


def _share_known(text: str, source: Details) -> float:
    found = details(text, source)
    return sum(map(source.has, found)) / len(found) if found else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
