"""Runs of eight words as numbers: what tells that a text stands, whole or in part, in another.

Hashes of 64 bits stand for words and runs, the same on each machine. Among 100 million runs two different ones fall
together with a chance of about 1 in 4,000, which moves a share by nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

RUN = 8
NEAR = 0.5
"""A text counts as seen, or as near another, if it shares this part of its runs of eight words."""

Hashes = npt.NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Hashed:
    """A text for comparisons: case, blanks and punctuation are gone."""

    whole: int
    runs: Hashes
    """Of its runs of eight words, in order of size and each once; none where it has fewer than eight words."""

    def sample(self, most: int) -> Hashes:
        """The least hashes: as these are random, a sample of the runs that is the same in each text they stand in."""
        return self.runs[:most].copy()


def hashed(words: Sequence[str]) -> Hashed:
    return Hashed(_hash("\x00".join(words)), _runs(words))


def _runs(words: Sequence[str]) -> Hashes:
    count = len(words) - RUN + 1
    if count < 1:
        return np.empty(0, np.uint64)
    numbers = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    runs = np.zeros(count, np.uint64)
    for place in range(RUN):
        runs = runs * _BASE + numbers[place : place + count]
    return np.unique(_mixed(runs))


def _mixed(values: Hashes) -> Hashes:
    """SplitMix64's last step: neighbouring runs come to lie far apart, so that the least are a fair sample."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_word_hash = lru_cache(maxsize=1 << 18)(_hash)


class RunIndex:
    """Texts that are looked for in others. Memory goes with these only: about 13 bytes a run."""

    def __init__(self, most_runs: int | None = None) -> None:
        """Of texts with more than `most_runs` only a sample of so many is held, and their share is estimated by it."""
        self._most = most_runs
        self._runs: list[Hashes] = []
        self._rows: dict[int, list[int]] = defaultdict(list)
        self._packed: _Packed | None = None

    def add(self, text: Hashed) -> None:
        if self._packed is not None:
            raise ValueError("texts are added before the first search, not after it")
        self._rows[text.whole].append(len(self._runs))
        self._runs.append(text.runs if self._most is None else text.sample(self._most))

    def search(self) -> "RunSearch":
        """Look for the texts in one set of others."""
        if self._packed is None:
            self._packed = _pack(self._runs)
            self._runs.clear()
        return RunSearch(self._packed, self._rows)


@dataclass(frozen=True)
class _Packed:
    known: Hashes
    """Each run of any text once, in order of size."""
    which: npt.NDArray[np.int32]
    """Text after text, the place of each of its runs in `known`."""
    ends: npt.NDArray[np.int64]
    """Where each text ends in `which`."""


def _pack(runs: Sequence[Hashes]) -> _Packed:
    together = np.concatenate(runs) if runs else np.empty(0, np.uint64)
    known, which = np.unique(together, return_inverse=True)
    return _Packed(known, which.astype(np.int32), np.cumsum([len(text) for text in runs], dtype=np.int64))


class RunSearch:
    """One set of texts goes by; afterwards `exact`, `near` and `shares` say which of the index's stood in it."""

    def __init__(self, packed: _Packed, rows: dict[int, list[int]]) -> None:
        self._packed = packed
        self._rows = rows
        self._is_seen = np.zeros(len(packed.known), bool)
        self.exact: dict[int, int] = {}
        """Numbers of the held texts that stand there word for word, with the number of the first other that has it."""

    def look_at(self, text: Hashed, number: int) -> None:
        for row in self._rows.get(text.whole, ()):
            self.exact.setdefault(row, number)
        known = self._packed.known
        if len(known):
            places = np.searchsorted(known, text.runs).clip(max=len(known) - 1)
            self._is_seen[places[known[places] == text.runs]] = True

    def shares(self) -> npt.NDArray[np.float64]:
        """Of each held text the share of its runs that stand anywhere among the others; 0 where it has none."""
        seen = np.concatenate([[0], np.cumsum(self._is_seen[self._packed.which])])
        ends = self._packed.ends
        sizes = np.diff(ends, prepend=0)
        return np.asarray((seen[ends] - seen[ends - sizes]) / np.maximum(sizes, 1), np.float64)

    def near(self) -> list[int]:
        """Held texts that share at least half of their runs, those that stand there whole left out."""
        return [int(row) for row in np.flatnonzero(self.shares() >= NEAR) if int(row) not in self.exact]
