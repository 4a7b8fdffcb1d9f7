"""A database that is open: transactions, statements compiled once, and errors a user can act on."""

import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import Executable

from tomtat.errors import StoreError
from tomtat.store.syncing import LogSyncer

Durability = Literal["full", "soon", "normal"]
Ranges = Sequence[tuple[int, int]]
"""Of keys, both ends included, in rising order."""


class Statement:
    """A SQLAlchemy Core statement, compiled once per dialect and then run by the driver's own cursor.

    Core writes it; what is saved is what Core takes each time to run it and to wrap its rows: 60 µs, several times
    what SQLite needs for an insert (`python benchmarks/store.py`).
    """

    def __init__(self, core: Executable) -> None:
        self._core = core
        self._compiled: dict[str, _Compiled] = {}

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Run it; its rows, where it has any."""
        compiled = self._for(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(compiled.text, compiled.arrange(values))
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            cursor.close()

    def first(self, connection: Connection, **values: Any) -> tuple[Any, ...] | None:
        return next(iter(self(connection, **values)), None)

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        compiled = self._for(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(compiled.text, [compiled.arrange(row) for row in rows])
        finally:
            cursor.close()

    def _for(self, connection: Connection) -> "_Compiled":
        name = connection.dialect.name
        if name not in self._compiled:
            compiled = self._core.compile(dialect=connection.dialect)  # type: ignore[attr-defined]
            order = None if compiled.positiontup is None else tuple(compiled.positiontup)
            own = {key: value for key, value in compiled.params.items() if value is not None}
            self._compiled[name] = _Compiled(str(compiled), order, own)
        return self._compiled[name]


class _Compiled(NamedTuple):
    text: str
    order: tuple[str, ...] | None
    """Names of the values by position, where the driver takes them so."""
    own: dict[str, Any]
    """Values that the statement brings itself."""

    def arrange(self, values: Mapping[str, Any]) -> Any:
        if self.own:
            values = {**self.own, **values}
        return values if self.order is None else tuple([values[name] for name in self.order])


class Backend(Protocol):
    """What SQLite and PostgreSQL do each in their own way."""

    name: str

    def lock(self, connection: Connection, tenant: str, conversation: str) -> None:
        """Let no other writer of this conversation in until the transaction ends."""

    def create_index(self, connection: Connection) -> None:
        """An empty full-text index; one that exists is replaced."""

    def add_terms(self, connection: Connection, rows: Sequence[tuple[int, list[str]]]) -> None:
        """Index turns: their keys, in rising order, with their index terms (see `index.py`)."""

    def remove_terms(self, connection: Connection, rows: Sequence[tuple[int, list[str]]]) -> None:
        """Take turns out again, given the terms they were indexed by."""

    def postings(self, connection: Connection, terms: Sequence[str], ranges: Ranges) -> dict[str, Sequence[int]]:
        """The keys of turns that have each term, rising: all within the ranges, and maybe others."""

    def term_counts(self, connection: Connection) -> Iterator[tuple[str, int]]:
        """Each term with the number of turns it is indexed for."""

    def forget(self, engine: Engine) -> bool:
        """After rows were deleted: rewrite what keeps deleted text. False where another process holds it open."""

    def shrink(self, engine: Engine) -> None:
        """Give room that is free back to the disk, as far as that costs little."""

    def integrity(self, connection: Connection) -> list[str]:
        """What the database finds wrong with its own files, in its words."""

    def disk_bytes(self, connection: Connection) -> int: ...

    remains: tuple[str, ...]
    """Where erased text lives on, out of this database's reach."""


