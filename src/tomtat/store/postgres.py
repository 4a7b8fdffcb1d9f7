"""PostgreSQL's ways: a GIN index over tsvectors that hold exactly our terms.

`to_tsvector` would run the server's parser over our terms once more: it cuts by rules of its own and by the database's
locale, so two servers would find different turns. `array_to_tsvector` takes them as they are. With the extension
`btree_gin` (part of PostgreSQL's own contrib, installable by the database's owner) the index holds the branch beside
the terms, so that a search in one conversation does not touch the others.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tomtat.errors import StoreError
from tomtat.store.database import Durability, Ranges
from tomtat.store.schema import PLACE_BITS, place_of

MAX_TERMS_BYTES = 900_000
"""A tsvector holds a megabyte. The terms of a longer turn beyond this are not found; its text is kept whole."""


def open_engine(url: URL, durability: Durability) -> Engine:
    """Raises: StoreError where the driver is missing."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise StoreError("PostgreSQL needs its driver: pip install 'tomtat[postgres]'") from None
    # `normal` means here what it means on SQLite: a power cut may cost the last moments, and never damages anything.
    commit = "on" if durability == "full" else "off"
    return create_engine(
        url,
        pool_size=16,
        max_overflow=-1,
        pool_pre_ping=True,
        connect_args={"options": f"-c synchronous_commit={commit} -c lock_timeout=60s"},
    )


class Postgres:
    name = "postgresql"
    remains: tuple[str, ...] = (
        "dead rows' bytes in the tables' files until PostgreSQL overwrites them (VACUUM FULL does at once)",
        "the server's write-ahead log and its archive",
        "replicas, and backups made before this",
    )

    def lock(self, connection: Connection, tenant: str, conversation: str) -> None:
        connection.exec_driver_sql(
            "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))", {"name": f"{tenant}\x1f{conversation}"}
        )

    def create_index(self, connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE IF EXISTS terms")
        connection.exec_driver_sql(
            "CREATE TABLE terms (key bigint PRIMARY KEY, number bigint NOT NULL, t tsvector NOT NULL)"
        )
        has_btree_gin = True
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS btree_gin")
        except DBAPIError:
            has_btree_gin = False
        columns = "number, t" if has_btree_gin else "t"
        connection.exec_driver_sql(f"CREATE INDEX terms_by_term ON terms USING gin ({columns})")

    def add_terms(self, connection: Connection, rows: Sequence[tuple[int, list[str]]]) -> None:
        connection.exec_driver_sql(
            "INSERT INTO terms (key, number, t) VALUES (%(key)s, %(number)s, array_to_tsvector(%(terms)s::text[]))"
            " ON CONFLICT (key) DO NOTHING",
            [{"key": key, "number": key >> PLACE_BITS, "terms": _within_limit(terms)} for key, terms in rows],
        )

    def remove_terms(self, connection: Connection, rows: Sequence[tuple[int, list[str]]]) -> None:
        connection.exec_driver_sql("DELETE FROM terms WHERE key = ANY(%(keys)s)", {"keys": [key for key, _ in rows]})

    def postings(self, connection: Connection, terms: Sequence[str], ranges: Ranges) -> dict[str, Sequence[int]]:
        found: dict[str, list[int]] = {term: [] for term in terms}
        # By branch rather than by range of keys, for that is what the index has beside the terms.
        rows = connection.exec_driver_sql(
            "SELECT q.term, terms.key"
            " FROM unnest(%(terms)s::text[], %(queries)s::text[]::tsquery[]) AS q(term, query)"
            " CROSS JOIN unnest(%(numbers)s::bigint[]) AS r(number)"
            " JOIN terms ON terms.number = r.number AND terms.t @@ q.query ORDER BY terms.key",
            {
                "terms": list(terms),
                "queries": [f"'{term}'" for term in terms],
                "numbers": sorted({place_of(low)[0] for low, _ in ranges}),
            },
        )
        for term, key in rows:
            found[term].append(key)
        return dict(found)

    def term_counts(self, connection: Connection) -> Iterator[tuple[str, int]]:
        for row in connection.exec_driver_sql("SELECT word, ndoc FROM ts_stat('SELECT t FROM terms')"):
            yield row[0], row[1]

    def forget(self, engine: Engine) -> bool:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for table in ("terms", "turns", "segments", "derived", "client_ids", "branches", "damaged"):
                connection.exec_driver_sql(f"VACUUM {table}")
        return True

    def shrink(self, engine: Engine) -> None:
        pass  # autovacuum does

    def integrity(self, connection: Connection) -> list[str]:
        return []  # the server's own checksums and amcheck are its administrator's

    def disk_bytes(self, connection: Connection) -> int:
        [size] = connection.exec_driver_sql(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c"
            " WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace"
        ).one()
        return int(size)


def _within_limit(terms: list[str]) -> list[str]:
    if sum(len(term) for term in terms) * 4 < MAX_TERMS_BYTES:
        return terms
    kept, size = [], 0
    for term in terms:
        size += len(term.encode()) + 8
        if size > MAX_TERMS_BYTES:
            break
        kept.append(term)
    return kept
