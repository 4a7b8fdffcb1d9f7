"""Histories that came before, by a hash of what they say: one that comes again and has grown is not read, hashed and
looked up anew from its first turn on. What is not known here the store finds, by the same rule."""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from tomtat.memory import ChatMemory
from tomtat.server.recent import Recent
from tomtat.server.which import Message, Place, Wanted, continued
from tomtat.store import UnknownConversation

KEPT = 20_000
START = bytes(16)


class Known(NamedTuple):
    conversation: str
    branch: int
    number: int
    """The branch's, which is never given twice: a conversation may be erased, and another of its name begun."""
    last: int


class Prefixes:
    def __init__(self) -> None:
        self._known: Recent[tuple[str, str | None, bytes], Known] = Recent(KEPT)

    def find(
        self, tenant: str, memory: ChatMemory, wanted: Wanted, turns: Sequence[Message], chain: Sequence[bytes]
    ) -> Place | None:  # fmt: skip
        """As `find_place`, from the longest beginning on that is known here; None where there is none.

        chain: `chains` of the turns.
        """
        for length in range(len(turns), 0, -1):
            known = self._known.get((tenant, wanted.id, chain[length - 1]))
            if known is not None and known.last == length:
                return self._continued(memory, wanted, known, turns)
        return None

    def _continued(self, memory: ChatMemory, wanted: Wanted, known: Known, turns: Sequence[Message]) -> Place | None:
        try:
            lines = memory.store.branches(known.conversation)
        except UnknownConversation:
            return None
        line = lines[known.branch] if known.branch < len(lines) else None
        if line is None or line.number != known.number or line.last < known.last:
            return None
        if wanted.user not in (None, line.user):
            return None  # for the store to judge
        place = Place(known.conversation, known.branch, known.last, 0, wanted)
        rest = [{name: value for name, value in turn.items() if name != "id"} for turn in turns[known.last :]]
        return continued(memory, place, rest) if rest else place

    def note(self, tenant: str, memory: ChatMemory, place: Place) -> None:
        """A place that has a chain."""
        assert place.chain is not None
        number = memory.store.branches(place.conversation)[place.branch].number
        known = Known(place.conversation, place.branch, number, place.last)
        self._known.put((tenant, place.wanted.id, place.chain), known)

    def forget(self, tenant: str, conversation: str) -> None:
        self._known.drop(lambda key, known: key[0] == tenant and known.conversation == conversation)


def chains(turns: Sequence[Message], chain: bytes = START) -> Iterator[bytes]:
    """After each turn a hash of it and all before it. chain: of what stands before the turns."""
    for turn in turns:
        content = turn.get("content")
        if len(turn) == 2 and isinstance(content, str):
            said = f"{turn.get('role')}\0{content}"
        else:
            said = json.dumps({name: value for name, value in turn.items() if name != "id"}, sort_keys=True)
        chain = blake2b(chain + said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        yield chain