class Database:
    """An engine, its backend and the ways in: `read` sees one moment, `write` is done whole or not at all."""

    def __init__(self, engine: Engine, backend: Backend, where: str, syncer: LogSyncer | None = None) -> None:
        """syncer: told of each commit, where commits don't wait for the disk themselves."""
        self.engine, self.backend, self.where, self._syncer = engine, backend, where, syncer
        # A reader asks several times and must see one moment: SQLite's transactions do, PostgreSQL's have to be told.
        self._reading = (
            engine.execution_options(isolation_level="REPEATABLE READ") if backend.name == "postgresql" else engine
        )
        self._writing = engine.execution_options(tomtat_writes=True)
        self._own = threading.local()
        # Weak, so that a thread that ends gives its connection back.
        self._readers: weakref.WeakSet[Connection] = weakref.WeakSet()
        # SQLite has one writer at a time. Threads queue here, fairly, and wake at once; its own waiting is neither.
        self._turnstile = threading.RLock() if backend.name == "sqlite" else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        # Begun here, for a `Statement` does not: SQLite would show each of a reader's questions another moment.
        if self.backend.name == "sqlite":
            with self._errors(), self._reader() as connection:
                yield connection
            return
        with self._errors(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def _reader(self) -> Iterator[Connection]:
        """A thread keeps the connection it reads with: to take one and give it back is a third of a short read."""
        kept: Connection | None = getattr(self._own, "reader", None)
        if kept is None or kept.closed:
            kept = self._own.reader = self._reading.connect()
            self._readers.add(kept)
        raw: Any = kept.connection.driver_connection
        if raw.in_transaction:  # this thread reads already, say an export that goes on while it looks up something else
            with self._reading.connect() as another:
                another.connection.cursor().execute("BEGIN")
                yield another
            return
        raw.execute("BEGIN")
        try:
            yield kept
        finally:
            kept.rollback()
            raw.rollback()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        if self._turnstile is None:
            with self._errors(), self._writing.begin() as connection:
                yield connection
            return
        with self._turnstile, self._errors(), self._writing.begin() as connection:
            yield connection
        if self._syncer:
            self._syncer.committed()

    def forget(self) -> bool:
        """See `Backend.forget`."""
        with self._errors():
            return self.backend.forget(self.engine)

    def shrink(self) -> None:
        """See `Backend.shrink`."""
        with self._errors():
            self.backend.shrink(self.engine)

    def close(self) -> None:
        for reader in list(self._readers):
            reader.close()
        if self._syncer:
            self._syncer.close()
        self.engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise (explained(error.orig, self.where) or error) from error
        except self.engine.dialect.loaded_dbapi.Error as error:
            raise (explained(error, self.where) or error) from error


_REASONS = {
    r"disk is full|No space left|could not extend file|disk quota|File too large|SQLITE_IOERR_(WRITE|SHMSIZE)":
        "the disk is full: nothing of this was stored; make room and repeat it",
    r"database is locked|lock timeout|deadlock":
        "another process has been writing for too long: nothing of this was stored; repeat it",
    r"readonly database|read-only transaction|permission denied":
        "it can't be written by this user; check the owner of the file and of its folder",
    r"not a database":
        "this is a file of another kind; give one of SQLite's, or a name where there is none yet",
    r"malformed|invalid page|disk I/O error":
        "its file is damaged; copy it away, then run: tomtat store check",
    r"unable to open database file":
        "it can't be opened; check that its folder exists and may be written",
    r"could not connect|connection (failed|timeout|is closed)|Connection refused|server closed the connection|"
    r"terminating connection|could not translate host|no password supplied|authentication failed|getaddrinfo":
        "the database server does not answer as needed; check the URL and that it runs",
}  # fmt: skip
"""What the drivers say, and what it means to who reads it."""


def explained(error: BaseException | None, where: str) -> StoreError | None:
    """The error in words a user can act on, where it is of that kind; None for what is a bug of ours."""
    text = str(error).strip() or type(error).__name__
    # SQLite says "disk I/O error" of bytes it can't read, and of a quota that is used up too.
    named = f"{text} {getattr(error, 'sqlite_errorname', '')}"
    for pattern, meaning in _REASONS.items():
        if re.search(pattern, named, re.IGNORECASE):
            return StoreError(f"The store at {where}: {meaning} ({text.splitlines()[0]}).")
    return None
