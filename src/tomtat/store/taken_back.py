"""Turns that were taken back: items that a session does not have any more.

A store takes nothing out of a conversation. Such turns stay where they are, marked, until the conversation is erased;
whoever reads the session leaves them out, and what comes next opens a branch before them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from tomtat.store.base import Store
from tomtat.store.values import Branch, Conflict, Derived, Span, UnknownConversation

FIELD = "session"
"""Of a stored message: what only a session reads of it."""
KIND = "session-hidden"
"""The kind of what marks turns."""

T = TypeVar("T")

TRIES = 50
"""Each that fails is one that somebody else made."""


def newest(store: Store, conversation: str, branch: int | None = None) -> tuple[Branch | None, int]:
    """The newest branch or the one given, and the last of its turns that is there; None and 0 where there is none."""
    try:
        lines = store.branches(conversation)
    except UnknownConversation:
        return None, 0
    line = lines[-1] if branch is None else next((one for one in lines if one.branch == branch), None)
    return line, end_of(store, line) if line else 0


def end_of(store: Store, line: Branch) -> int:
    """The last turn that was not taken back; 0 where all were."""
    if not store.derived(line.conversation, branch=line.branch, kind=KIND, covering=line.last, last=line.last):
        return line.last
    marks = marks_of(store, line)
    return next((seq for seq in range(line.last, 0, -1) if not are_in(marks, seq)), 0)


def marks_of(store: Store, line: Branch) -> list[Derived]:
    return store.derived(line.conversation, branch=line.branch, kind=KIND, last=line.last)


def are_in(marks: Iterable[Derived], seq: int) -> bool:
    """Whether a turn was taken back."""
    return any(mark.span.first <= seq <= mark.span.last for mark in marks)


def take_back(store: Store, line: Branch, first: int, last: int) -> None:
    """Raises: Conflict where somebody else was first.

    Whether `last` is still the end is for the caller to know, who has just read it. A turn that is appended in between
    stands behind those taken back: sessions leave those out and keep it, while contexts and searches, which end at the
    newest turn, have all of them.
    """
    store.attach(line.conversation, Span(first, last), KIND, True, branch=line.branch, number=line.number)


def placed(
    line: Branch | None, end: int, messages: Sequence[Mapping[str, Any]], exactly: bool = False
) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """What comes next in a session, and where `append` puts it. It raises Conflict where another branch was opened
    there meanwhile: see `until_first`.

    exactly: behind that end and no later one, so that `append` raises Conflict if something else stands there
    meanwhile, and adds nothing if the same does. Messages with ids are known by them instead.
    """
    if line is not None and end < line.last:
        return said_anew(line, messages), {"branch": line.branch, "after": end, "fork": True}
    if not exactly or any(one.get("id") is not None for one in messages):
        return list(messages), {}
    return list(messages), {"branch": line.branch if line else None, "after": end}


def until_first(work: Callable[[], T]) -> T:
    """Work that reads where a session ends and writes behind it: done again where somebody else was first.

    Raises: Conflict, where it always was somebody else.
    """
    for _ in range(TRIES - 1):
        with suppress(Conflict):
            return work()
    return work()


def said_anew(line: Branch, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same, with the number of the branch that they open, if nobody else has opened it there: it keeps them from
    being taken for turns of another branch that say the same."""
    first, rest = messages[:1], messages[1:]
    return [*({**one, FIELD: {**one.get(FIELD, {}), "fork": line.branch + 1}} for one in first), *rest]


def as_said(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message without that number."""
    if set(message.get(FIELD) or ()) != {"fork"}:
        return message
    return {name: value for name, value in message.items() if name != FIELD}
