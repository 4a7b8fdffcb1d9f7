"""Vectors for turns that have none yet: made outside of any transaction, for a model takes its time."""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, bindparam, select, text, update

from tomtat.store.database import Database, Statement
from tomtat.store.facts import fact, remember
from tomtat.store.lines import Line, numbered
from tomtat.store.messages import text_of
from tomtat.store.schema import place_of, segments, turns
from tomtat.store.segments import Row, message_from
from tomtat.store.tenant import Tenant
from tomtat.store.turns import Segment, open_segment
from tomtat.store.values import Damaged
from tomtat.store.vectors import Embedder, codes

BATCH = 64

_rows = Statement(
    select(turns.c.key, turns.c.role, turns.c.content, turns.c.rest)
    .where(turns.c.vector.is_(None), turns.c.key > bindparam("above"))
    .order_by(turns.c.key).limit(BATCH)
)  # fmt: skip
_segments = Statement(
    select(segments.c.key, segments.c.last, segments.c.chain, segments.c.body)
    .where(text("vectors IS NULL"), segments.c.key > bindparam("above"))
    .order_by(segments.c.key).limit(1)
)  # fmt: skip
_note_row = Statement(update(turns).where(turns.c.key == bindparam("which")).values(vector=bindparam("vector")))
_note_segment = Statement(
    update(segments).where(segments.c.key == bindparam("which")).values(vectors=bindparam("vectors"))
)


def is_ready(connection: Connection, embedder: Embedder) -> bool:
    """Whether the vectors in the store are this embedder's."""
    return fact(connection, "embedder") == embedder.name


def embed_waiting(db: Database, as_tenant: Callable[[str], Tenant], embedder: Embedder) -> int:
    """Give every turn its vector; how many got one. Those of another embedder are made anew."""
    _make_ready(db, embedder)
    return _embed_rows(db, embedder) + _embed_segments(db, as_tenant, embedder)


def _make_ready(db: Database, embedder: Embedder) -> None:
    with db.read() as connection:
        if is_ready(connection, embedder):
            return
    with db.write() as connection:
        connection.execute(update(turns).values(vector=None))
        connection.execute(update(segments).values(vectors=None))
        remember(connection, "embedder", embedder.name)


def _embed_rows(db: Database, embedder: Embedder) -> int:
    above, done = 0, 0
    while True:
        with db.read() as connection:
            found = _rows(connection, above=above)
        if not found:
            return done
        messages = [
            message_from(role, content, rest if rest is None else json.loads(rest)) for _, role, content, rest in found
        ]
        vectors = codes(embedder.embed([spoken(message) for message in messages]))
        with db.write() as connection:
            # A row that was packed or erased meanwhile is not there any more, and its segment comes next.
            _note_row.many(
                connection, [{"which": row[0], "vector": vector} for row, vector in zip(found, vectors, strict=True)]
            )
        above, done = found[-1][0], done + len(found)


def _embed_segments(db: Database, as_tenant: Callable[[str], Tenant], embedder: Embedder) -> int:
    above, done = 0, 0
    while True:
        with db.read() as connection:
            found = [
                Segment(key, last, bytes(chain), bytes(body))
                for key, last, chain, body in _segments(connection, above=above)
            ]
            if not found:
                return done
            [segment] = found
            number, first = place_of(segment.key)
            rows = _open(as_tenant(""), segment, numbered(connection, number))
        above = segment.key
        if not rows:
            continue
        made = codes(embedder.embed([spoken(row.message()) for row in rows]))
        nothing = bytes(len(made[0]))
        at_place = {row.seq - first: code for row, code in zip(rows, made, strict=True)}
        with db.write() as connection:
            packed = b"".join(at_place.get(place, nothing) for place in range(segment.last - first + 1))
            _note_segment(connection, which=segment.key, vectors=packed)
        done += len(rows)


def _open(tenant: Tenant, segment: Segment, line: Line) -> list[Row]:
    try:
        return open_segment(tenant, segment, line.conversation)
    except Damaged:
        return []  # `check` is who tells


def spoken(message: dict[str, Any]) -> str:
    """A message as it is embedded: who says what, where speakers have names."""
    name = message.get("name")
    told = text_of({key: value for key, value in message.items() if key != "name"})
    return f"{name}: {told}" if isinstance(name, str) and name else told
