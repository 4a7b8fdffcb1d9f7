"""A store against a few lists in memory, over some hundred random operations."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import Messages, messages, says
from tomtat.store.conformance.subject import Subject
from tomtat.store.values import Conflict, Span, UnknownConversation

WORDS = ["yes", "no", "and then?", "Đơn hàng", "again"]
"""Few, so that the same is said twice and histories meet again."""


@dataclass
class Kept:
    """A conversation as it should be: each branch with all its messages from the first, and what was derived."""

    user: str | None
    branches: list[Messages] = field(default_factory=lambda: [[]])
    forks: list[tuple[int, int] | None] = field(default_factory=lambda: [None])
    derived: dict[tuple[int, int, int, str], tuple[int, Any]] = field(default_factory=dict)
    """By the branch that the span's last turn lies on, first, last, and kind: version and value."""

    def home(self, branch: int, seq: int) -> int:
        """The branch that a turn lies on."""
        while (fork := self.forks[branch]) is not None and seq <= fork[1]:
            branch = fork[0]
        return branch

    def seen(self, branch: int) -> list[tuple[int, int, str, int, Any]]:
        return sorted(
            (first, last, kind, version, value)
            for (home, first, last, kind), (version, value) in self.derived.items()
            if last <= len(self.branches[branch]) and self.home(branch, last) == home
        )


