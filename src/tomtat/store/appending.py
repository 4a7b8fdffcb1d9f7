"""Appending: whose turn a message is, whether it is there already, and where it goes if not.

A message is known again in two ways. By the id its client gave it; or, where a caller says after which turn its
messages stand, by the chain: what stands there already is left as it is, what goes beyond is added, what differs is a
conflict, or, where forking is allowed, a new branch.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from tomtat.errors import StoreError
from tomtat.store import lines
from tomtat.store.database import Statement
from tomtat.store.lines import Line
from tomtat.store.messages import AnyMessage, canonical, dump, in_openai_shape
from tomtat.store.schema import LAST_PLACE, branches, client_ids, column_names, key_of, turns
from tomtat.store.segments import split_message
from tomtat.store.tenant import Tenant, since_1970
from tomtat.store.turns import chain_at, rows_of, turn_place
from tomtat.store.values import Appended, Conflict, UnknownConversation

_new_branch = Statement(
    insert(branches)
    .values({name: bindparam(name) for name in column_names(branches) if name != "number"})
    .returning(branches.c.number)
)
_new_turn = Statement(
    insert(turns).values({n: bindparam(n) for n in ("key", "at", "chain", "role", "content", "rest", "sealed")})
)
_move_end = Statement(
    update(branches)
    .where(branches.c.number == bindparam("which"))
    .values(last=bindparam("end"), chain=bindparam("chain"), user=bindparam("user"))
)
_new_id = Statement(insert(client_ids).values(number=bindparam("number"), id=bindparam("id"), seq=bindparam("seq")))
_known_id = Statement(
    select(client_ids.c.seq).where(client_ids.c.number == bindparam("number"), client_ids.c.id == bindparam("id"))
)


class Said(NamedTuple):
    """A message on its way in."""

    message: dict[str, Any]
    canonical: bytes
    at: float | None = None
    """When it was said, where that is known; else now."""

    @property
    def id(self) -> str | None:
        return self.message.get("id")


class Outcome(NamedTuple):
    appended: Appended
    line: Line
    """As it is after the append."""


LONGEST_NAME = 512


def named(name: str, what: str) -> str:
    """Raises: StoreError where it can't be the name of anything."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or "\0" in name or not name.isprintable():
        raise StoreError(
            f"The name of a {what} is a text of 1 to {LONGEST_NAME} printable characters, not {name!r:.80}."
        )
    return name


def shape(messages: Sequence[AnyMessage]) -> list[Said]:
    """Raises: StoreError, with the message's number in the batch."""
    said = []
    for number, message in enumerate(messages, start=1):
        try:
            shaped = in_openai_shape(message)
            said.append(Said(shaped, canonical(shaped)))
        except StoreError as error:
            where = f" (message {number} of {len(messages)})" if len(messages) > 1 else ""
            raise StoreError(f"{error}{where}") from None
    return said


def append(
    tenant: Tenant, connection: Connection, conversation: str, said: Sequence[Said], user: str | None,
    branch: int | None, after: int | None, fork: bool,
) -> Outcome:  # fmt: skip
    """Inside the transaction of the caller. See `Store.append`."""
    tenant.db.backend.lock(connection, tenant.name, conversation)
    now = since_1970(said[0].at if said and said[0].at is not None else time.time())
    line = lines.find(connection, tenant.name, conversation, branch)
    if line is None:
        if branch:
            raise UnknownConversation(
                f"There is no conversation {conversation!r} with a branch {branch} in this store."
            )
        if after:
            raise Conflict(f"Conversation {conversation!r} has no turns yet, so nothing can stand after turn {after}.")
        line = _open_branch(connection, tenant, conversation, 0, None, user, now)
    elif user is not None and line.user not in (None, user):
        raise StoreError(f"Conversation {conversation!r} belongs to another user than {user!r}.")
    elif user is not None and line.user is None:
        line = line._replace(user=user)
    if after is None:
        return _add_unknown_ids(tenant, connection, line, said, now)
    if not 0 <= after <= line.last:
        raise Conflict(f"Conversation {conversation!r} has {line.last} turns, so nothing can stand after turn {after}.")
    return _add_after(tenant, connection, line, said, after, fork, now)


