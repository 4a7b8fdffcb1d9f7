"""Reading turns, wherever they lie: the newest as rows, older ones in segments."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from tomtat.store.database import Statement
from tomtat.store.lines import Line, Stretch, stretches
from tomtat.store.messages import START, canonical
from tomtat.store.schema import key_of, place_of, segments, turns
from tomtat.store.segments import Row, message_from, pack, unpack
from tomtat.store.tenant import Tenant
from tomtat.store.values import Damaged, Turn

FEW_ROWS = 8
"""More are read with those between them, of which there are never many."""

_between = turns.c.key.between(bindparam("low"), bindparam("high"))
_rows = Statement(
    select(turns.c.key, turns.c.at, turns.c.role, turns.c.content, turns.c.rest, turns.c.sealed)
    .where(_between)
    .order_by(turns.c.key)
)
_row_chain = Statement(select(turns.c.chain).where(turns.c.key == bindparam("key")))
_start_of_segment = (
    select(func.max(segments.c.key))
    .where(segments.c.key.between(bindparam("base"), bindparam("low")))
    .scalar_subquery()
)
_segments = Statement(
    select(segments.c.key, segments.c.last, segments.c.chain, segments.c.body)
    .where(segments.c.key >= func.coalesce(_start_of_segment, bindparam("low")), segments.c.key <= bindparam("high"))
    .order_by(segments.c.key)
)


class Segment(NamedTuple):
    """A row of `segments`, as far as reading turns needs it."""

    key: int
    last: int
    chain: bytes
    body: bytes


def rows_of(tenant: Tenant, connection: Connection, stretch: Stretch) -> list[Row]:
    """The turns of a stretch, in order.

    Raises: Damaged, naming the turns and what to do.
    """
    line, first, last = stretch
    found: list[Row] = []
    if first <= line.packed:
        for segment in segments_of(connection, line.number, first, min(last, line.packed)):
            found += [row for row in open_segment(tenant, segment, line.conversation) if first <= row.seq <= last]
    if last > line.packed:
        low, high = key_of(line.number, max(first, line.packed + 1)), key_of(line.number, last)
        if tenant.is_sealed:
            found += [open_row(tenant, row, line.conversation) for row in _rows(connection, low=low, high=high)]
        else:
            base = key_of(line.number, 0)
            found += [
                Row(key - base, at, role, content, rest if rest is None else json.loads(rest))
                for key, at, role, content, rest, _ in _rows(connection, low=low, high=high)
            ]
    return found


def rows_at(tenant: Tenant, connection: Connection, line: Line, places: Iterable[int]) -> dict[int, Row]:
    """The turns at some places, by place; each segment is opened once, however many of them lie in it.

    Raises: Damaged.
    """
    wanted = sorted(set(places))
    packed, fresh = [seq for seq in wanted if seq <= line.packed], [seq for seq in wanted if seq > line.packed]
    found: dict[int, Row] = {}
    among = set(packed)
    while packed:
        end = packed[0]  # where nothing is, it was set aside
        for segment in segments_of(connection, line.number, packed[0], packed[0]):
            found |= {row.seq: row for row in open_segment(tenant, segment, line.conversation) if row.seq in among}
            end = segment.last
        packed = [seq for seq in packed if seq > end]
    stretches_of_rows = [(fresh[0], fresh[-1])] if len(fresh) > FEW_ROWS else [(seq, seq) for seq in fresh]
    for first, last in stretches_of_rows:
        found |= {row.seq: row for row in rows_of(tenant, connection, Stretch(line, first, last))}
    return {seq: found[seq] for seq in wanted if seq in found}


def turns_of(tenant: Tenant, connection: Connection, stretch: Stretch) -> list[Turn]:
    """The turns of a stretch as callers see them.

    Raises: Damaged.
    """
    line, first, _ = stretch
    if first <= line.packed or tenant.is_sealed:
        return as_turns(rows_of(tenant, connection, stretch), line.branch)
    # What a chat reads before each answer, so without a step between the table and the turn.
    low, high = stretch.keys
    base, branch = key_of(line.number, 0), line.branch
    return [
        Turn(
            key - base,
            {"role": role, "content": content} if rest is None else message_from(role, content, json.loads(rest)),
            at / 1000,
            branch,
        )
        for key, at, role, content, rest, _ in _rows(connection, low=low, high=high)
    ]


def segments_of(connection: Connection, number: int, first: int, last: int) -> Iterator[Segment]:
    """The segments that hold any of these turns."""
    found = _segments(connection, base=key_of(number, 0), low=key_of(number, first), high=key_of(number, last))
    for key, end, chain, body in found:
        if end >= first:
            yield Segment(key, end, bytes(chain), bytes(body))


def open_segment(tenant: Tenant, segment: Segment, conversation: str) -> list[Row]:
    """Raises: Damaged."""

    def make() -> list[Row]:
        return unpack(tenant.open(segment.body, segment_place(segment.key)))

    try:
        return tenant.opened.get(segment.key, make)
    except Damaged as damage:
        first = place_of(segment.key)[1]
        raise _explained(damage, conversation, first, segment.last) from damage


def open_row(tenant: Tenant, row: Any, conversation: str) -> Row:
    """A row of `turns` (key, at, role, content, rest, sealed).

    Raises: Damaged.
    """
    key, at, role, content, rest, sealed = row
    seq = place_of(key)[1]
    if sealed is None:
        return Row(seq, at, role, content, rest if rest is None else json.loads(rest))
    try:
        content, rest = json.loads(tenant.open(bytes(sealed), turn_place(key)))
    except (Damaged, ValueError) as damage:
        raise _explained(damage, conversation, seq, seq) from damage
    return Row(seq, at, role, content, rest)


def close_segment(tenant: Tenant, key: int, rows: list[Row]) -> bytes:
    """The body of a segment."""
    return tenant.close(pack(rows), segment_place(key))


def turn_place(key: int) -> str:
    """What a sealed turn is bound to."""
    return f"turn {key}"


def segment_place(key: int) -> str:
    return f"segment {key}"


def _explained(damage: Exception, conversation: str, first: int, last: int) -> Damaged:
    what = f"Turn {first}" if first == last else f"Turns {first} to {last}"
    return Damaged(
        f"{what} of conversation {conversation!r} can't be read: {damage} "
        "The others are whole: run tomtat store check --repair, which sets what is damaged aside."
    )


def as_turns(rows: list[Row], branch: int) -> list[Turn]:
    return [Turn(row.seq, row.message(), row.at / 1000, branch) for row in rows]


def chain_at(tenant: Tenant, connection: Connection, line: Line, seq: int) -> bytes:
    """The chain after turn `seq` of a line; what names its history up to there.

    Raises: Damaged where the turn has been set aside.
    """
    if seq == 0:
        return START
    if seq == line.last:
        return line.chain
    [stretch] = stretches(connection, line, seq, seq)
    home = stretch.line
    if seq == home.last:
        return home.chain
    if seq > home.packed:
        if row := _row_chain.first(connection, key=key_of(home.number, seq)):
            return bytes(row[0])
        raise Damaged(f"Turn {seq} of conversation {line.conversation!r} was damaged and has been set aside.")
    for segment in segments_of(connection, home.number, seq, seq):
        if segment.last == seq:
            return segment.chain
        first = place_of(segment.key)[1]
        said = [canonical(row.message()) for row in open_segment(tenant, segment, line.conversation) if row.seq <= seq]
        return tenant.chains(chain_at(tenant, connection, home, first - 1), said)[-1]
    raise Damaged(f"Turn {seq} of conversation {line.conversation!r} was damaged and has been set aside.")
