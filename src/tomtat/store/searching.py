"""Searching: what is searched, the scores of its turns, and the turns themselves."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, bindparam, select

from tomtat.store.bags import Bag, Bags, bag_of, counts_of
from tomtat.store.database import Ranges, Statement
from tomtat.store.index import LEVELS, Terms, by, rounded, terms_of, waiting
from tomtat.store.lines import Stretch
from tomtat.store.packing import lengths_of
from tomtat.store.ranking import Array, best, frequency_of, join, words_score
from tomtat.store.schema import key_of, place_of, segments, turns
from tomtat.store.segments import SEGMENT_TURNS, Row
from tomtat.store.tenant import Tenant
from tomtat.store.turns import rows_at, rows_of
from tomtat.store.values import Hit, Turn
from tomtat.store.vectors import Embedder, similarities
from tomtat.text.terms import query_terms, terms
from tomtat.text.words import words

_FEW_RANGES = 32

Postings = Callable[[Connection, Sequence[str], Ranges], dict[str, Sequence[int]]]

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


_COUNTED = np.array([0, *map(rounded, range(1, LEVELS[-1] + 1))])
"""Of each count what the index knows of it; larger ones are as the last."""


class Searched(NamedTuple):
    """The turns that a search looks through, all [turns]."""

    keys: Array
    """Rising."""
    lengths: Array
    """In terms."""


class Found(NamedTuple):
    """What the words of a query say about the turns searched."""

    searched: Searched
    frequencies: dict[str, Array]
    """Of each term how often it, or a relative of it, stands in each turn, [turns]."""
    by_speaker: Array
    """Positions of turns whose speaker the query names."""
    speakers: frozenset[str]
    """Who these are."""


class Asked(NamedTuple):
    """A query in the words of the index."""

    terms: Mapping[str, float]
    """What each counts."""
    names: Sequence[str]
    """All its words, each of which may name a speaker."""
    related: Mapping[str, Mapping[str, float]]
    """Of a word its relatives, as terms, and how near each is."""

    def relatives(self, speakers: Set[str]) -> dict[str, dict[str, float]]:
        """Of a term the relatives of its words, but for those that name a speaker: Will is no wish."""
        found: dict[str, dict[str, float]] = {}
        for word, relatives in self.related.items():
            if word not in speakers:
                of_term = found.setdefault(terms(word)[0], {})
                for relative, nearness in relatives.items():
                    of_term[relative] = max(of_term.get(relative, 0.0), nearness)
        return {term: relatives for term, relatives in found.items() if term in self.terms}


def search(
    tenant: Tenant, connection: Connection, query: str, where: Sequence[Stretch], limit: int, embedder: Embedder | None,
    bags: Bags,
) -> list[Hit]:  # fmt: skip
    """The best turns of all stretches, best first."""
    where = sorted(where, key=lambda stretch: stretch.keys)
    if tenant.is_sealed:
        embedder = None
    asked = Asked(query_terms(query), list(dict.fromkeys(words(query))), embedder.related(query) if embedder else {})
    if not where or not asked.terms:
        return []
    known = bags.read(tenant, connection, where) or (_read_all(tenant, connection, where) if tenant.is_sealed else None)
    found = _look_in_memory(known, asked) if known else _look_up(tenant, connection, where, asked)
    searched, frequencies, by_speaker, speakers = found
    if not len(searched.keys):
        return []
    meaning, weight = None, 0.0
    if embedder is not None:
        weight = embedder.weight(query)
        [vector] = embedder.embed([without(query, speakers)])
        meaning = _similarities(connection, where, searched, vector, embedder.width)
    follows = np.diff(searched.keys, prepend=searched.keys[0]) == 1
    speaks = np.zeros(len(searched.keys))
    speaks[by_speaker] = 1
    scores = join(words_score(frequencies, asked.terms, searched.lengths, follows), meaning, weight, follows, speaks)
    chosen = best(scores, limit)
    rows = {int(searched.keys[n]): known[1][n].row if known else None for n in chosen}
    return _hits(tenant, connection, where, rows, [float(scores[n]) for n in chosen])


def without(query: str, speakers: Set[str]) -> str:
    """A question as it is embedded: without the speakers it names, who are in every turn of theirs and drown what is
    asked. One of nothing else stays whole."""
    return " ".join(part for part in query.split() if speakers.isdisjoint(words(part))) or query


def _look_up(tenant: Tenant, connection: Connection, where: Sequence[Stretch], asked: Asked) -> Found:
    """From the index, and from the turns that it hasn't got yet."""
    ranges: Ranges = [stretch.keys for stretch in where]
    postings = tenant.db.backend.postings
    # Few turns wait, however many are searched: one look at all of them beats a look into each conversation.
    new = waiting(tenant, connection, ranges if len(ranges) <= _FEW_RANGES else [(ranges[0][0], ranges[-1][1])])
    searched = _searched(connection, where, {key: its_terms.length for key, its_terms in new.items()})
    has = postings(connection, list(asked.terms), ranges)
    spoken = postings(connection, [by(name) for name in asked.names], ranges)
    speaking = {name: list(spoken[by(name)]) for name in asked.names}
    for key, its_terms in new.items():
        if its_terms.speaker in speaking:
            speaking[its_terms.speaker].append(key)
    speakers = frozenset(name for name, keys in speaking.items() if keys)
    exact = _exact(connection, postings, asked.terms, has, ranges, searched.keys, new)
    relatives = asked.relatives(speakers)
    wanted = {relative for some in relatives.values() for relative in some} - has.keys()
    has |= postings(connection, sorted(wanted), ranges) if wanted else {}
    turns_with = {
        relative: _positions(
            searched.keys, [*has[relative], *(key for key, its_terms in new.items() if relative in its_terms.counts)]
        )
        for some in relatives.values()
        for relative in some
    }
    frequencies = {term: frequency_of(exact[term], relatives.get(term, {}), turns_with) for term in asked.terms}
    by_speaker = _positions(searched.keys, [key for keys in speaking.values() for key in keys])
    return Found(searched, frequencies, by_speaker, speakers)