def _add_unknown_ids(tenant: Tenant, connection: Connection, line: Line, said: Sequence[Said], now: int) -> Outcome:
    """At the end, but for messages whose ids are known."""
    new: list[Said] = []
    first = None
    in_batch: dict[str, bytes] = {}
    for one in said:
        seq = None
        if one.id is not None:
            if one.id in in_batch:
                if in_batch[one.id] != one.canonical:
                    raise Conflict(f"Two messages of this batch have the id {one.id!r} and say different things.")
                continue
            in_batch[one.id] = one.canonical
            seq = _seq_of(tenant, connection, line, one)
        if seq is None:
            seq = line.last + len(new) + 1
            new.append(one)
        first = seq if first is None else first
    after = _write(tenant, connection, line, new, now)
    return Outcome(Appended(line.branch, first or after.last + 1, after.last, len(new)), after)


def _seq_of(tenant: Tenant, connection: Connection, line: Line, one: Said) -> int | None:
    """Where the message with this id stands.

    Raises: Conflict where another message was stored under it.
    """
    assert one.id is not None
    for stretch in lines.stretches(connection, line):
        row = _known_id.first(connection, number=stretch.line.number, id=tenant.id_of(one.id))
        if row and row[0] <= stretch.last:
            known = rows_of(tenant, connection, stretch._replace(first=row[0], last=row[0]))
            if known and canonical(known[0].message()) != one.canonical:
                raise Conflict(
                    f"The id {one.id!r} is that of turn {row[0]} of conversation {line.conversation!r}, "
                    "which says something else."
                )
            return int(row[0])
    return None


def _add_after(
    tenant: Tenant, connection: Connection, line: Line, said: Sequence[Said], after: int, fork: bool, now: int
) -> Outcome:  # fmt: skip
    wanted = tenant.chains(chain_at(tenant, connection, line, after), [one.canonical for one in said])
    known = _common(tenant, connection, line, wanted, after)
    if known < len(said) and after + known < line.last:
        if not fork:
            raise Conflict(
                f"Conversation {line.conversation!r} has {line.last} turns, and turn {after + known + 1} "
                "is not the one given. "
                "Read its history again, or append with fork=True to open a branch there."
            )
        line, known = _best_branch(tenant, connection, line, wanted, after, known)
        if known < len(said) and after + known < line.last:
            _require_unopened(connection, tenant, line, after + known, said[known])
            line = _open_fork(tenant, connection, line, after + known, now)
    _require_new_ids(tenant, connection, line, said[known:])
    end = _write(tenant, connection, line, said[known:], now)
    return Outcome(Appended(line.branch, after + 1, after + len(said), len(said) - known), end)


def _require_new_ids(tenant: Tenant, connection: Connection, line: Line, new: Sequence[Said]) -> None:
    """Raises: Conflict."""
    ids = [one.id for one in new if one.id is not None]
    if len(set(ids)) < len(ids):
        raise Conflict("Two messages of this batch have the same id.")
    for one in new:
        if one.id is not None and (seq := _seq_of(tenant, connection, line, one)) is not None:
            raise Conflict(f"The id {one.id!r} is that of turn {seq} of conversation {line.conversation!r} already.")


def _common(tenant: Tenant, connection: Connection, line: Line, wanted: Sequence[bytes], after: int) -> int:
    """How many of the chains the line has after turn `after`. Equal chains mean equal histories, so halving finds
    it."""
    low, high = 0, min(len(wanted), line.last - after)
    if high > 0 and chain_at(tenant, connection, line, after + high) == wanted[high - 1]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if chain_at(tenant, connection, line, after + middle) == wanted[middle - 1]:
            low = middle
        else:
            high = middle
    return low


