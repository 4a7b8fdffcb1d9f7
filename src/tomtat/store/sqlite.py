"""SQLite's ways: one file with a write-ahead log, and FTS5 for the index.

FTS5 gets our terms, joined by blanks. Its `ascii` tokenizer splits at nothing else and folds nothing that terms have
not folded, so what is indexed is exactly the terms; `unicode61` knows the characters of Unicode 6.1 only and drops
terms with later ones. The index is contentless, without positions and without sizes (`detail=none, columnsize=0`): the
texts lie elsewhere, packed, and the ranking takes its counts from terms themselves (see `index.py`).
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from tomtat.errors import StoreError
from tomtat.store.database import Durability, Ranges

BUSY_MILLISECONDS = 60_000
PAGE_BYTES = 1024
"""Segments are about 3 kB: on pages of 4 kB a quarter of the file would be air, and each append would log more."""
_CREATE = (
    "CREATE VIRTUAL TABLE terms USING fts5(t, content='', detail=none, columnsize=0, tokenize=\"ascii tokenchars '~'\")"
)
CHECKPOINT_PAGES = 4000
MERGE_PAGES = 2000
"""Of 4 kB, that one `tidy` merges of the index at most."""
MANY_PIECES = 8
ROWS_A_LOOK = 20
"""What one more look into the index takes, in rows read."""
TERMS_A_LOOK = 64
"""FTS5 takes some hundred in one question."""
FEW_RANGES = 64
"""Up to here each range is looked up; beyond, a term's turns between the first and the last are taken."""
_CHECKPOINT_SECONDS = 5.0


def open_engine(path: Path, durability: Durability) -> Engine:
    """Raises: StoreError where there is no such folder and none can be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Chats are nobody else's: the file is made before SQLite makes it readable for all.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"The store at {path} can't be opened: {error.strerror}.") from None
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_MILLISECONDS / 1000}, pool_size=16, max_overflow=-1
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "auto_vacuum=INCREMENTAL",
            f"busy_timeout={BUSY_MILLISECONDS}",
            "journal_mode=WAL",
            f"synchronous={'FULL' if durability == 'full' else 'NORMAL'}",
            # What is deleted is overwritten with zeros, always: rows that move into segments leave nothing either.
            "secure_delete=ON",
            "temp_store=MEMORY",
            "cache_size=-16000",
            f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its place at once: one that reads first and writes later can't be let wait and fails instead.
        writes = connection.get_execution_options().get("tomtat_writes")
        raw: Any = connection.connection.driver_connection
        if not raw.in_transaction:  # `Database.read` has begun its own
            raw.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Sqlite:
    name = "sqlite"
    remains: tuple[str, ...] = ("copies of the file and backups made before this",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def lock(self, connection: Connection, tenant: str, conversation: str) -> None:
        pass  # BEGIN IMMEDIATE has locked out every other writer

    def create_index(self, connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE IF EXISTS terms")
        connection.exec_driver_sql(_CREATE)

    def add_terms(self, connection: Connection, rows: Sequence[tuple[int, list[str]]]) -> None:
        connection.exec_driver_sql(
            "INSERT INTO terms(rowid, t) VALUES (?, ?)", [(key, " ".join(terms)) for key, terms in rows]
        )

    def remove_terms(self, connection: Connection, rows: Sequence[tuple[int, list[str]]]) -> None:
        connection.exec_driver_sql(
            "INSERT INTO terms(terms, rowid, t) VALUES ('delete', ?, ?)",
            [(key, " ".join(terms)) for key, terms in rows],
        )

    def postings(self, connection: Connection, terms: Sequence[str], ranges: Ranges) -> dict[str, Sequence[int]]:
        # The driver's own cursor: a search asks this some fifty times, and SQLAlchemy's share would be most of it.
        execute = connection.connection.driver_connection.execute  # type: ignore[union-attr]

        def look(matched: str, low: int, high: int, limit: int = -1) -> list[int]:
            query = "SELECT rowid FROM terms WHERE terms MATCH ? AND rowid BETWEEN ? AND ? LIMIT ?"
            return [key for (key,) in execute(query, (matched, low, high, limit))]

        whole, few = (ranges[0][0], ranges[-1][1]), ROWS_A_LOOK * len(ranges)
        found: dict[str, Sequence[int]] = {}
        # Speakers' names and terms that stand in a turn many times are mostly nowhere: one look tells of all of them.
        quoted = [f'"{term}"' for term in terms]
        if 1 < len(terms) <= TERMS_A_LOOK and not look(" OR ".join(quoted), *whole, 1):
            return dict.fromkeys(terms, ())
        for term, query in zip(terms, quoted, strict=True):
            # Most words stand in few turns: to take them all is less work than to look into each range.
            keys = look(query, *whole, few) if len(ranges) > 1 else []
            if len(ranges) == 1 or len(keys) == few:
                some = ranges if len(ranges) <= FEW_RANGES else [whole]
                keys = [key for low, high in some for key in look(query, low, high)]
            found[term] = keys
        return found

    def term_counts(self, connection: Connection) -> Iterator[tuple[str, int]]:
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.vocabulary USING fts5vocab(main, terms, row)"
        )
        for row in connection.exec_driver_sql("SELECT term, doc FROM temp.vocabulary"):
            yield row[0], row[1]

    def forget(self, engine: Engine) -> bool:
        """FTS5 keeps deleted terms in its segments until they are merged; the log keeps pages until it is truncated."""
        with engine.execution_options(tomtat_writes=True).begin() as connection:
            connection.exec_driver_sql("INSERT INTO terms(terms) VALUES ('optimize')")
        self.shrink(engine)
        return self._truncate_log(engine, _CHECKPOINT_SECONDS)

    def shrink(self, engine: Engine) -> None:
        with engine.execution_options(tomtat_writes=True).begin() as connection:
            pieces, leaves = connection.exec_driver_sql("SELECT count(DISTINCT segid), count(*) FROM terms_idx").one()
            # Merged, the index is a third smaller and three times as fast; a large one is left alone until it pays.
            if pieces > 1 and (leaves < MERGE_PAGES or pieces > MANY_PIECES):
                connection.exec_driver_sql(f"INSERT INTO terms(terms, rank) VALUES ('merge', -{MERGE_PAGES})")
        raw = engine.raw_connection()
        try:
            # Each step frees one page, and only a script is stepped to its end.
            raw.cursor().executescript("PRAGMA incremental_vacuum")
        finally:
            raw.close()
        self._truncate_log(engine, seconds=0)

    def _truncate_log(self, engine: Engine, seconds: float) -> bool:
        raw = engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute("PRAGMA busy_timeout=100")
            try:
                end = time.monotonic() + seconds
                while True:
                    busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    if not busy or time.monotonic() > end:
                        return not busy
            finally:
                cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
                cursor.close()
        finally:
            raw.close()

    def integrity(self, connection: Connection) -> list[str]:
        found = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else found

    def disk_bytes(self, connection: Connection) -> int:
        return sum(
            path.stat().st_size
            for path in (self._path, *(Path(f"{self._path}{ending}") for ending in ("-wal", "-shm", "-journal")))
            if path.exists()
        )
