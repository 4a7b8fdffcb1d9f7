"""How much of a summary is copied from its source: extractive fragments.

Grusky, Naaman, Artzi: Newsroom (NAACL 2018), section 4: the longest shared runs of words, found greedily from the
summary's left. `coverage` is the share of words in a fragment, `density` the mean squared length per word.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fragment:
    """A run of the summary's words that stands in the source too."""

    start: int
    """Number of its first word in the summary."""
    length: int


def fragments(source: Sequence[str], summary: Sequence[str]) -> list[Fragment]:
    """In the summary's order, not overlapping. Words are compared as they are."""
    places = defaultdict(list)
    for place, word in enumerate(source):
        places[word].append(place)
    found = []
    start = 0
    while start < len(summary):
        longest = max((_shared(source, place, summary, start) for place in places.get(summary[start], ())), default=0)
        if longest:
            found.append(Fragment(start, longest))
        start += max(longest, 1)
    return found


def _shared(source: Sequence[str], place: int, summary: Sequence[str], start: int) -> int:
    length = 0
    most = min(len(source) - place, len(summary) - start)
    while length < most and source[place + length] == summary[start + length]:
        length += 1
    return length


def coverage(found: Sequence[Fragment], summary_words: int) -> float:
    return sum(fragment.length for fragment in found) / summary_words


def density(found: Sequence[Fragment], summary_words: int) -> float:
    return sum(fragment.length**2 for fragment in found) / summary_words


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