def _best_branch(
    tenant: Tenant, connection: Connection, line: Line, wanted: Sequence[bytes], after: int, known: int
) -> tuple[Line, int]:
    """The branch that has most of what is wanted; the newest of equals."""
    best, start = (line, known), chain_at(tenant, connection, line, after)
    for other in reversed(lines.all_of(connection, tenant.name, line.conversation)):
        if other.number != line.number and other.last >= after and chain_at(tenant, connection, other, after) == start:
            common = _common(tenant, connection, other, wanted, after)
            # A branch that ends where the common part ends takes the rest without a fork.
            if common > best[1] or (common == best[1] < len(wanted) and other.last == after + common < best[0].last):
                best = (other, common)
    return best


def _require_unopened(connection: Connection, tenant: Tenant, line: Line, fork: int, one: Said) -> None:
    """Of two that go on at once before turns that a session took back, each would open a branch, and the later hide
    what the earlier said.

    Raises: Conflict.
    """
    session = one.message.get("session")
    wanted = session.get("fork") if isinstance(session, dict) else None
    for other in lines.all_of(connection, tenant.name, line.conversation) if wanted is not None else ():
        if other.branch == wanted and other.fork == fork:
            raise Conflict(f"Branch {wanted} of conversation {line.conversation!r} goes on after turn {fork} already.")


def _open_fork(tenant: Tenant, connection: Connection, line: Line, fork: int, now: int) -> Line:
    count = lines.all_of(connection, tenant.name, line.conversation)[-1].branch + 1
    home = line
    if fork:
        [stretch] = lines.stretches(connection, line, fork, fork)
        home = stretch.line
    chain = chain_at(tenant, connection, line, fork)
    return _open_branch(connection, tenant, line.conversation, count, home, line.user, now, fork, chain)


def _open_branch(
    connection: Connection, tenant: Tenant, conversation: str, branch: int, parent: Line | None, user: str | None,
    now: int, fork: int = 0, chain: bytes = bytes(16),
) -> Line:  # fmt: skip
    [(number,)] = _new_branch(
        connection, tenant=tenant.name, conversation=conversation, branch=branch,
        parent=parent.number if parent else None, fork=fork, last=fork, packed=fork, chain=chain, user=user,
        created=now,
    )  # fmt: skip
    return Line(number, branch, parent.number if parent else None, fork, fork, fork, chain, user, now, conversation)


def _write(tenant: Tenant, connection: Connection, line: Line, new: Sequence[Said], now: int) -> Line:
    """The end of every append: rows for what is new, and the branch's new end."""
    if not new:
        return line
    end = line.last + len(new)
    if end > LAST_PLACE:
        raise StoreError(f"Conversation {line.conversation!r} is full: a branch holds {LAST_PLACE:,} turns.")
    rows, ids, chain = [], [], line.chain
    for seq, one in enumerate(new, start=line.last + 1):
        chain = tenant.follow(chain, one.canonical)
        key = key_of(line.number, seq)
        role, content, rest = split_message(one.message)
        sealed = None
        if tenant.is_sealed:
            sealed, content, rest = tenant.close(dump([content, rest]).encode(), turn_place(key)), None, None
        rows.append({
            "key": key, "at": now if one.at is None else since_1970(one.at), "chain": chain, "role": role,
            "content": content, "rest": None if rest is None else dump(rest), "sealed": sealed,
        })  # fmt: skip
        if one.id is not None:
            ids.append({"number": line.number, "id": tenant.id_of(one.id), "seq": seq})
    if len(rows) == 1:
        _new_turn(connection, **rows[0])
    else:
        _new_turn.many(connection, rows)
    if ids:
        _new_id.many(connection, ids)
    _move_end(connection, which=line.number, end=end, chain=chain, user=line.user)
    return line._replace(last=end, chain=chain)
