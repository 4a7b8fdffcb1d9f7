"""Old turns into segments: compressed, with what a search needs of them laid beside."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from tomtat.store.database import Statement
from tomtat.store.index import index_waiting
from tomtat.store.lines import Line, Stretch, numbered
from tomtat.store.schema import branches, column_names, key_of, segments, turns
from tomtat.store.segments import SEGMENT_TURNS
from tomtat.store.tenant import Tenant
from tomtat.store.turns import close_segment, rows_of

KEEP_ROWS = 64
"""A branch's newest turns stay rows: read often, and fast."""
KEEP_RESTING = 8
"""Of a branch that is at rest, for `tidy`."""
PACK_AT = KEEP_ROWS + 4 * SEGMENT_TURNS
"""An append that finds this many rows packs four segments: 1 of 256 appends, so 99 of 100 know nothing of it."""

_chain_and_vector = Statement(
    select(turns.c.key, turns.c.chain, turns.c.vector, turns.c.words)
    .where(turns.c.key.between(bindparam("low"), bindparam("high")))
    .order_by(turns.c.key)
)
_new_segment = Statement(insert(segments).values({name: bindparam(name) for name in column_names(segments)}))
_remove = Statement(delete(turns).where(turns.c.key.between(bindparam("low"), bindparam("high"))))
_move_packed = Statement(
    update(branches).where(branches.c.number == bindparam("which")).values(packed=bindparam("packed"))
)


def pack_branch(tenant: Tenant, connection: Connection, number: int, keep: int) -> int:
    """Pack whole segments as long as `keep` turns stay rows; how many turns were packed."""
    line = numbered(connection, number)
    tenant.db.backend.lock(connection, tenant.name, line.conversation)
    line = numbered(connection, number)
    done = 0
    while line.last - line.packed >= keep + SEGMENT_TURNS:
        first, last = line.packed + 1, line.packed + SEGMENT_TURNS
        _pack(tenant, connection, line, first, last)
        line = line._replace(packed=last)
        done += SEGMENT_TURNS
    return done


def _pack(tenant: Tenant, connection: Connection, line: Line, first: int, last: int) -> None:
    low, high = key_of(line.number, first), key_of(line.number, last)
    if not tenant.is_sealed:
        index_waiting(tenant.db, connection, [(low, high)])
    rows = rows_of(tenant, connection, Stretch(line, first, last))
    about = _chain_and_vector(connection, low=low, high=high)
    if rows:
        _new_segment(
            connection, key=low, last=last, chain=about[-1][1],
            words=_lengths({key - low: words for key, _, _, words in about if words is not None}),
            vectors=_vectors([vector for _, _, vector, _ in about]),
            body=close_segment(tenant, low, rows),
        )  # fmt: skip
    _remove(connection, low=low, high=high)
    _move_packed(connection, which=line.number, packed=last)


NO_TURN = 0xFF, 0xFFFF
"""Length of a place whose turn was set aside, in a row of bytes and in one of pairs of bytes."""


def _lengths(words: dict[int, int]) -> bytes:
    """Lengths in terms by place within the segment: a byte each where that is enough, else two."""
    if not words:
        return b""
    is_short = max(words.values()) < NO_TURN[0]
    lengths = np.full(SEGMENT_TURNS, NO_TURN[0] if is_short else NO_TURN[1], np.uint8 if is_short else "<u2")
    for place, count in words.items():
        lengths[place] = min(count, NO_TURN[1] - 1)
    return lengths.tobytes()


def lengths_of(words: bytes, places: int) -> np.ndarray:
    """What `_lengths` wrote, as integers; -1 where there is no turn."""
    width = 1 if len(words) == places else 2
    lengths = np.frombuffer(words, np.uint8 if width == 1 else "<u2").astype(np.int64)
    return np.where(lengths == NO_TURN[width - 1], -1, lengths)


def _vectors(vectors: Sequence[bytes | None]) -> bytes | None:
    """All of them, or none: a segment that lacks some gets them together, see `embedding.py`."""
    if len(vectors) < SEGMENT_TURNS or any(vector is None for vector in vectors):
        return None
    return b"".join(bytes(vector) for vector in vectors if vector is not None)
