"""Branches as the tables have them, and a conversation's line through them: which rows hold which of its turns."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from tomtat.store.database import Statement
from tomtat.store.schema import branches, derived, key_of
from tomtat.store.values import Branch, Located, UnknownConversation

_COLUMNS = (
    branches.c.number, branches.c.branch, branches.c.parent, branches.c.fork, branches.c.last, branches.c.packed,
    branches.c.chain, branches.c.user, branches.c.created, branches.c.conversation,
)  # fmt: skip
_OF_CONVERSATION = select(*_COLUMNS).where(
    branches.c.tenant == bindparam("tenant"), branches.c.conversation == bindparam("conversation")
)
_newest = Statement(_OF_CONVERSATION.order_by(branches.c.branch.desc()).limit(1))
_named = Statement(_OF_CONVERSATION.where(branches.c.branch == bindparam("branch")))
_all = Statement(_OF_CONVERSATION.order_by(branches.c.branch))
_numbered = Statement(select(*_COLUMNS).where(branches.c.number == bindparam("number")))

_AT_ONCE = 500
"""Parameters in one statement, well below what either database takes."""


class Line(NamedTuple):
    """A row of `branches`."""

    number: int
    branch: int
    parent: int | None
    fork: int
    last: int
    packed: int
    """Its turns up to here lie in segments."""
    chain: bytes
    user: str | None
    created: int
    conversation: str


class Stretch(NamedTuple):
    """Turns of a line that lie on one branch, from `first` to `last`."""

    line: Line
    first: int
    last: int

    @property
    def keys(self) -> tuple[int, int]:
        return key_of(self.line.number, self.first), key_of(self.line.number, self.last)


def find(connection: Connection, tenant: str, conversation: str, branch: int | None = None) -> Line | None:
    """The branch asked for, or the newest."""
    if branch is None:
        row = _newest.first(connection, tenant=tenant, conversation=conversation)
    else:
        row = _named.first(connection, tenant=tenant, conversation=conversation, branch=branch)
    return _line(row) if row else None


def require(connection: Connection, tenant: str, conversation: str, branch: int | None = None) -> Line:
    """Raises: UnknownConversation."""
    line = find(connection, tenant, conversation, branch)
    if line is None:
        raise unknown(conversation, branch)
    return line


def unknown(conversation: str, branch: int | None = None) -> UnknownConversation:
    which = "" if branch is None else f" with a branch {branch}"
    return UnknownConversation(f"There is no conversation {conversation!r}{which} in this store.")


def all_of(connection: Connection, tenant: str, conversation: str) -> list[Line]:
    """Every branch, the oldest first."""
    return [_line(row) for row in _all(connection, tenant=tenant, conversation=conversation)]


def stretches(connection: Connection, line: Line, first: int = 1, last: int | None = None) -> list[Stretch]:
    """Where the turns from `first` to `last` lie, oldest first: on the branch itself, and before its fork on its
    parents."""
    found = []
    end = line.last if last is None else min(last, line.last)
    while True:
        begin = max(first, line.fork + 1)
        if begin <= end:
            found.append(Stretch(line, begin, end))
        end = min(end, line.fork)
        if line.parent is None or first > end:
            return found[::-1]
        line = numbered(connection, line.parent)


def numbered(connection: Connection, number: int) -> Line:
    [row] = _numbered(connection, number=number)
    return _line(row)


def of_user(connection: Connection, tenant: str, user: str | None) -> list[Line]:
    """Every branch of a user, or of all users, in the order they were made."""
    wanted = select(*_COLUMNS).where(branches.c.tenant == tenant).order_by(branches.c.number)
    if user is not None:
        wanted = wanted.where(branches.c.user == user)
    return [_line(row) for row in connection.execute(wanted)]


def ripe(connection: Connection, rows: int) -> list[tuple[str, int]]:
    """Tenant and number of branches that have at least so many turns as rows."""
    wanted = select(branches.c.tenant, branches.c.number).where(branches.c.last - branches.c.packed >= rows)
    return [(tenant, number) for tenant, number in connection.execute(wanted)]


def locate(connection: Connection, tenant: str, chains: Sequence[bytes], prefix: str = "") -> Located | None:
    """The longest history among these (by its chain) that a branch ends with, or that something was derived from the
    end of; of conversations whose names begin so."""
    length_of = {chain: length for length, chain in enumerate(chains, start=1)}
    for start in range(len(chains), 0, -_AT_ONCE):
        some = chains[max(start - _AT_ONCE, 0) : start]
        its = branches.c.conversation, branches.c.branch
        ends = select(branches.c.chain, *its).where(branches.c.chain.in_(some), branches.c.tenant == tenant)
        spans = (
            select(derived.c.chain, *its).join(branches, branches.c.number == derived.c.number)
            .where(derived.c.chain.in_(some), branches.c.tenant == tenant)
        )  # fmt: skip
        found = [
            (length_of[bytes(chain)], name, branch)
            for chain, name, branch in connection.execute(ends.union(spans))
            if name.startswith(prefix)
        ]
        if found:
            length, name, branch = max(found)
            return Located(name, branch, length)
    return None


def describe(lines: Sequence[Line]) -> Iterator[Branch]:
    """Branches as callers see them: `lines` are all those of their conversations."""
    branch_of = {line.number: line.branch for line in lines}
    for line in lines:
        forked = line.parent is not None
        yield Branch(
            conversation=line.conversation,
            branch=line.branch,
            last=line.last,
            user=line.user,
            created=line.created / 1000,
            number=line.number,
            forked_from=branch_of[line.parent] if line.parent is not None else None,
            forked_after=line.fork if forked else None,
        )


def _line(row: Sequence[Any]) -> Line:
    return Line._make(row)
