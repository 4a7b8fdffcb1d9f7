"""Opening a store: which database, its tables as this version wants them, and whether the key fits."""

import os
from pathlib import Path

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tomtat.errors import StoreError
from tomtat.store import postgres, sqlite
from tomtat.store.checking import rebuild_index
from tomtat.store.database import Backend, Database, Durability
from tomtat.store.facts import fact, remember
from tomtat.store.index import ANALYSIS
from tomtat.store.sealing import KEY_VARIABLE, key_check
from tomtat.store.syncing import LogSyncer

SCHEMA = "0001"
"""Alembic's newest step."""


def default_place() -> str:
    """`$TOMTAT_STORE`, or `store.db` in the user's data directory."""
    from platformdirs import user_data_path

    return os.environ.get("TOMTAT_STORE") or str(user_data_path("tomtat") / "store.db")


def open_database(place: str | Path, durability: Durability, key: bytes | None) -> Database:
    """Connect, bring the tables up to date, check the key.

    Raises: StoreError.
    """
    url = _url(place)
    backend: Backend
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "").absolute()
        engine, backend, where = sqlite.open_engine(path, durability), sqlite.Sqlite(path), str(path)
        syncer = LogSyncer(Path(f"{path}-wal")) if durability == "soon" else None
    else:
        engine, backend, where = postgres.open_engine(url, durability), postgres.Postgres(), url.render_as_string()
        syncer = None  # its server has one
    db = Database(engine, backend, where, syncer)
    try:
        _prepare(db, key)
    except BaseException:
        db.close()
        raise
    return db


def _url(place: str | Path) -> URL:
    text = str(place)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = make_url(text)
    except ArgumentError:
        raise StoreError(
            f"{text!r} is no address of a store: give a file, or postgresql://user@host/database."
        ) from None
    name = url.get_backend_name()
    if name == "sqlite":
        if not url.database or url.database == ":memory:":
            raise StoreError("A store in memory would lose every turn; give a file.")
        return url
    if name in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(f"A store lies on SQLite or PostgreSQL, not on {name}.")


def _prepare(db: Database, key: bytes | None) -> None:
    with db.read() as connection:
        is_ready = _version(connection) == SCHEMA and fact(connection, "terms") == ANALYSIS
    if not is_ready:
        with db.write() as connection:
            db.backend.lock(connection, "", "schema")
            _upgrade(db, connection, key)
    with db.read() as connection:
        _check_key(fact(connection, "key"), key, db.where)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() or "")


def _upgrade(db: Database, connection: Connection, key: bytes | None) -> None:
    """Whoever comes second finds it done, for the lock is held until the end."""
    version = _version(connection)
    if version is not None and version > SCHEMA:
        raise StoreError(
            f"The store at {db.where} was written by a newer tomtat "
            f"(tables {version}, this one knows {SCHEMA}): update tomtat."
        )
    if version is None and (others := inspect(connection).get_table_names()):
        raise StoreError(
            f"The database at {db.where} is not a store: it has other tables "
            f"({', '.join(sorted(others)[:3])}). Give one of its own."
        )
    if version != SCHEMA:
        _migrate(connection)
    if fact(connection, "terms") != ANALYSIS:
        rebuild_index(db, connection)
        remember(connection, "terms", ANALYSIS)
    if version is None:
        remember(connection, "key", key_check(key) if key else "none")


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "tomtat.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _check_key(known: str | None, key: bytes | None, where: str) -> None:
    if known == "none" and key is not None:
        raise StoreError(
            f"The store at {where} is not encrypted, and {KEY_VARIABLE} is set. "
            "Unset it, or export this store and import it into a new one."
        )
    if known != "none" and key is None:
        raise StoreError(f"The store at {where} is encrypted: set {KEY_VARIABLE} to its key.")
    if key is not None and known != key_check(key):
        raise StoreError(f"The key in {KEY_VARIABLE} is not that of the store at {where}.")
