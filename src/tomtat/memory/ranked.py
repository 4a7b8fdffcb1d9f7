"""Which strings of all folded turns to show first."""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import regex

from tomtat.memory.ledger import Entry
from tomtat.memory.patterns import Kind
from tomtat.memory.worth import step, worth_of

COST = 0.75
"""Between 0, where tokens cost nothing, and 1, where the shortest go first."""
BASE = -1.79
"""Log-odds of a string that nothing is known of."""
LOOKED_AT = 4
"""Times as many strings as are wanted are looked at: what the rest of the chat says of them may turn their order."""
LATER_TURNS = 50
"""So many turns further on a string is looked for that stands in the place of one."""
_TERM, _ASCII_TERM = regex.compile(r"\w{3,}"), re.compile(r"\w{3,}")
_UNIQUE = frozenset(("name", "opener", "id", "symbol", "url", "path", "command", "quote"))


def odds_of(worth: float) -> float:
    """How likely a string of that worth is to be asked for, 0 to 1."""
    return 1 / (1 + math.exp(-worth - BASE))


@dataclass
class _Seen:
    """What is known of the strings before a turn: each context asks for some more or fewer of the same."""

    before: int
    order: Iterable[int] = ()
    """Numbers of entries, those of the highest value by their own turn first."""
    values: dict[int, float] = field(default_factory=dict)
    """Of entries that were looked at, by what the rest of the chat says too."""


class Strings:
    """The strings of a conversation, in the order of their turns."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._turns: list[int] = []
        """Of each entry."""
        self._values = np.zeros(0)
        """Of each entry by what its own turn says, for what it costs."""
        self._said: dict[str, list[int]] = {}
        """The turns that a string stands in, rising."""
        self._terms: dict[str, list[int]] = {}
        self._slots: dict[tuple[Kind, str], list[int]] = {}
        """The turns that have a string of a kind beside a word."""
        self._seen = _Seen(0)

    def add(self, entries: Sequence[Entry]) -> None:
        """Those of the turns that come next."""
        self._entries += entries
        self._turns += [entry.turn for entry in entries]
        values = [odds_of(entry.worth) / _cost(entry) for entry in entries]
        self._values = np.concatenate([self._values, np.array(values)])
        self._seen = _Seen(0)
        for entry in entries:
            _note(self._said.setdefault(entry.text.casefold(), []), entry.turn)
            for term in _terms(entry.clause):
                _note(self._terms.setdefault(term, []), entry.turn)
            for term in _slot(entry):
                _note(self._slots.setdefault((entry.kind, term), []), entry.turn)

    def best(self, before: int, count: int) -> list[Entry]:
        """Some `count` strings of turns before one that are most likely to be asked for, best first, each of them once.

        What was said from turn `before` on changes nothing.
        """
        if self._turns:
            before = min(before, self._turns[-1] + 1)  # what is known for one is known for all later ones
        stop = bisect_left(self._turns, before)
        many = min(stop, LOOKED_AT * count)
        if not many:
            return []
        if self._seen.before != before:
            self._seen = _Seen(before, np.argsort(-self._values[:stop], kind="stable"))
        seen = self._seen
        best: dict[tuple[bool, str], tuple[float, Entry]] = {}
        for number in self._pool(seen.order, many):
            entry = self._entries[number]
            if number not in seen.values:
                seen.values[number] = odds_of(entry.worth + worth_of(self._signs(entry, before))) / _cost(entry)
            value, name = seen.values[number], _name(entry)
            # Of equals the later one: what was said last counts.
            if name not in best or (best[name][0], best[name][1].turn) <= (value, entry.turn):
                best[name] = value, entry
        ordered = sorted(best.values(), key=lambda one: (-one[0], one[1].turn, one[1].clause))
        return [entry for _, entry in ordered[:count]]

    def _pool(self, order: Iterable[int], many: int) -> list[int]:
        """Of entries by falling value the first `many`, the newest of those with one name."""
        newest: dict[tuple[bool, str], int] = {}
        for number in order:
            name = _name(self._entries[number])
            if name not in newest and len(newest) == many:
                break
            newest[name] = max(newest.get(name, 0), int(number))
        return list(newest.values())

    def _signs(self, entry: Entry, before: int) -> set[str]:
        """What the rest of the chat says: whether it comes again, and whether a later one stands in its place."""
        said = self._said.get(entry.text.casefold(), ())
        seen = bisect_left(said, before)
        rarest = min((bisect_left(self._terms.get(term, ()), before) for term in _terms(entry.text)), default=0)
        again: Counter[int] = Counter()
        for term in _slot(entry):
            turns = self._slots.get((entry.kind, term), ())
            start = bisect_left(turns, entry.turn + 1)
            again.update(turn for turn in islice(turns, start, start + LATER_TURNS) if turn < before)
        replaced = any(shared > 1 and not _has(said, turn) for turn, shared in again.items())
        return {step("seen", seen, 1, 2, 3, 5), step("rarest", rarest, 0, 1, 2, 4, 8), "replaced" * replaced}


def _has(rising: Sequence[int], turn: int) -> bool:
    place = bisect_left(rising, turn)
    return place < len(rising) and rising[place] == turn


def _note(turns: list[int], turn: int) -> None:
    if not turns or turns[-1] != turn:
        turns.append(turn)


def _cost(entry: Entry) -> float:
    return float((len(entry.clause) + 3) ** COST)


def _terms(text: str) -> Iterable[str]:
    # The same for ASCII, in half of the time: all strings of a chat are taken apart when it is read anew.
    return (_ASCII_TERM if text.isascii() else _TERM).findall(text.lower())


def _slot(entry: Entry) -> set[str]:
    """The words around a string: what it is the value of."""
    return set(_terms(entry.clause.lower().replace(entry.text.lower(), " ")))


def _name(entry: Entry) -> tuple[bool, str]:
    """What makes two entries the same: a name is one wherever it stands, a number only in the same clause."""
    is_unique = entry.kind in _UNIQUE
    return is_unique, (entry.text if is_unique else entry.clause).casefold()
