"""Searching: what is searched, the scores of its turns, and the turns themselves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, bindparam, select

from tomtat.store.database import Ranges, Statement
from tomtat.store.index import LEVELS, Terms, by, rounded, terms_of, waiting
from tomtat.store.lines import Stretch
from tomtat.store.packing import lengths_of
from tomtat.store.ranking import Array, best, bm25, join
from tomtat.store.schema import key_of, place_of, segments, turns
from tomtat.store.segments import SEGMENT_TURNS
from tomtat.store.tenant import Tenant
from tomtat.store.turns import as_turns, rows_of
from tomtat.store.values import Hit
from tomtat.store.vectors import Embedder, similarities
from tomtat.text.terms import query_terms
from tomtat.text.words import words

_FEW_RANGES = 32

_between: tuple[Any, Any] = bindparam("low"), bindparam("high")
_lengths_of_segments = Statement(
    select(segments.c.key, segments.c.last, segments.c.words)
    .where(segments.c.key.between(*_between))
    .order_by(segments.c.key)
)
_lengths_of_rows = Statement(
    select(turns.c.key, turns.c.words).where(turns.c.key.between(*_between)).order_by(turns.c.key)
)
_vectors_of_segments = Statement(
    select(segments.c.key, segments.c.last, segments.c.vectors)
    .where(segments.c.key.between(*_between), segments.c.vectors.is_not(None))
)  # fmt: skip
_vectors_of_rows = Statement(
    select(turns.c.key, turns.c.vector).where(turns.c.key.between(*_between), turns.c.vector.is_not(None))
)


class Searched(NamedTuple):
    """The turns that a search looks through, all [turns]."""

    keys: Array
    """Rising."""
    lengths: Array
    """In terms."""


class Found(NamedTuple):
    """What the words of a query say about the turns searched."""

    searched: Searched
    counts: dict[str, tuple[Array, Array]]
    """Of each term: positions of the turns that have it, and how often."""
    by_speaker: Array
    """Positions of turns whose speaker the query names."""


def search(
    tenant: Tenant, connection: Connection, query: str, where: Sequence[Stretch], limit: int, embedder: Embedder | None
) -> list[Hit]:  # fmt: skip
    """The best turns of all stretches, best first."""
    where = sorted(where, key=lambda stretch: stretch.keys)
    weights, names = query_terms(query), list(dict.fromkeys(words(query)))
    if not where or not weights:
        return []
    look = _read_all if tenant.is_sealed else _look_up
    searched, counts, by_speaker = look(tenant, connection, where, list(weights), names)
    if not len(searched.keys):
        return []
    meaning, weight = None, 0.0
    if embedder is not None and not tenant.is_sealed:
        weight = embedder.weight(query)
        meaning = _similarities(connection, where, searched, embedder.embed([query])[0], embedder.width)
    follows = np.diff(searched.keys, prepend=searched.keys[0]) == 1
    speaks = np.zeros(len(searched.keys))
    speaks[by_speaker] = 1
    scores = join(bm25(counts, weights, searched.lengths), meaning, weight, follows, speaks)
    chosen = best(scores, limit)
    return _hits(tenant, connection, where, [int(searched.keys[n]) for n in chosen], [float(scores[n]) for n in chosen])


def _look_up(
    tenant: Tenant, connection: Connection, where: Sequence[Stretch], asked: Sequence[str], names: Sequence[str]
) -> Found:  # fmt: skip
    """From the index, and from the turns that it hasn't got yet."""
    ranges: Ranges = [stretch.keys for stretch in where]
    postings = tenant.db.backend.postings
    # Few turns wait, however many are searched: one look at all of them beats a look into each conversation.
    new = waiting(tenant, connection, ranges if len(ranges) <= _FEW_RANGES else [(ranges[0][0], ranges[-1][1])])
    searched = _searched(connection, where, {key: its_terms.length for key, its_terms in new.items()})
    has = postings(connection, [*asked, *map(by, names)], ranges)
    frequencies = {term: np.zeros(len(searched.keys), np.int64) for term in asked}
    for term in asked:
        frequencies[term][_positions(searched.keys, has[term])] = 1
    often = [term for term in asked if frequencies[term].any()]
    for level in LEVELS:
        # Few terms stand twice in a turn and hardly any three times: a level is asked only for what reached the last.
        again = postings(connection, [f"{term}~{level}" for term in often], ranges) if often else {}
        often = [term for term in often if len(again[f"{term}~{level}"])]
        for term in often:
            frequencies[term][_positions(searched.keys, again[f"{term}~{level}"])] = level
    for key, its_terms in new.items():
        for term in asked:
            if term in its_terms.counts:
                frequencies[term][_positions(searched.keys, [key])] = rounded(its_terms.counts[term])
    counts = {term: _counted(frequency) for term, frequency in frequencies.items()}
    speaking = [key for name in names for key in has[by(name)]]
    speaking += [key for key, its_terms in new.items() if its_terms.speaker in names]
    return Found(searched, counts, _positions(searched.keys, speaking))


