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


class SourceIndex:
    """A source's words and where each stands."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, word in enumerate(words):
            self._places[word].append(place)

    def fragments(self, summary: Sequence[str]) -> list[Fragment]:
        """In the summary's order, not overlapping. Words are compared as they are."""
        found = []
        start = 0
        while start < len(summary):
            longest = max((self._shared(place, summary, start) for place in self._at(summary[start])), default=0)
            if longest:
                found.append(Fragment(start, longest))
            start += max(longest, 1)
        return found

    def has(self, run: tuple[str, ...]) -> bool:
        """Whether these words stand in the source one after the other."""
        return any(tuple(self.words[place : place + len(run)]) == run for place in self._at(run[0]))

    def _at(self, word: str) -> Sequence[int]:
        return self._places.get(word, ())

    def _shared(self, place: int, summary: Sequence[str], start: int) -> int:
        length = 0
        most = min(len(self.words) - place, len(summary) - start)
        while length < most and self.words[place + length] == summary[start + length]:
            length += 1
        return length


def coverage(found: Sequence[Fragment], summary_words: int) -> float:
    return sum(fragment.length for fragment in found) / summary_words


def density(found: Sequence[Fragment], summary_words: int) -> float:
    return sum(fragment.length**2 for fragment in found) / summary_words


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
