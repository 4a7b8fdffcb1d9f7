"""The tables, the same on SQLite and PostgreSQL, and the key that puts a conversation's turns side by side.

branches    one row a line of a conversation: where it ends, the chain up to there
turns       the newest turns of each branch, a row each
segments    older turns, 64 to a compressed row, with what a search needs of them without decompressing
client_ids  where the message with a client's own id went (only where clients give ids)
derived     what was made from spans of turns
damaged     what `check` set aside
facts       what the store knows of itself: the analysis its index was made by, its embedding, a check of its key

The full-text index is each database's own and no part of this: see `sqlite.py` and `postgres.py`. The two partial
indexes are partial on PostgreSQL too (see the migrations); to say so here would load its dialect, for 50 ms, at each
start.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

PLACE_BITS = 24
LAST_PLACE = (1 << PLACE_BITS) - 1
"""Turns that a branch can have: 16 million."""


def key_of(number: int, seq: int) -> int:
    """One integer for a turn: those of a branch are neighbours in the table, in the full-text index and in a scan."""
    return number << PLACE_BITS | seq


def place_of(key: int) -> tuple[int, int]:
    """The branch's number and the turn's place."""
    return key >> PLACE_BITS, key & LAST_PLACE


def number_in(key: ColumnElement[int]) -> ColumnElement[int]:
    """The same in SQL: the branch's number."""
    # A literal, because PostgreSQL shifts by an integer only, and parameters come as bigints.
    return key.op(">>")(literal_column(str(PLACE_BITS)))


def seq_in(key: ColumnElement[int]) -> ColumnElement[int]:
    """The same in SQL: the turn's place."""
    return key.op("&")(literal_column(str(LAST_PLACE)))


def column_names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


metadata = MetaData()

# SQLite's own row number where the key is INTEGER: no second tree, and a branch's rows share pages.
Key = BigInteger().with_variant(Integer, "sqlite")

branches = Table(
    "branches",
    metadata,
    Column("number", Key, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("conversation", Text, nullable=False),
    Column("branch", Integer, nullable=False),
    Column("parent", Key),
    Column("fork", Integer, nullable=False),
    Column("last", Integer, nullable=False),
    Column("packed", Integer, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("user", Text),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("tenant", "conversation", "branch"),
    Index("branches_by_chain", "chain"),
    # A number is never given twice, so that what is written late to an erased branch finds nothing to attach to.
    sqlite_autoincrement=True,
)
turns = Table(
    "turns",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    # Terms in it; NULL until the index has it.
    Column("words", Integer),
    Column("role", Text, nullable=False),
    # The text of a plain message, else NULL and all of it in `rest`; both NULL where `sealed`.
    Column("content", Text),
    Column("rest", Text),
    Column("sealed", LargeBinary),
    Column("vector", LargeBinary),
    Index("turns_to_index", "key", sqlite_where=text("words IS NULL")),
)
segments = Table(
    "segments",
    metadata,
    Column("key", Key, primary_key=True, autoincrement=False),
    Column("last", Integer, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("words", LargeBinary, nullable=False),
    Column("vectors", LargeBinary),
    Column("body", LargeBinary, nullable=False),
    Index("segments_to_embed", "key", sqlite_where=text("vectors IS NULL")),
)
client_ids = Table(
    "client_ids",
    metadata,
    Column("number", Key, nullable=False),
    Column("id", LargeBinary, nullable=False),
    Column("seq", Integer, nullable=False),
    PrimaryKeyConstraint("number", "id"),
    sqlite_with_rowid=False,
)
derived = Table(
    "derived",
    metadata,
    Column("number", Key, nullable=False),
    Column("last", Integer, nullable=False),
    Column("first", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    PrimaryKeyConstraint("number", "last", "first", "kind"),
    Index("derived_by_chain", "chain"),
    sqlite_with_rowid=False,
)
damaged = Table(
    "damaged",
    metadata,
    Column("key", Key, nullable=False),
    Column("home", Text, nullable=False),
    Column("last", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("bytes", LargeBinary),
    PrimaryKeyConstraint("home", "key"),
    sqlite_with_rowid=False,
)
facts = Table(
    "facts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
