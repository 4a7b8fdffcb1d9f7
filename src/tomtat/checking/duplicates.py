"""Rows of one split that say the same: word for word, or nearly.

Of each text the 64 least hashes of its runs of eight words are kept, 512 bytes a row. Two texts that share most of
their runs share most of these, and two that share none share none, so the pairs worth a look are found by sorting, and
how alike they are is read off the sample (bottom-k sketches, Cohen and Kaplan 2007), to about 6 points in 100.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomtat.text.runs import NEAR, Hashed, Hashes

SKETCH = 64
"""Hashes kept of a text."""
_SMALL = 8
"""Rows with one hash that are all held against each other..."""
_NEXT = 2
"""...and where more have it, each against the next ones only. Rows made from one template are found as a chain, and a
sentence that half of the rows share costs little."""


@dataclass(frozen=True)
class Cluster:
    rows: tuple[int, ...]
    """Numbers of rows with one text or nearly one, in order; at least two."""
    is_exact: bool


@dataclass(frozen=True)
class Duplicates:
    exact: int
    """Rows whose source stood in an earlier row, but for case, blanks and punctuation."""
    conflicting: int
    """Of these the ones with another summary than the first."""
    near: int
    """Further rows that share at least half of their runs of eight words with an earlier row."""
    clusters: tuple[Cluster, ...]
    """Largest first."""

    @property
    def superfluous(self) -> int:
        return self.exact + self.near


class DuplicateFinder:
    def __init__(self) -> None:
        self._sources: list[int] = []
        self._summaries: list[int] = []
        self._sketches: list[Hashes] = []

    def add(self, source: Hashed, summary: Hashed) -> None:
        self._sources.append(source.whole)
        self._summaries.append(summary.whole)
        self._sketches.append(source.sample(SKETCH))

    def find(self) -> Duplicates:
        firsts: dict[int, int] = {}
        first_of = [firsts.setdefault(text, row) for row, text in enumerate(self._sources)]
        repeats = [row for row, first in enumerate(first_of) if first != row]
        # Near-duplicates are looked for among the first of each text: thousands of equal rows are one then.
        unique = sorted(set(first_of))
        groups = _Groups(len(first_of))
        for row in repeats:
            groups.join(first_of[row], row)
        for one, other in near_pairs([self._sketches[row] for row in unique]):
            groups.join(unique[one], unique[other])
        clusters = [
            Cluster(tuple(rows), is_exact=len({self._sources[row] for row in rows}) == 1) for rows in groups.several()
        ]
        return Duplicates(
            exact=len(repeats),
            conflicting=sum(self._summaries[row] != self._summaries[first_of[row]] for row in repeats),
            near=sum(len(cluster.rows) - 1 for cluster in clusters) - len(repeats),
            clusters=tuple(sorted(clusters, key=lambda cluster: (-len(cluster.rows), cluster.rows))),
        )


def near_pairs(sketches: Sequence[Hashes]) -> list[tuple[int, int]]:
    """Pairs of texts that share at least half of all runs they have, by their sketches."""
    return [(one, other) for one, other in _candidates(sketches) if resemblance(sketches[one], sketches[other]) >= NEAR]


def _candidates(sketches: Sequence[Hashes]) -> list[tuple[int, int]]:
    """Pairs that share a third of the smaller sketch: what is alike by half does so nearly always."""
    sizes = np.asarray([len(sketch) for sketch in sketches], np.int64)
    if not sizes.sum():
        return []
    hashes = np.concatenate(sketches)
    rows = np.repeat(np.arange(len(sketches)), sizes)
    order = np.argsort(hashes, kind="stable")
    hashes, rows = hashes[order], rows[order]
    pairs, shared = np.unique(_pairs(hashes, rows, len(sketches)), return_counts=True)
    one, other = np.divmod(pairs, len(sketches))
    kept = np.flatnonzero(shared * 3 >= np.minimum(sizes[one], sizes[other]))
    return list(zip(one[kept].tolist(), other[kept].tolist(), strict=True))


def _pairs(hashes: Hashes, rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """For each hash in two rows or more, pairs of these rows, as `row * count + later row`. All is sorted by hash."""
    begins = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    sizes = np.diff(begins, append=len(hashes))
    is_small = np.repeat(sizes <= _SMALL, sizes)
    found = []
    for step in range(1, _SMALL):
        same = hashes[step:] == hashes[:-step]
        if step > _NEXT:
            same &= is_small[:-step]
        places = np.flatnonzero(same)
        found.append(rows[places] * count + rows[places + step])
    return np.concatenate(found)


def resemblance(one: Hashes, other: Hashes) -> float:
    """Shared runs over all runs of two texts, estimated by the least hashes of both together."""
    both = np.union1d(one, other)[: max(len(one), len(other))]
    shared = np.intersect1d(one, other, assume_unique=True)
    return len(np.intersect1d(both, shared, assume_unique=True)) / len(both)


class _Groups:
    """Rows that belong together, found by joining pairs."""

    def __init__(self, rows: int) -> None:
        self._parent = list(range(rows))

    def _root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        self._parent[second] = first

    def several(self) -> list[list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self._parent)):
            members[self._root(row)].append(row)
        return [rows for rows in members.values() if len(rows) > 1]
