"""The newest turns of a conversation, read back from its end as far as they are asked for."""

from collections import deque
from collections.abc import Iterable, Iterator

from tomtat.memory.folds import FoldTree
from tomtat.memory.tokens import TokenCounter
from tomtat.memory.turns import LONGEST_WAIT, Group, answers_of, groups, is_pinned, lacks_calls, shown, spoken_in
from tomtat.store import Branch, Store, Turn

READ_AT_ONCE = 16
"""Turns, and beyond as many again as have been read: a small budget shows few, and each that is read is counted."""
FARTHEST_OFF = 5
"""No estimate is so many times too high: what it says is longer needn't be counted to know that it won't fit."""


class Window:
    """Each turn is read and counted once, however far back a budget reaches."""

    def __init__(self, store: Store, line: Branch, counter: TokenCounter, folded: int) -> None:
        self._store, self._line, self._counter = store, line, counter
        self._begin = line.last + 1
        self._older: deque[Turn] = deque()
        """What has been read, but for the newest message."""
        self._grouped: list[Group] | None = None
        self._costs: dict[int, int] = {}
        self._tokens = 0
        """Of the older turns that are not pinned."""
        # What no span stands for yet is read whole: there may be something pinned in it.
        self.newest = self._read_newest(min(folded + 1, max(1, self._begin - READ_AT_ONCE)))
        """The newest message; with a call of tools all its results, and the other way round."""

    @property
    def older(self) -> list[Turn]:
        """The turns before that, as far as they have been read, without those that are pinned."""
        return [turn for turn in self._older if not is_pinned(turn)]

    @property
    def pinned(self) -> list[Turn]:
        """Of these those that are."""
        return [turn for turn in self._older if is_pinned(turn)]

    def cost(self, turns: Iterable[Turn]) -> int:
        """Of turns as messages."""
        return sum(map(self._cost, turns))

    def fits(self, room: int, tree: FoldTree) -> bool:
        """Whether all turns before the newest message cost at most `room` tokens."""
        if tree.tokens > FARTHEST_OFF * room:
            return False
        self._read_for(room)
        return self._tokens <= room

    def since(self, share: int, tree: FoldTree) -> list[Turn]:
        """Older turns, the newest of them, for at most `share` tokens and in whole groups.

        Where they begin only moves by half a share or more, so that what a provider has cached lasts for many turns.
        """
        self._read_for(share)
        # What the open span will grow to is kept free, so that nothing moves until it closes; but not more than half.
        settled = self._earliest(max(share - tree.usual_span, share // 2), tree.folded)
        begin = self._mark_from(settled, share, tree)
        found = [turn for turn in self.older if turn.seq >= begin]
        if self.cost(found) > share:
            begin = self._mark_from(self._earliest(share, self._line.last), share, tree)
            found = [turn for turn in self.older if turn.seq >= begin]
        return found

    def before(self, room: int) -> list[Turn]:
        """The turn right before the newest message, if it costs at most `room`: what "yes, do that" is said to."""
        last = [turn for group in self._groups()[-1:] for turn in group if not is_pinned(turn)]
        is_whole = last and not answers_of(last[0])
        return last if is_whole and self.cost(last) <= room else []

    def _read_for(self, room: int) -> None:
        """Read back until the turns cost more, or there are none before them."""
        while self._tokens <= room and self._begin > 1:
            self._take(self._read(self._begin - max(READ_AT_ONCE, len(self._older))))

    def _read_newest(self, place: int) -> Group:
        """The last group; what is read before it is taken in.

        A result's call is looked for as far back as one waits for a result: there may be none, or a damaged one.
        """
        turns = self._read(place)
        while self._begin > 1 and not _is_settled(newest := _last_group(turns), turns):
            # Twice as many, so that a chat of nothing but results is not grouped again and again.
            turns = self._read(self._begin - max(READ_AT_ONCE, len(turns))) + turns
        newest = _last_group(turns)
        self._take(turns[: len(turns) - len(newest)])
        return newest

    def _earliest(self, share: int, last: int) -> int:
        """Where turns for at most `share` tokens could begin that reach to turn `last`."""
        place = self.newest[0].seq
        for group in reversed(self._groups()):
            share -= self._cost_of(group) if group[0].seq <= last else 0
            if share < 0 or (answers_of(group[0]) and self._begin > 1):
                break
            place = group[0].seq
        return place

    def _mark_from(self, earliest: int, share: int, tree: FoldTree) -> int:
        if (start := tree.start_of_span(earliest)) < self._begin:
            self._take(self._read(start))
        return next((start for start in self._marks(share, tree) if start >= earliest), earliest)

    def _marks(self, share: int, tree: FoldTree) -> Iterator[int]:
        """Where the newest turns may begin: where spans do, every half share or so; in larger spans between, too."""
        step = max(share // 2, 1)
        tokens = steps = 0
        for group in self._groups():
            start = group[0].seq
            if tree.start_of_span(start) == start:
                tokens = steps = 0
                if tree.is_milestone(start, step):
                    yield start
            elif tokens // step > steps:
                steps = tokens // step
                yield start
            tokens += self._cost_of(group)

    def _cost_of(self, group: Group) -> int:
        return self.cost(turn for turn in group if not is_pinned(turn))

    def _cost(self, turn: Turn) -> int:
        if turn.seq not in self._costs:
            self._costs[turn.seq] = self._counter.message(shown(turn))
        return self._costs[turn.seq]

    def _groups(self) -> list[Group]:
        """The older turns, grouped."""
        if self._grouped is None:
            self._grouped = groups(list(self._older))
        return self._grouped

    def _take(self, turns: list[Turn]) -> None:
        """Older turns that come before those there are."""
        self._older.extendleft(reversed(turns))
        self._tokens += self._cost_of(turns)
        self._grouped = None

    def _read(self, place: int) -> list[Turn]:
        """The turns from a place on that have not been read yet."""
        last, self._begin = self._begin - 1, min(self._begin, max(1, place))
        name, branch = self._line.conversation, self._line.branch
        return self._store.history(name, branch=branch, first=self._begin, last=last) if self._begin <= last else []


def _is_settled(newest: Group, turns: list[Turn]) -> bool:
    """Whether the calls of the newest group's results are in it, or not to be found by reading farther back."""
    if not newest:  # a repair set the last turns aside
        return False
    return not lacks_calls(newest) or spoken_in(turns[: -len(newest)]) >= LONGEST_WAIT


def _last_group(turns: list[Turn]) -> Group:
    found = groups(turns, LONGEST_WAIT)
    return found[-1] if found else []
