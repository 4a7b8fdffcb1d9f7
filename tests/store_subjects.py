"""Our stores as the conformance suite takes them, and how to hurt them."""

import os
import resource
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, func, select, update
from sqlalchemy.engine import make_url

from tomtat.store import SqlStore, open_store
from tomtat.store.schema import branches, key_of, segments, turns
from tomtat.store.segments import decompress

KEY = bytes(range(32))


class SqliteSubject:
    def new_place(self, folder: Path) -> str:
        return str(folder / "store.db")

    def open(self, place: str) -> SqlStore:
        return open_store(place)

    def damage(self, place: str, conversation: str, seq: int) -> None:
        engine = create_engine(f"sqlite:///{place}")
        try:
            flip(engine, conversation, seq)
        finally:
            engine.dispose()

    def damage_index(self, place: str) -> None:
        with closing(sqlite3.connect(place)) as connection:
            connection.execute("INSERT INTO terms(terms) VALUES ('delete-all')")
            connection.commit()

    @contextmanager
    def fill_disk(self, place: str) -> Iterator[None]:
        # A limit on the size of files fails SQLite's own writes half way, as a full disk does, and needs neither root nor a
        # small file system. `test_store_sql.py` fills a real one where it can be mounted.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        largest = max(path.stat().st_size for path in Path(place).parent.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 1_000_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def remains(self, place: str, needle: bytes) -> list[str]:
        found = grep(Path(place).parent, needle)
        with closing(sqlite3.connect(place)) as connection:
            # FTS5 shares the beginnings of neighbouring terms, so a term need not stand in the file in one piece.
            connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, terms, row)")
            terms = [row[0] for row in connection.execute("SELECT term FROM temp.vocabulary")]
            found += [f"the index: {term}" for term in terms if needle.lower() in term.encode()]
            found += in_rows("segments", connection.execute("SELECT body FROM segments"), needle)
            found += in_rows("derived", connection.execute("SELECT value FROM derived"), needle)
        return found


class SealedSqliteSubject(SqliteSubject):
    seals = True
    searches_narrowly = True

    def open(self, place: str, key: bytes | None = KEY) -> SqlStore:
        return open_store(place, key=key)

    damage_index = None  # there is no index

    def remains(self, place: str, needle: bytes) -> list[str]:
        return grep(Path(place).parent, needle)


class PostgresSubject:
    """On the server whose address is in `$TOMTAT_TEST_POSTGRES`; what is opened by its address alone needs none."""

    def __init__(self) -> None:
        self._databases: dict[Path, list[str]] = {}

    def new_place(self, folder: Path) -> str:
        server, name = os.environ["TOMTAT_TEST_POSTGRES"], f"test_{uuid.uuid4().hex}"
        with connected(f"{server}/postgres") as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        self._databases.setdefault(folder, []).append(name)
        return f"{server}/{name}"

    def drop(self, folder: Path) -> None:
        """What was made for this folder or below it: a database is 8 MB, and tests are many."""
        for below in [one for one in self._databases if one.is_relative_to(folder)]:
            with connected(f"{os.environ['TOMTAT_TEST_POSTGRES']}/postgres") as connection:
                for name in self._databases.pop(below):
                    connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def open(self, place: str) -> SqlStore:
        return open_store(place)

    def damage(self, place: str, conversation: str, seq: int) -> None:
        with connected(place) as connection:
            flip(connection.engine, conversation, seq)

    def damage_index(self, place: str) -> None:
        with connected(place) as connection:
            connection.exec_driver_sql("DELETE FROM terms WHERE key %% 3 = 0")

    @contextmanager
    def fill_disk(self, place: str) -> Iterator[None]:
        # A limit on the size of files, set on the server's running processes: tables fail to grow as on a full disk. A small
        # file system would need root, and its log would fill too, which stops the whole server and not one append.
        with connected(place) as connection:
            [data] = connection.exec_driver_sql("SHOW data_directory").one()
        postmaster = int((Path(data) / "postmaster.pid").read_text().split()[0])

        def limit(size: str) -> None:
            # New connections take theirs from the postmaster, so it comes first.
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
            for pid in [postmaster, *map(int, children.read_text().split())]:
                # One that has just ended needs no limit.
                subprocess.run(
                    ["prlimit", f"--pid={pid}", f"--fsize={size}:"], **{**as_owner_of(Path(data)), "check": False}
                )

        limit("4000000")
        try:
            yield
        finally:
            limit("unlimited")

    def remains(self, place: str, needle: bytes) -> list[str]:
        """In the tables' files, after the VACUUM FULL that the receipt speaks of; the log is beyond a store's reach, as it says too."""
        with connected(place) as connection:
            connection.exec_driver_sql("VACUUM FULL")
            connection.exec_driver_sql("CHECKPOINT")
            [data] = connection.exec_driver_sql("SHOW data_directory").one()
            [oid] = connection.exec_driver_sql("SELECT oid FROM pg_database WHERE datname = current_database()").one()
            found = grep(Path(data) / "base" / str(oid), needle)
            terms = connection.exec_driver_sql("SELECT word FROM ts_stat('SELECT t FROM terms')").scalars()
            found += [f"the index: {term}" for term in terms if needle.lower() in term.encode()]
            for table, column in (("segments", "body"), ("derived", "value")):
                found += in_rows(table, connection.exec_driver_sql(f"SELECT {column} FROM {table}"), needle)
            # PostgreSQL compresses long texts itself, so files alone don't show them.
            for table in ("branches", "turns", "damaged"):
                rows = connection.exec_driver_sql(f"SELECT {table}::text FROM {table}").scalars()
                found += [table for row in rows if needle in row.encode()]
        return found


def as_owner_of(path: Path) -> dict[str, Any]:
    """Options of `subprocess.run`: PostgreSQL runs as another user where tests run as root."""
    return {"user": path.owner(), "group": path.group(), "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def connected(place: str) -> Iterator[Any]:
    """A connection that commits each statement."""
    engine = create_engine(make_url(place).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def grep(folder: Path, needle: bytes) -> list[str]:
    """Files with these bytes in them."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and needle in path.read_bytes()]


def in_rows(table: str, rows: Any, needle: bytes) -> list[str]:
    return [f"{table}, decompressed" for (data,) in rows if needle in decompress(bytes(data))]


def flip(engine: Engine, conversation: str, seq: int) -> None:
    """Change a bit of a stored turn, or of the segment that it lies in."""
    with engine.begin() as connection:
        number = connection.execute(
            select(branches.c.number).where(
                branches.c.conversation == conversation, branches.c.branch == 0, branches.c.tenant == "default"
            )
        ).scalar_one()
        key = key_of(number, seq)
        row = connection.execute(
            select(turns.c.content, turns.c.rest, turns.c.sealed).where(turns.c.key == key)
        ).first()
        if row is None:
            start = connection.execute(select(func.max(segments.c.key)).where(segments.c.key <= key)).scalar_one()
            body = connection.execute(select(segments.c.body).where(segments.c.key == start)).scalar_one()
            connection.execute(update(segments).where(segments.c.key == start).values(body=flipped(body)))
        elif row.sealed is not None:
            connection.execute(update(turns).where(turns.c.key == key).values(sealed=flipped(row.sealed)))
        elif row.content is not None:
            text = flipped(row.content.encode()).decode()
            connection.execute(update(turns).where(turns.c.key == key).values(content=text))
        else:
            connection.execute(update(turns).where(turns.c.key == key).values(rest=flipped(row.rest.encode()).decode()))


def flipped(data: bytes) -> bytes:
    """One bit in the middle changed; a letter becomes another letter."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
