"""The exact strings of a span: what a summary rounds off, and what people come back for.

Rules find them, so that nothing is made up: whatever looks like an address, a path, a command, an id, an amount, a
date, a name, or something in quotes, word for word with the words around it. There are many more than
a context has room for; `worth` says which go first.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import regex

from tomtat.memory.framing import said
from tomtat.memory.patterns import ANYWHERE, CAPITALISED, NO_NAMES, STRINGS, WITHOUT_WHICH, Kind
from tomtat.memory.worth import signs_of_string, signs_of_turn, worth_of
from tomtat.store import Turn

MOST_OF_A_TURN = 24
"""Strings: a table of hundreds must not push out what everybody else said."""
LONGEST = 80
"""Characters of a string; a longer one is nothing that somebody would look up."""
MOST_BEFORE, MOST_AFTER = 3, 2
"""Words of a clause around its string. Widths of their own for each kind did no better."""


class Entry(NamedTuple):
    """One exact string."""

    turn: int
    kind: Kind
    text: str
    clause: str
    """The string with the words around it that say what it is, as they stand in the turn."""
    worth: float = 0.0
    """Log-odds that somebody will ask for it, by what its turn says."""


_SENTENCE_BEGINS = ".!?:\n\"'“”‘’(«»*-–—•|"
_BETWEEN_PARTS = regex.compile(
    r",? |, ?(?:lúc |at )?| (?:at|to|till|until|of|and|x|×|=|\+|-|–|và|tới|đến|lúc|-->|->|in|from|on) "
)
_MEASURES = frozenset(("date", "time", "amount", "number", "id", "several"))
_CLAUSE_ENDS = regex.compile(r"[.!?;:…]+(?=\s|$|[\"'”)])|\n+|,(?=\s)|\s[–—-]+\s|[()\[\]{}|\"“”«»]|(?<=[,.;])\s")
_ESCAPED_BLANK = regex.compile(r"\\[nrt]")
_WORD = regex.compile(r"\S+")
_ONE_WORD = regex.compile(r"[^\W\d]+")
_CAPITAL = regex.compile(r"\p{Lu}")
_ENDLESS = regex.compile(r"\S{200,}")
_AFTER_APOSTROPHE = regex.compile(r"(?<=..)['’].*")
_POSSESSIVE = regex.compile(r"['’]s$")


def ledger(turns: Sequence[Turn]) -> list[Entry]:
    """The exact strings of some turns, in order; one that stands in several, once for each."""
    entries: list[Entry] = []
    asked = False
    for turn in turns:
        found = sorted(_entries(turn.seq, turn.message, asked), key=lambda entry: -entry.worth)[:MOST_OF_A_TURN]
        entries += sorted(found, key=lambda entry: said(turn.message).find(entry.text))
        asked = "?" in said(turn.message)
    return entries


def entries_of(seq: int, message: Mapping[str, Any]) -> Iterator[Entry]:
    """The exact strings of one turn."""
    return _entries(seq, message, False)


def _entries(seq: int, message: Mapping[str, Any], asked: bool) -> Iterator[Entry]:
    text = said(message)
    # The same length, so that places stay what they are: a tool's "\nK-12" names K-12.
    plain = _ESCAPED_BLANK.sub("  ", text)
    # Nobody looks up what is so long, and patterns may look at each letter of it from each letter.
    plain = _ENDLESS.sub(lambda match: " " * len(match[0]), plain)
    strings = _found(plain)
    clauses = _clauses(plain, strings)
    of_turn = signs_of_turn(text, message, asked, len(strings))
    seen: set[str] = set()
    for kind, start, end in strings:
        exact = text[start:end].strip()
        if exact in seen or not (1 < len(exact) <= LONGEST or exact.isdigit()):
            continue
        seen.add(exact)
        start += text[start:end].index(exact)
        end = start + len(exact)
        low, high = clauses[bisect_right(clauses, (start, len(text))) - 1] if clauses else (start, end)
        if not low <= start <= end <= high:
            low, high = start, end
        before, after = list(_WORD.finditer(text, low, start)), list(_WORD.finditer(text, end, high))
        first = before[-MOST_BEFORE:][0].start() if before else start
        last = after[:MOST_AFTER][-1].end() if after else end
        signs = of_turn | signs_of_string(text, kind, (start, end), (low, high), str(message["role"]), asked)
        worth = round(worth_of(signs), 2)
        yield Entry(seq, kind, exact, " ".join(text[first:last].split()), worth)


def _found(text: str) -> list[tuple[Kind, int, int]]:
    """Kinds and places, not overlapping: what an earlier pattern has, no later one takes apart."""
    found: list[tuple[Kind, int, int]] = []
    free = [(0, len(text))]
    for kind, pattern in STRINGS:
        where = _where(text, kind)
        if not where:
            continue
        places = [
            match.span()
            for begin, stop in _shared(free, where)
            for match in pattern.finditer(text, begin, stop)
            if match.end() > match.start()
        ]
        for start, end in places:
            is_word = kind in ("id", "command") and _ONE_WORD.fullmatch(text, start, end)
            found.append(("symbol" if is_word else kind, start, end))
        free = _without(free, places)
    for begin, stop in free:
        found += _names(text, begin, stop)
    return _joined(text, sorted(found, key=lambda part: part[1:]))


Stretches = list[tuple[int, int]]
"""Of a text, from where to where, rising, none in another."""


def _where(text: str, kind: Kind) -> Stretches:
    """Where strings of a kind may be."""
    needed = WITHOUT_WHICH[kind]
    if kind in ANYWHERE:
        return [(0, len(text))] if needed.search(text) else []
    where: Stretches = []
    for match in needed.finditer(text):
        begin, stop = _words_before(text, match.start()), _words_after(text, match.end())
        if where and begin <= where[-1][1]:
            begin = where.pop()[0]
        where.append((begin, stop))
    return where


def _words_before(text: str, place: int) -> int:
    """Where the word at a place begins, or rather the second one before it."""
    for _ in range(3):
        place = text.rfind(" ", 0, max(place, 0))
    return place + 1


def _words_after(text: str, place: int) -> int:
    """Where the word at a place ends, or rather the second one after it."""
    for _ in range(3):
        if (place := text.find(" ", place) + 1) == 0:
            return len(text)
    return place - 1


def _shared(some: Stretches, others: Stretches) -> Stretches:
    """What lies in both."""
    shared: Stretches = []
    place = 0
    for begin, stop in some:
        while place < len(others) and others[place][1] <= begin:
            place += 1
        number = place
        while number < len(others) and others[number][0] < stop:
            shared.append((max(begin, others[number][0]), min(stop, others[number][1])))
            number += 1
    return shared


def _without(some: Stretches, places: Stretches) -> Stretches:
    """What is left of stretches without some places in them."""
    left: Stretches = []
    rest = iter([*places, (2**62, 2**62)])
    start, end = next(rest)
    for begin, stop in some:
        while start < stop:
            left.append((begin, start))
            begin = end
            start, end = next(rest)
        left.append((begin, stop))
    return [part for part in left if part[0] < part[1]]


def _names(text: str, begin: int, stop: int) -> Iterator[tuple[Kind, int, int]]:
    """Capitalised words, together where they stand side by side: Dr. Filipa Nogueira, Rua das Oliveiras."""
    for match in _matches(CAPITALISED, _CAPITAL, text, begin, stop):
        start, end = match.span()
        before = text[:start].rstrip(" \t")
        opens = not before or before[-1] in _SENTENCE_BEGINS
        words = match[0].split(" ")
        while words and _AFTER_APOSTROPHE.sub("", words[0].lower()) in NO_NAMES:
            start += len(words.pop(0)) + 1
            opens = False
        if words:
            end -= 2 * (_POSSESSIVE.search(text[start:end]) is not None)
            if end - start > 1:
                yield "opener" if opens and len(words) == 1 else "name", start, end


def _matches(
    pattern: "regex.Pattern[str]", first: "regex.Pattern[str]", text: str, begin: int, stop: int
) -> Iterator["regex.Match[str]"]:  # fmt: skip
    """What a pattern finds, all of which begins with what another finds: it is tried there only."""
    while start := first.search(text, begin, stop):
        match = pattern.match(text, start.start(), stop)
        begin = match.end() if match else start.end()
        if match:
            yield match


def _joined(text: str, strings: Sequence[tuple[Kind, int, int]]) -> list[tuple[Kind, int, int]]:
    """Numbers, days and hours that stand side by side are one string: Thu 17 April, 18:30."""
    joined: list[tuple[Kind, int, int]] = []
    for kind, start, end in strings:
        if joined and {kind, joined[-1][0]} <= _MEASURES and end - joined[-1][1] <= 60:
            other, first, last = joined[-1]
            if _BETWEEN_PARTS.fullmatch(text, last, start):
                joined[-1] = (kind if kind == other else "several", first, end)
                continue
        joined.append((kind, start, end))
    return joined


def _clauses(text: str, strings: Sequence[tuple[Kind, int, int]]) -> list[tuple[int, int]]:
    """What stands between two marks of punctuation; a string that has a comma holds two of them together."""
    ends = [match.span() for match in _CLAUSE_ENDS.finditer(text)]
    held = [(start, end) for kind, start, end in strings if kind != "quote"]
    clauses: list[tuple[int, int]] = []
    for low, high in zip([0, *(end for _, end in ends)], [*(start for start, _ in ends), len(text)], strict=True):
        if low >= high or not text[low:high].strip():
            continue
        # The string that begins last before this clause's first letter: whether it reaches into it from the one before.
        place = bisect_right(held, (low, low)) - 1
        if clauses and place >= 0 and held[place][0] < clauses[-1][1] and low < held[place][1]:
            clauses[-1] = clauses[-1][0], high
        else:
            clauses.append((low, high))
    return clauses
