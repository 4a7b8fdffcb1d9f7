"""Terms of short chats that are searched, and the turns themselves, kept in memory.

The index is asked for each term of a query, some fifty times a search; in a chat of some hundred turns, such as a
server sees at every request, a look into each turn's own terms is several times less work. Longer ones have the index.
Some dozens of turns are found each time, most of which had been found before: they are here, too.
"""

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection

from tomtat.store.index import Terms, terms_of
from tomtat.store.lines import Line, Stretch
from tomtat.store.schema import key_of
from tomtat.store.segments import Row
from tomtat.store.tenant import Tenant
from tomtat.store.turns import rows_of
from tomtat.store.values import Damaged

MOST_TURNS = 1000
"""Of a search."""
MOST_LINES = 8
READ_AT_ONCE = 128
"""Turns that one search may read for this; where more are unknown, the next one goes on and this one asks the index."""
KEPT_BYTES = 1 << 25
"""Of all chats together: those of some 30,000 usual turns."""
LARGEST = 1 << 13
"""Bytes of a turn: larger ones are read anew where they are found."""
_OF_TURN = 500
"""Bytes besides its words and terms, estimated."""
_HASH = 2**56 - 1
_MOST = 255


class Bag(NamedTuple):
    """A turn's terms, in a quarter of the room that `Terms` takes."""

    codes: bytes
    """Of each term eight bytes: 56 bits of its hash, which is this process's own, and how often it stands there."""
    length: int
    speaker: str | None
    row: Row | None = None
    """The turn, where it isn't too large to be kept."""
    bytes: int = 0
    """That it takes here, estimated."""


def bag_of(found: Terms, row: Row | None = None) -> Bag:
    codes = array("Q", [(hash(term) & _HASH) << 8 | min(count, _MOST) for term, count in found.counts.items()])
    size = _bytes_of(row[2:]) if row else 0
    kept = row if size <= LARGEST else None
    return Bag(codes.tobytes(), found.length, found.speaker, kept, _OF_TURN + 8 * len(codes) + (size if kept else 0))


def _bytes_of(value: Any) -> int:
    """Of texts, and of what holds them."""
    if isinstance(value, str):
        return getsizeof(value)
    if isinstance(value, Mapping):
        return sum(getsizeof(name) + _bytes_of(inner) for name, inner in value.items())
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0


def _code(term: str) -> int:
    return (hash(term) & _HASH) << 8


def counts_of(bags: Sequence[Bag], terms: Sequence[str]) -> np.ndarray:
    """How often each of some different terms stands in each turn, up to 255, [terms, turns]."""
    counts = np.zeros((len(terms), len(bags)), np.int64)
    codes = np.frombuffer(b"".join([bag.codes for bag in bags]), np.uint64)
    turn_of = np.repeat(np.arange(len(bags)), [len(bag.codes) // 8 for bag in bags])
    wanted = np.array([_code(term) for term in terms], np.uint64)
    order = np.argsort(wanted)
    hashes = codes & ~np.uint64(_MOST)
    places = np.minimum(np.searchsorted(wanted, hashes, sorter=order), len(terms) - 1)
    [here] = (wanted[order[places]] == hashes).nonzero()
    counts[order[places[here]], turn_of[here]] = codes[here] & np.uint64(_MOST)
    return counts


@dataclass(eq=False)
class _Known:
    """Of a line's turns from its first one on."""

    last: int
    """Place up to which they have been read."""
    keys: list[int] = field(default_factory=list)
    bags: list[Bag] = field(default_factory=list)
    bytes: int = 0


class Bags:
    """Of all tenants of a database: lines' numbers are never given twice in it. Safe to use from several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._bytes = 0
        self._clears = 0
        self._lock = threading.Lock()

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
            self._bytes = 0
            self._clears += 1

    def read(
        self, tenant: Tenant, connection: Connection, where: Sequence[Stretch]
    ) -> tuple[list[int], list[Bag]] | None:
        """Keys, rising, and terms of all turns of these stretches; None where the index has less work.

        where: by keys.
        """
        if len(where) > MOST_LINES or sum(last - first + 1 for _, first, last in where) > MOST_TURNS:
            return None
        if any(first != line.fork + 1 for line, first, _ in where):
            return None
        with self._lock:
            unknown, clears = self._unknown(where), self._clears
        # Outside the lock: a slow read keeps nobody waiting but its own search.
        read = _read(tenant, connection, unknown)
        with self._lock:
            if clears == self._clears:  # else it may have been erased meanwhile
                for stretch, keys, bags in read:
                    self._take_in(stretch, keys, bags)
            found = self._found(where)
            self._make_room(len(where))
        return found

    def _unknown(self, where: Sequence[Stretch]) -> list[Stretch]:
        """What one search may read of what is not known yet."""
        unknown = []
        left = READ_AT_ONCE
        for line, _, last in where:
            known = self._last(line)
            end = min(last, known + left)
            if end > known:
                unknown.append(Stretch(line, known + 1, end))
                left -= end - known
            if end < last:
                break
        return unknown

    def _last(self, line: Line) -> int:
        """Place up to which it is known."""
        return self._known[line.number].last if line.number in self._known else line.fork

    def _take_in(self, stretch: Stretch, keys: list[int], bags: list[Bag]) -> None:
        line, first, last = stretch
        before = self._last(line)
        if not first - 1 <= before < last:
            return  # another search took in as much meanwhile, or what stood before these had to make room
        new = bisect_right(keys, key_of(line.number, before))
        known = self._known.setdefault(line.number, _Known(before))
        known.keys += keys[new:]
        known.bags += bags[new:]
        known.last = last
        size = sum(bag.bytes for bag in bags[new:])
        known.bytes += size
        self._bytes += size

    def _found(self, where: Sequence[Stretch]) -> tuple[list[int], list[Bag]] | None:
        """None where not all is known. What is looked for counts as used now."""
        keys: list[int] = []
        bags: list[Bag] = []
        for line in (line for line, _, _ in where if line.number in self._known):
            self._known.move_to_end(line.number)
        for line, _, last in where:
            if self._last(line) < last:
                return None
            known = self._known[line.number]
            count = bisect_right(known.keys, key_of(line.number, last))
            keys += known.keys[:count]
            bags += known.bags[:count]
        return keys, bags

    def _make_room(self, used: int) -> None:
        """used: lines, the last ones, which stay."""
        while self._bytes > KEPT_BYTES and len(self._known) > used:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= oldest.bytes


def _read(
    tenant: Tenant, connection: Connection, unknown: Sequence[Stretch]
) -> list[tuple[Stretch, list[int], list[Bag]]]:
    """Up to the first that is damaged: the index knows its terms all the same."""
    read = []
    for stretch in unknown:
        try:
            rows = rows_of(tenant, connection, stretch)
        except Damaged:
            break
        keys = [key_of(stretch.line.number, row.seq) for row in rows]
        read.append((stretch, keys, [bag_of(terms_of(row.message()), row) for row in rows]))
    return read