def _counted(frequency: Array) -> tuple[Array, Array]:
    [positions] = frequency.nonzero()
    return positions, frequency[positions]


def _positions(keys: Array, some: Sequence[int]) -> Array:
    """Where some keys stand among all; those that don't are left out."""
    wanted = np.asarray(some, np.int64)
    if not len(keys) or not len(wanted):
        return np.zeros(0, np.int64)
    positions = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Array = positions[keys[positions] == wanted]
    return found


def _searched(connection: Connection, where: Sequence[Stretch], new: Mapping[int, int]) -> Searched:
    """Every turn with its length: from segments without opening them, from rows, from what the index lacks yet."""
    parts = [part for stretch in where for part in _lengths(connection, stretch, new)]
    if not parts:
        return Searched(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Searched(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _lengths(connection: Connection, stretch: Stretch, new: Mapping[int, int]) -> Iterator[Searched]:
    low, high = stretch.keys
    for key, last, packed in _segments_with(_lengths_of_segments, connection, stretch):
        places = last - place_of(key)[1] + 1
        keys, lengths = np.arange(key, key + places), lengths_of(packed, places)
        inside = (keys >= low) & (keys <= high) & (lengths >= 0)
        yield Searched(keys[inside], lengths[inside])
    if stretch.last > stretch.line.packed:
        rows = _lengths_of_rows(connection, low=low, high=high)
        counted = [new.get(key, 0) if count is None else count for key, count in rows]
        yield Searched(np.array([key for key, _ in rows], np.int64), np.array(counted, np.int64))


def _segments_with(what: Statement, connection: Connection, stretch: Stretch) -> Iterator[tuple[int, int, bytes]]:
    """Key, last place and one more column of the segments that a stretch reaches into."""
    line, first, last = stretch
    if first <= line.packed:
        low = max(key_of(line.number, 0), key_of(line.number, first) - SEGMENT_TURNS + 1)
        for key, end, column in what(connection, low=low, high=key_of(line.number, last)):
            if end >= first:
                yield key, end, bytes(column)


def _similarities(
    connection: Connection, where: Sequence[Stretch], searched: Searched, query: Array, width: int
) -> Array:  # fmt: skip
    """[turns]; NaN for turns that have no vector yet."""
    keys, codes = [], []
    for stretch in where:
        for key, end, vectors in _segments_with(_vectors_of_segments, connection, stretch):
            keys.append(np.arange(key, key + end - place_of(key)[1] + 1))
            codes.append(vectors)
        low, high = stretch.keys
        for key, vector in _vectors_of_rows(connection, low=low, high=high):
            keys.append(np.array([key]))
            codes.append(bytes(vector))
    found = np.full(len(searched.keys), np.nan)
    if keys:
        near = similarities(query, np.frombuffer(b"".join(codes), np.uint8).reshape(-1, width // 8))
        all_keys = np.concatenate(keys)
        positions = np.minimum(np.searchsorted(searched.keys, all_keys), len(found) - 1)
        there = searched.keys[positions] == all_keys
        found[positions[there]] = near[there]
    return found


def _read_all(
    tenant: Tenant, connection: Connection, where: Sequence[Stretch], asked: Sequence[str], names: Sequence[str]
) -> Found:  # fmt: skip
    """What a sealed store does: an index would hold its words for all to read, so each turn is opened and read."""
    bags: dict[int, Terms] = {}
    for stretch in where:
        for row in rows_of(tenant, connection, stretch):
            key = key_of(stretch.line.number, row.seq)
            bags[key] = tenant.found_terms.get(key, lambda row=row: terms_of(row.message()))  # type: ignore[misc]
    keys = np.array(list(bags), np.int64)
    lengths = np.array([bag.length for bag in bags.values()], np.int64)
    counts = {
        term: _counted(
            np.array([rounded(bag.counts[term]) if term in bag.counts else 0 for bag in bags.values()], np.int64)
        )
        for term in asked
    }
    speaking = np.array([number for number, bag in enumerate(bags.values()) if bag.speaker in names], np.int64)
    return Found(Searched(keys, lengths), counts, speaking)


def _hits(
    tenant: Tenant, connection: Connection, where: Sequence[Stretch], keys: Sequence[int], scores: Sequence[float]
) -> list[Hit]:  # fmt: skip
    lines = {stretch.line.number: stretch.line for stretch in where}
    hits = []
    for key, score in zip(keys, scores, strict=True):
        number, seq = place_of(key)
        line = lines[number]
        rows = rows_of(tenant, connection, Stretch(line, seq, seq))
        hits += [Hit(line.conversation, turn, score) for turn in as_turns(rows, line.branch)]
    return hits