class Player:
    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.dice, self.kept = store, random.Random(seed), dict[str, Kept]()

    def say(self, count: int) -> Messages:
        return [says(self.dice.choice(WORDS), self.dice.choice(["user", "assistant"])) for _ in range(count)]

    def pick(self) -> tuple[str, Kept, int]:
        name = self.dice.choice(sorted(self.kept))
        kept = self.kept[name]
        return name, kept, self.dice.randrange(len(kept.branches))

    def append(self) -> None:
        name = self.dice.choice("abcd")
        kept = self.kept.setdefault(name, Kept(self.dice.choice([None, "ann", "ben"])))
        new = self.say(self.dice.choice([0, 1, 1, 2, 40, 150]))
        branch = len(kept.branches) - 1
        done = self.store.append(name, new, user=kept.user)
        kept.branches[branch] += new
        assert (done.branch, done.last, done.new) == (branch, len(kept.branches[branch]), len(new))

    def resend(self) -> None:
        """A whole history, longer, shorter or edited somewhere, maybe twice."""
        name, kept, source = self.pick()
        history = kept.branches[source]
        cut = self.dice.randint(0, len(history))
        sent = [*history[: self.dice.choice([cut, len(history)])], *self.say(self.dice.randint(0, 3))]
        common = [shared(known, sent) for known in kept.branches]
        for _ in range(self.dice.choice([1, 2])):
            done = self.store.append(name, sent, after=0, fork=True)
            assert done.last == len(sent)
            if done.branch == len(kept.branches):
                best = max(range(len(common)), key=lambda n: common[n])
                assert all(
                    n < len(sent) and n < len(kept.branches[b]) for b, n in enumerate(common) if n == common[best]
                )
                [told] = [one for one in self.store.branches(name) if one.branch == done.branch]
                assert told.forked_from is not None
                assert told.forked_after is not None
                assert kept.branches[told.forked_from][: told.forked_after] == sent[: common[best]]
                kept.branches.append(list(sent))
                kept.forks.append((told.forked_from, told.forked_after))
                assert done.new == len(sent) - common[best]
            else:
                known = kept.branches[done.branch]
                assert common[done.branch] == max(common)
                assert common[done.branch] in (len(sent), len(known)), "what differs is on a branch of its own"
                assert done.new == len(sent) - common[done.branch]
                if len(sent) > len(known):
                    kept.branches[done.branch] = list(sent)
            common = [shared(known, sent) for known in kept.branches]

    def conflict(self) -> None:
        name, kept, branch = self.pick()
        history = kept.branches[branch]
        if history:
            after = self.dice.randrange(len(history))
            with pytest.raises(Conflict):
                self.store.append(name, [says("never said")], branch=branch, after=after)

    def read(self) -> None:
        name, kept, branch = self.pick()
        history = kept.branches[branch]
        first, last = self.dice.randint(1, len(history) + 2), self.dice.randint(0, len(history) + 2)
        assert messages(self.store.history(name, branch=branch, first=first, last=last)) == history[first - 1 : last]
        newest = self.dice.randint(0, 90)
        expected = history[:last][max(len(history[:last]) - newest, 0) :]
        assert messages(self.store.history(name, branch=branch, newest=newest, last=last)) == expected

    def attach(self) -> None:
        name, kept, branch = self.pick()
        if not kept.branches[branch]:
            return
        last = self.dice.randint(1, len(kept.branches[branch]))
        first, kind = self.dice.randint(max(1, last - 3), last), self.dice.choice(["summary", "ledger"])
        key = kept.home(branch, last), first, last, kind
        version = kept.derived[key][0] if key in kept.derived else None
        expected = self.dice.choice([version, version, None, 1])
        value = {"dice": self.dice.random()}
        if expected != version:
            with pytest.raises(Conflict):
                self.store.attach(name, Span(first, last), kind, value, branch=branch, expected=expected)
            return
        done = self.store.attach(name, Span(first, last), kind, value, branch=branch, expected=expected)
        assert done.version == (version or 0) + 1
        kept.derived[key] = done.version, value

    def erase(self) -> None:
        if self.dice.random() < 0.5:
            return
        name, kept, _ = self.pick()
        receipt = (
            self.store.erase(conversation=name)
            if self.dice.random() < 0.7
            else self.store.erase(user=kept.user or "nobody")
        )
        gone = (
            [name]
            if receipt.what == "conversation"
            else [n for n, k in self.kept.items() if k.user == (kept.user or "nobody")]
        )
        assert receipt.conversations == len(gone)
        assert receipt.turns == sum(self.own_turns(self.kept[n]) for n in gone)
        for one in gone:
            del self.kept[one]
            with pytest.raises(UnknownConversation):
                self.store.history(one)

    def tidy(self) -> None:
        self.store.tidy()

    def own_turns(self, kept: Kept) -> int:
        """Those that several branches share once."""
        return sum(len(b) - (f[1] if f else 0) for b, f in zip(kept.branches, kept.forks, strict=True))

    def compare(self) -> None:
        told = {branch.conversation: branch for branch in self.store.conversations()}
        assert sorted(told) == sorted(self.kept)
        for name, kept in self.kept.items():
            assert told[name].user == kept.user
            assert [branch.last for branch in self.store.branches(name)] == [len(branch) for branch in kept.branches]
            for n, history in enumerate(kept.branches):
                assert messages(self.store.history(name, branch=n)) == history
                derived = self.store.derived(name, branch=n)
                found = [(one.span.first, one.span.last, one.kind, one.version, one.value) for one in derived]
                assert sorted(found, key=lambda row: row[:3]) == kept.seen(n)
        stats = self.store.stats()
        assert stats.turns == sum(self.own_turns(kept) for kept in self.kept.values())
        assert stats.derived == sum(len(kept.derived) for kept in self.kept.values())


def shared(one: Messages, other: Messages) -> int:
    """How many messages two histories begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("seed", range(6))
def test_a_store_does_what_a_few_lists_do(subject: Subject, place: str, seed: int) -> None:
    store = subject.open(place)
    player = Player(store, seed)
    player.append()
    steps = (
        [player.append] * 4
        + [player.resend] * 6
        + [player.read] * 5
        + [player.attach] * 4
        + [player.conflict, player.tidy, player.erase]
    )
    try:
        for number in range(250):
            (player.dice.choice(steps) if player.kept else player.append)()
            if number % 50 == 49:
                player.compare()
                player.store.close()
                player.store = subject.open(place)
        player.compare()
        assert player.store.check().is_sound
    finally:
        player.store.close()