def _exact(
    connection: Connection, postings: Postings, asked: Iterable[str], has: Mapping[str, Sequence[int]], ranges: Ranges,
    keys: Array, new: Mapping[int, Terms],
) -> dict[str, Array]:  # fmt: skip
    """How often each term itself stands in each turn."""
    frequencies = {term: np.zeros(len(keys), np.int64) for term in asked}
    for term, frequency in frequencies.items():
        frequency[_positions(keys, has[term])] = 1
    often = [term for term, frequency in frequencies.items() if frequency.any()]
    for level in LEVELS:
        # Few terms stand twice in a turn and hardly any three times: a level is asked only for what reached the last.
        again = postings(connection, [f"{term}~{level}" for term in often], ranges) if often else {}
        often = [term for term in often if len(again[f"{term}~{level}"])]
        for term in often:
            frequencies[term][_positions(keys, again[f"{term}~{level}"])] = level
    for key, its_terms in new.items():
        place = _positions(keys, [key])  # once: a question may have many words, and each turn most of them
        for term, frequency in frequencies.items():
            if term in its_terms.counts:
                frequency[place] = rounded(its_terms.counts[term])
    return frequencies


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


def _look_in_memory(known: tuple[list[int], list[Bag]], asked: Asked) -> Found:
    """From the terms of each turn."""
    keys, bags = known
    names = set(asked.names)
    speaking = [(number, bag.speaker) for number, bag in enumerate(bags) if bag.speaker in names]
    speakers = frozenset(name for _, name in speaking if name)
    relatives = asked.relatives(speakers)
    terms = list(dict.fromkeys([*asked.terms, *(relative for some in relatives.values() for relative in some)]))
    table = counts_of(bags, terms)
    counts = dict(zip(terms, table, strict=True))
    rounded_down = _COUNTED[np.minimum(table[: len(asked.terms)], len(_COUNTED) - 1)]
    frequencies = dict(zip(asked.terms, rounded_down, strict=True))
    turns_with = {
        relative: counts[relative].nonzero()[0] for some in relatives.values() for relative in some
    }  # fmt: skip
    return Found(
        Searched(np.array(keys, np.int64), np.array([bag.length for bag in bags], np.int64)),
        frequencies
        | {term: frequency_of(frequencies[term], related, turns_with) for term, related in relatives.items()},
        np.array([number for number, _ in speaking], np.int64),
        speakers,
    )


def _read_all(tenant: Tenant, connection: Connection, where: Sequence[Stretch]) -> tuple[list[int], list[Bag]]:
    """What a sealed store does: an index would hold its words for all to read, so each turn is opened and read."""
    bags: dict[int, Bag] = {}
    for stretch in where:
        for row in rows_of(tenant, connection, stretch):
            key = key_of(stretch.line.number, row.seq)
            bags[key] = bag_of(tenant.found_terms.get(key, lambda row=row: terms_of(row.message())))  # type: ignore[misc]
    return list(bags), list(bags.values())


def _hits(
    tenant: Tenant, connection: Connection, where: Sequence[Stretch], rows: Mapping[int, Row | None],
    scores: Sequence[float],
) -> list[Hit]:  # fmt: skip
    """rows: by key, as many as there are scores; those that are None are read."""
    lines = {stretch.line.number: stretch.line for stretch in where}
    places: dict[int, list[int]] = {}
    for number, seq in (place_of(key) for key, row in rows.items() if row is None):
        places.setdefault(number, []).append(seq)
    read = {number: rows_at(tenant, connection, lines[number], seqs) for number, seqs in places.items()}
    hits = []
    for (key, row), score in zip(rows.items(), scores, strict=True):
        number, seq = place_of(key)
        found = row or read[number].get(seq)
        if found is not None:  # else a repair set it aside meanwhile
            turn = Turn(seq, found.message(), found.at / 1000, lines[number].branch)
            hits.append(Hit(lines[number].conversation, turn, score))
    return hits
