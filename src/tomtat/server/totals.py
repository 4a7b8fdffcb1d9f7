"""What whole histories would cost, which is what a memory saves from."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from tomtat.memory import TokenCounter
from tomtat.memory.turns import shown
from tomtat.server.recent import Recent
from tomtat.server.which import Message, Place
from tomtat.store import Store

KEPT_TOTALS = 10_000

_Key = tuple[str, str, int, "weakref.ref[TokenCounter]"]
"""Tenant, conversation, the branch's number, which is never given twice, and a counter, which may be gone: the next one
at its place in memory is another."""


class Totals:
    """What whole histories cost, without counting them anew for each turn."""

    def __init__(self) -> None:
        self._known: Recent[_Key, tuple[int, int]] = Recent(KEPT_TOTALS)

    def of(
        self, tenant: str, store: Store, place: Place, counter: TokenCounter, turns: Sequence[Message] | None
    ) -> int:  # fmt: skip
        """turns: the history, where it is at hand; else it is read as far as it must be.

        Raises: UnknownConversation, where it was erased meanwhile.
        """
        line = store.branches(place.conversation)[place.branch]
        key = tenant, place.conversation, line.number, weakref.ref(counter)
        last, tokens = self._known.get(key) or (0, counter.base)
        if last > place.last:
            last, tokens = 0, counter.base
        if turns is not None and not place.wanted.only_new:
            more: Sequence[Mapping[str, Any]] = turns[last:]
        else:
            found = store.history(place.conversation, branch=place.branch, first=last + 1, last=place.last)
            more = [shown(turn) for turn in found]
        tokens += sum(map(counter.message, more))
        self._known.put(key, (place.last, tokens))
        return tokens

    def forget(self, tenant: str, conversation: str) -> None:
        self._known.drop(lambda key, _: key[:2] == (tenant, conversation))
