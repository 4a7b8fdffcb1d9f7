"""What a span of turns was folded to, and the tree that folds make.

Folds of level 0 follow one another from the first turn on, each over turns that the summarizer read whole; a fold of
level 1 stands over several of these, and so on. All are kept in the store as derived from their span, and never
change. Where two processes fold the same turns in different ways, the store keeps the one that comes first.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from tomtat.memory.gate import Verdict
from tomtat.memory.kept import Kept
from tomtat.memory.ledger import Entry
from tomtat.memory.ranked import Strings, odds_of
from tomtat.store import Branch, Derived, Span, Store

By = Literal["model", "extract", "both"]

HIGHEST_LEVEL = 12
"""Eight spans of half a thousand tokens to the power of twelve: no chat gets there."""
BLOCK_BYTES = 1 << 19
"""Of fronts kept for one branch: several budgets of a hundred thousand tokens."""


def kind_of(level: int) -> str:
    return f"fold-{level}"


@dataclass(frozen=True, slots=True)
class Line:
    """A part of a summary, and the turns it was made from."""

    text: str
    first: int
    last: int
    by: Literal["model", "extract"]


@dataclass(frozen=True, slots=True)
class Fold:
    span: Span
    level: int
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...]
    """Of every text that was tried for it, those refused too."""
    ledger: tuple[Entry, ...] = ()
    """Of level 0: its exact strings."""
    pinned: tuple[int, ...] = ()
    """Of level 0: turns that are never folded, which a context brings word for word."""
    tokens: int = 0
    """Of level 0: of its turns, estimated, so that it is the same whoever counts."""
    summarizer: str = ""
    """Who wrote it."""

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)

    @property
    def by(self) -> By:
        found = {line.by for line in self.lines}
        return "both" if len(found) > 1 else found.pop()

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": [[line.text, line.first, line.last, line.by] for line in self.lines],
            "verdicts": [
                [verdict.text, verdict.how, verdict.first, verdict.last, *verdict.reasons] for verdict in self.verdicts
            ],
            "ledger": [list(entry) for entry in self.ledger],
            "pinned": list(self.pinned),
            "tokens": self.tokens,
            "summarizer": self.summarizer,
        }

    @classmethod
    def from_derived(cls, derived: Derived, level: int) -> "Fold":
        value = derived.value
        return cls(
            derived.span,
            level,
            tuple(Line(*line) for line in value["lines"]),
            tuple(Verdict(text, how, first, last, tuple(why)) for text, how, first, last, *why in value["verdicts"]),
            tuple(Entry(*entry) for entry in value["ledger"]),
            tuple(value["pinned"]),
            value["tokens"],
            value["summarizer"],
        )


@dataclass
class FoldTree:
    """The folds of one branch of a conversation, as far as they have been read."""

    levels: list[list[Fold]] = field(default_factory=list)
    """Of each level, one after the other from turn 1, without a gap."""
    blocks: Kept[tuple[int, int, str], Any] = field(default_factory=lambda: Kept(BLOCK_BYTES))
    """Fronts of contexts that were made from these folds: kept until there are more."""
    quoted: dict[int, str] = field(default_factory=dict)
    """Of turns that searches have found how they are quoted; "" where that is plainly as they stand."""
    quoted_bytes: int = 0
    exactness: dict[int, float] = field(default_factory=dict)
    """Of turns with exact strings: how likely it is that somebody asks for one of them."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while it is read or used: it grows."""
    _tokens_before: list[int] = field(default_factory=list)
    """Before each span of level 0, and before the open one."""
    strings: Strings = field(default_factory=Strings)
    """Exact strings of all folded turns."""
    open_size: tuple[int, int, int] = (0, 0, 0)
    """The last folded turn, the last one counted after it, and the tokens of those between."""
    _bytes: int = 0
    """Of all folds, estimated."""

    @property
    def bytes(self) -> int:
        """What it takes in memory, estimated."""
        return self._bytes + self.blocks.bytes + self.quoted_bytes

    @property
    def folded(self) -> int:
        """Place of the last folded turn."""
        return self.end(0)

    @property
    def tokens(self) -> int:
        """Of all folded turns, estimated."""
        return self._tokens_before[-1] if self._tokens_before else 0

    @property
    def usual_span(self) -> int:
        """Tokens of a span, estimated: the median of the last ones."""
        sizes = sorted(fold.tokens for fold in (self.levels[0][-9:] if self.levels else ()))
        return sizes[len(sizes) // 2] if sizes else 0

    def start_of_span(self, turn: int) -> int:
        """Where the span of level 0 begins that a turn is in; what no fold stands for is one open span."""
        return self.folded + 1 if turn > self.folded else self.levels[0][self._number(turn)].span.first

    def is_milestone(self, start: int, step: int) -> bool:
        """Whether a span's beginning is the first one after another `step` tokens of conversation.

        Milestones depend on what was said before them alone, so they never move.
        """
        number = self._number(start) if start <= self.folded else len(self._tokens_before) - 1
        if number < 1:
            return True
        return self._tokens_before[number] // step > self._tokens_before[number - 1] // step

    def _number(self, turn: int) -> int:
        return bisect_right(self.levels[0], turn, key=lambda fold: fold.span.first) - 1

    def end(self, level: int) -> int:
        return self.levels[level][-1].span.last if level < len(self.levels) and self.levels[level] else 0

    def read(self, store: Store, line: Branch) -> None:
        """Take in what has been folded since: by this process or another."""
        with self.lock:
            for level in range(HIGHEST_LEVEL):
                if level == len(self.levels):
                    self.levels.append([])
                begin = self.end(level) + 1
                if begin <= line.last:
                    self._take(level, list(_following(_read_from(store, line, level, begin), begin)))
                if len(self.levels[level]) < 2:
                    break

    def _take(self, level: int, more: Sequence[Fold]) -> None:
        """Folds that come next on a level."""
        if not more:
            return
        self.levels[level] += more
        self._bytes += sum(map(_bytes_of, more))
        self.blocks.clear()
        if level == 0:
            entries = [entry for fold in more for entry in fold.ledger]
            self.strings.add(entries)
            for entry in entries:
                self.exactness[entry.turn] = max(self.exactness.get(entry.turn, 0.0), odds_of(entry.worth))
            self._tokens_before = list(accumulate((fold.tokens for fold in self.levels[0]), initial=0))

    def waiting(self, level: int) -> list[Fold]:
        """The folds of a level that none of the next one stands over yet."""
        begin = self.end(level + 1) + 1
        return self.levels[level][bisect_left(self.levels[level], begin, key=lambda fold: fold.span.first) :]

    def nodes(self, last: int) -> list[Fold]:
        """The fewest folds that stand for the turns from the first on, none of them beyond turn `last`."""
        found: list[Fold] = []
        place = 1
        for level in range(len(self.levels) - 1, -1, -1):
            for fold in self.levels[level]:
                if fold.span.first == place and fold.span.last <= last:
                    found.append(fold)
                    place = fold.span.last + 1
        return found

    def below(self, fold: Fold) -> list[Fold]:
        """The folds of one level lower that it stands over."""
        inside = self.levels[fold.level - 1] if fold.level else []
        return [one for one in inside if fold.span.first <= one.span.first and one.span.last <= fold.span.last]

    def covering(self, turn: int) -> list[Fold]:
        """The folds that a turn is in, the narrowest first."""
        return [fold for level in self.levels for fold in level if fold.span.first <= turn <= fold.span.last]


_OF_FOLD, _OF_ENTRY = 2000, 600
"""Bytes besides its texts, as measured: of a fold with its verdicts; of an entry with what `Strings` notes of it."""


def _bytes_of(fold: Fold) -> int:
    texts = sum(len(line.text) for line in fold.lines) + sum(len(verdict.text) for verdict in fold.verdicts)
    return _OF_FOLD + texts + sum(_OF_ENTRY + 2 * len(entry.clause) for entry in fold.ledger)


def _read_from(store: Store, line: Branch, level: int, begin: int) -> list[Derived]:
    kind, name, branch, last = kind_of(level), line.conversation, line.branch, line.last
    if begin == 1:
        return store.derived(name, branch=branch, kind=kind, last=last)
    # `covering` is what a store looks up: folds that begin right after those known, one after the other.
    found: list[Derived] = []
    while begin <= last:
        here = [
            row
            for row in store.derived(name, branch=branch, kind=kind, covering=begin, last=last)
            if row.span.first == begin
        ]
        if not here:
            break
        found += here
        begin = _that_counts(here).span.last + 1
    return found


def _following(rows: Sequence[Derived], begin: int) -> Iterator[Fold]:
    starts: dict[int, list[Derived]] = {}
    for row in rows:
        starts.setdefault(row.span.first, []).append(row)
    while begin in starts:
        row = _that_counts(starts[begin])
        yield Fold.from_derived(row, int(row.kind.removeprefix("fold-")))
        begin = row.span.last + 1


def _that_counts(rows: Sequence[Derived]) -> Derived:
    """Of folds that begin at one turn, the first one kept; by their turns alone, for clocks of writers differ.

    A branch gets a second one only from another branch, which did not see the first because that ends after what the
    two share. So the first one kept is the one that ends last.
    """
    return max(rows, key=lambda row: row.span.last)
