"""What is made from spans of turns, attached by compare-and-swap."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from tomtat.errors import StoreError
from tomtat.store import lines
from tomtat.store.database import Statement
from tomtat.store.lines import Line, Stretch
from tomtat.store.messages import START, dump
from tomtat.store.schema import LAST_PLACE, column_names, derived
from tomtat.store.tenant import Tenant, since_1970
from tomtat.store.turns import chain_at
from tomtat.store.values import Conflict, Damaged, Derived, Span

_where = (
    (derived.c.number == bindparam("which")) & (derived.c.last == bindparam("end"))
    & (derived.c.first == bindparam("begin")) & (derived.c.kind == bindparam("sort"))
)  # fmt: skip
_version = Statement(select(derived.c.version).where(_where))
_insert = Statement(insert(derived).values({name: bindparam(name) for name in column_names(derived)}))
_replace = Statement(
    update(derived).where(_where).values({name: bindparam(name) for name in ("version", "at", "value")})
)
DERIVED_COLUMNS = (
    derived.c.number,
    derived.c.last,
    derived.c.first,
    derived.c.kind,
    derived.c.version,
    derived.c.at,
    derived.c.value,
)
_in_order = (
    select(*DERIVED_COLUMNS)
    .where(derived.c.number == bindparam("number"), derived.c.last.between(bindparam("low"), bindparam("high")))
    .where(derived.c.first.between(bindparam("earliest"), bindparam("latest")))
    .order_by(derived.c.last, derived.c.first.desc(), derived.c.kind)
)
_of_line = Statement(_in_order)
_of_kind = Statement(_in_order.where(derived.c.kind == bindparam("sort")))


class DerivedRow(NamedTuple):
    """`DERIVED_COLUMNS` of a row."""

    number: int
    last: int
    first: int
    kind: str
    version: int
    at: int
    value: bytes


def attach(
    tenant: Tenant, connection: Connection, conversation: str, span: Span, kind: str, value: Any,
    branch: int | None, expected: int | None, version: int | None = None, number: int | None = None,
    alone: bool = False,
) -> Derived:  # fmt: skip
    """Inside the caller's transaction. See `Store.attach`."""
    tenant.db.backend.lock(connection, tenant.name, conversation)
    line = lines.require(connection, tenant.name, conversation, branch)
    # Before its length: what was begun anew may be shorter, and that is no mistake of the caller's.
    if number not in (None, line.number):
        raise Conflict(
            f"Conversation {conversation!r} is not the one that the {kind} of turns {span.first} to {span.last} "
            "was made from: it was erased meanwhile."
        )
    if span.last > line.last:
        raise StoreError(
            f"Conversation {conversation!r} has {line.last} turns; "
            f"nothing can be made from turns {span.first} to {span.last}."
        )
    home = _home(tenant, connection, line, span.last)
    if alone and (other := _beginning_at(connection, line, span, kind)) is not None:
        raise Conflict(
            f"A {kind} of conversation {conversation!r} begins at turn {span.first} already, "
            f"of turns {other.first} to {other.last}."
        )
    where = {"which": home.number, "end": span.last, "begin": span.first, "sort": kind}
    row = _version.first(connection, **where)
    there = row[0] if row else None
    if there != expected:
        raise Conflict(
            f"The {kind} of turns {span.first} to {span.last} of conversation {conversation!r} "
            + (f"is at version {there} already" if there else "is not there")
            + (f", not at {expected}." if expected else ".")
        )
    version, now = version or (there or 0) + 1, since_1970(time.time())
    data = tenant.shut(dump(value).encode(), _place(home.number, span, kind))
    if there is None:
        _insert(
            connection, number=home.number, last=span.last, first=span.first, kind=kind, version=version, at=now,
            chain=_chain_at(tenant, connection, home, span.last), value=data,
        )  # fmt: skip
    else:
        _replace(connection, **where, version=version, at=now, value=data)
    return Derived(span, kind, value, version, home.branch, now / 1000)


def derived_from(
    tenant: Tenant, connection: Connection, line: Line, kind: str | None, covering: int | None, last: int | None
) -> list[Derived]:
    """What hangs on a line, by the end of its span, wider spans after narrower ones."""
    if covering == 0:
        home = _home(tenant, connection, line, 0)
        return [opened(tenant, row, home) for row in _rows(connection, Stretch(home, 0, 0), kind, (0, 0))]
    stretches = lines.stretches(connection, line, covering or 1, last)
    latest = LAST_PLACE if covering is None else covering
    return [
        opened(tenant, row, stretch.line)
        for stretch in stretches
        for row in _rows(connection, stretch, kind, (1, latest))
    ]


def _home(tenant: Tenant, connection: Connection, line: Line, seq: int) -> Line:
    """The branch that a turn was written on; what is before all turns belongs to the first one."""
    if not seq:
        return lines.require(connection, tenant.name, line.conversation, 0)
    [stretch] = lines.stretches(connection, line, seq, seq)
    return stretch.line


def _rows(connection: Connection, stretch: Stretch, kind: str | None, begin: tuple[int, int]) -> Iterator[DerivedRow]:
    """Of spans that end in a stretch and begin between two turns."""
    where = {"number": stretch.line.number, "low": stretch.first, "high": stretch.last}
    where |= {"earliest": begin[0], "latest": begin[1]}
    if kind is None:
        return map(DerivedRow._make, _of_line(connection, **where))
    return map(DerivedRow._make, _of_kind(connection, **where, sort=kind))


def _beginning_at(connection: Connection, line: Line, span: Span, kind: str) -> DerivedRow | None:
    """What there is of a kind that begins where a span does, but for the span's own."""
    for stretch in lines.stretches(connection, line, span.first):
        for row in _rows(connection, stretch, kind, (span.first, span.first)):
            if row.last != span.last:
                return row
    return None


def _chain_at(tenant: Tenant, connection: Connection, line: Line, seq: int) -> bytes:
    """As `chain_at`; where a turn before it was set aside, the chain of no history, by which nobody locates it."""
    try:
        return chain_at(tenant, connection, line, seq)
    except Damaged:
        return START


def opened(tenant: Tenant, row: DerivedRow, line: Line) -> Derived:
    """A row of `derived`.

    Raises: Damaged.
    """
    span = Span(row.first, row.last)
    try:
        value = json.loads(tenant.unshut(bytes(row.value), _place(line.number, span, row.kind)))
    except (Damaged, ValueError) as damage:
        raise Damaged(
            f"The {row.kind} of turns {span.first} to {span.last} of conversation {line.conversation!r} "
            f"can't be read: {damage} "
            "Run tomtat store check --repair, which sets it aside; its turns are whole."
        ) from damage
    return Derived(span, row.kind, value, row.version, line.branch, row.at / 1000)


def _place(number: int, span: Span, kind: str) -> str:
    return f"derived {number} {span.first} {span.last} {kind}"
