"""What goes into a store and comes out of it: small, frozen, without SQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tomtat.errors import StoreError


class UnknownConversation(StoreError):
    """There is no such conversation, or no such branch of it, in this tenant."""


class Conflict(StoreError):
    """Somebody else wrote first: the turns or the version that a caller built on are not the ones there are."""


class Damaged(StoreError):
    """Bytes that a disk or a stranger changed: what they held can't be given back."""


class Turn(NamedTuple):
    """One message in its place. Places count from 1 and are never given twice within a branch."""

    seq: int
    message: Mapping[str, Any]
    """In OpenAI's shape, as it was appended; fields we don't know are kept too."""
    at: float
    """Seconds since 1970 (UTC) when it was stored."""
    branch: int = 0
    """The branch it was written on; turns before a fork belong to the branch that was forked."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the messages of one `append` lie now."""

    branch: int
    first: int
    """Place of the first message given. With none given, one past `last`."""
    last: int
    new: int
    """How many were stored now; the others had been there already."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One line of a conversation: its own turns after those it shares with the branch it was forked from."""

    conversation: str
    branch: int
    """0 for the first; each edit or regeneration that was appended with `fork` opens the next."""
    last: int
    """Place of its newest turn; 0 while empty."""
    user: str | None
    created: float
    number: int
    """Never given twice, not even after an erasure: tells this line from one of its name that is begun later."""
    forked_from: int | None = None
    forked_after: int | None = None
    """The last place it shares with `forked_from`."""


@dataclass(frozen=True, slots=True)
class Span:
    """The turns from `first` to `last`, both included, as one branch sees them; from 0 to 0, none of them: what is
    said of a conversation as a whole."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not (1 <= self.first <= self.last or self.first == self.last == 0):
            raise StoreError(
                f"A span runs from a place of at least 1 to one not before it, not {self.first} to {self.last}."
            )


@dataclass(frozen=True, slots=True)
class Derived:
    """Something made from a span of turns: a summary, a ledger, a verdict. Turns never change, so it never goes
    stale."""

    span: Span
    kind: str
    value: Any
    """Whatever JSON can hold."""
    version: int
    """1 when first attached, one more with each replacement: what `attach(expected=...)` compares."""
    branch: int
    """The branch that `span.last` lies on; branches forked after it see this row too."""
    at: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that a search found."""

    conversation: str
    turn: Turn
    score: float
    """Comparable within one search only."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where the beginning of a history that a client sent is known from."""

    conversation: str
    branch: int
    matched: int
    """How many of the messages given are the first turns of that branch."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an erasure removed, and what it can't reach."""

    what: str
    """`conversation` or `user`; never the text of either."""
    conversations: int
    turns: int
    derived: int
    at: float
    files_rewritten: bool
    """False where another process held the files open for reading: repeat `tidy` once it has gone."""
    remains: tuple[str, ...] = ()
    """Where copies may live on that no store can reach, in words."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a tenant holds, and what the whole store takes on disk."""

    conversations: int
    branches: int
    turns: int
    packed_turns: int
    """Of these, turns that lie compressed."""
    derived: int
    users: int
    embedded_turns: int
    disk_bytes: int
    """Of all tenants together: rows, indexes, vectors, the write-ahead log."""
    damaged: int = 0
    """Rows that `check` set aside."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something `check` found."""

    conversation: str | None
    branch: int | None
    first: int | None
    last: int | None
    what: str
    repaired: str | None = None
    """What was done about it; None where nothing was, or nothing was asked."""


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of a `check`."""

    turns: int
    findings: tuple[Finding, ...] = field(default=())

    @property
    def is_sound(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Imported:
    conversations: int
    turns: int
    derived: int
    known: int
    """Turns that were there already."""
