"""The store on SQLite and PostgreSQL: the contract of `base.Store`, each method a sentence or two over the modules
that do it."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, distinct, func, select

from tomtat.errors import StoreError
from tomtat.store import checking, deriving, erasing, exchange, lines, searching
from tomtat.store.appending import Outcome, append, named, shape
from tomtat.store.bags import Bags
from tomtat.store.database import Database, Durability
from tomtat.store.embedding import embed_waiting, is_ready
from tomtat.store.index import BATCH, index_waiting, waiting_count
from tomtat.store.lines import Stretch
from tomtat.store.messages import START, AnyMessage
from tomtat.store.opening import default_place, open_database
from tomtat.store.packing import KEEP_RESTING, KEEP_ROWS, PACK_AT, pack_branch
from tomtat.store.schema import branches, damaged, derived, number_in, segments, seq_in, turns
from tomtat.store.sealing import key_from_environment
from tomtat.store.segments import SEGMENT_TURNS
from tomtat.store.tenant import Tenant
from tomtat.store.turns import turns_of
from tomtat.store.values import Appended, Branch, Derived, Health, Hit, Imported, Located, Receipt, Span, Stats, Turn
from tomtat.store.vectors import Embedder

DEFAULT_TENANT = "default"


def open_store(
    place: str | Path | None = None, *, tenant: str = DEFAULT_TENANT, embedder: Embedder | None = None,
    durability: Durability = "full", key: bytes | None = None,
) -> "SqlStore":  # fmt: skip
    """Open a store, or make one where there is none.

    place: a SQLite file, or an address like `postgresql://user@host/database`; `$TOMTAT_STORE` or `store.db` in the
    user's data directory where not given. embedder: makes searches find what says the same in other words. Vectors are
    made by `tidy`, and when the store is closed. durability: `full`: what `append` has returned from survives a power
    cut. `soon`: it survives every kill of the process, and a power cut after a tenth of a second (half a second on
    PostgreSQL), for it waits for no disk. `normal`: a power cut may cost the last moments. Nothing is ever damaged by
    any of them. key: 32 bytes to seal all content with;
    `$TOMTAT_STORE_KEY` (base64) where not given. Decided when the store is made.

    Raises: StoreError where it can't be opened, is another program's, a newer tomtat's, or sealed with another key.
    """
    key = key or key_from_environment()
    return SqlStore(open_database(place or default_place(), durability, key), named(tenant, "tenant"), key, embedder)


@dataclass(eq=False)
class _Opened:
    """What the stores of all tenants share that came from one."""

    bags: Bags = field(default_factory=Bags)
    is_touched: bool = False
    """Something was appended in this process: closing tidies."""


class SqlStore:
    def __init__(
        self, db: Database, tenant: str, key: bytes | None, embedder: Embedder | None, opened: "_Opened | None" = None
    ) -> None:
        """opened: by another tenant's store, which closes the database."""
        self._db, self._key, self._owner = db, key, opened is None
        self._opened = opened or _Opened()
        self._tenant = Tenant(db, tenant, key)
        self._embedder = embedder if key is None else None
        self._bags = self._opened.bags
        self._since_indexed = 0
        self._lock = threading.Lock()

    @property
    def tenant(self) -> str:
        return self._tenant.name

    # -- turns

    def append(
        self, conversation: str, messages: Sequence[AnyMessage], *, user: str | None = None, branch: int | None = None,
        after: int | None = None, fork: bool = False,
    ) -> Appended:  # fmt: skip
        named(conversation, "conversation")
        if user is not None:
            named(user, "user")
        said = shape(messages)
        with self._db.write() as connection:
            outcome = append(self._tenant, connection, conversation, said, user, branch, after, fork)
        self._after_append(outcome)
        return outcome.appended

    def history(
        self, conversation: str, *, branch: int | None = None, first: int = 1, last: int | None = None,
        newest: int | None = None,
    ) -> list[Turn]:  # fmt: skip
        if newest is not None and newest < 0:
            raise StoreError(f"The newest {newest} turns can't be had; ask for 0 or more.")
        with self._db.read() as connection:
            line = lines.require(connection, self._tenant.name, conversation, branch)
            end = line.last if last is None else min(last, line.last)
            begin = max(first, 1) if newest is None else max(first, 1, end - newest + 1)
            found: list[Turn] = []
            for stretch in lines.stretches(connection, line, begin, end):
                found += turns_of(self._tenant, connection, stretch)
            return found

    def conversations(self, *, user: str | None = None) -> Iterator[Branch]:
        for name in exchange.names(self._tenant):
            with self._db.read() as connection:
                *_, newest = lines.describe(lines.all_of(connection, self._tenant.name, name)) or [None]
            if newest is not None and user in (None, newest.user):
                yield newest

    def branches(self, conversation: str) -> list[Branch]:
        with self._db.read() as connection:
            found = lines.all_of(connection, self._tenant.name, conversation)
            if not found:
                raise lines.unknown(conversation)
            return list(lines.describe(found))

    def locate(self, messages: Sequence[AnyMessage], *, prefix: str = "") -> Located | None:
        said = [one.canonical for one in shape(messages)]
        with self._db.read() as connection:
            return lines.locate(connection, self._tenant.name, self._tenant.chains(START, said), prefix)

    # -- search

    def search(
        self, query: str, *, conversation: str | None = None, branch: int | None = None, last: int | None = None,
        user: str | None = None, limit: int = 10,
    ) -> list[Hit]:  # fmt: skip
        if conversation is None and self._tenant.is_sealed:
            raise StoreError(
                "This store is encrypted and has no index, so a search opens every turn it looks through: "
                "name the conversation to search."
            )
        with self._db.read() as connection:
            embedder = self._embedder if self._embedder and is_ready(connection, self._embedder) else None
            where = self._stretches(connection, conversation, branch, last, user)
            return searching.search(self._tenant, connection, query, where, limit, embedder, self._bags)

    def _stretches(
        self, connection: Connection, conversation: str | None, branch: int | None, last: int | None, user: str | None
    ) -> list[Stretch]:  # fmt: skip
        if conversation is not None:
            line = lines.require(connection, self._tenant.name, conversation, branch)
            return lines.stretches(connection, line, 1, last)
        return [
            Stretch(line, line.fork + 1, line.last)
            for line in lines.of_user(connection, self._tenant.name, user)
            if line.last > line.fork
        ]

    # -- what is derived

    def attach(
        self, conversation: str, span: Span, kind: str, value: Any, *, branch: int | None = None,
        expected: int | None = None, number: int | None = None, alone: bool = False,
    ) -> Derived:  # fmt: skip
        named(kind, "kind")
        with self._db.write() as connection:
            return deriving.attach(
                self._tenant, connection, conversation, span, kind, value, branch, expected,
                number=number, alone=alone,
            )  # fmt: skip

    def derived(
        self, conversation: str, *, branch: int | None = None, kind: str | None = None, covering: int | None = None,
        last: int | None = None,
    ) -> list[Derived]:  # fmt: skip
        with self._db.read() as connection:
            line = lines.require(connection, self._tenant.name, conversation, branch)
            return deriving.derived_from(self._tenant, connection, line, kind, covering, last)

    # -- the whole

    def erase(self, *, conversation: str | None = None, user: str | None = None) -> Receipt:
        if (conversation is None) == (user is None):
            raise StoreError("Say what to erase: one conversation, or one user.")
        receipt = erasing.erase(self._tenant, conversation, user)
        self._bags.clear()
        return receipt

    def export(self, *, conversation: str | None = None, user: str | None = None) -> Iterator[dict[str, Any]]:
        if conversation is not None:
            self.branches(conversation)
        return exchange.export(
            self._tenant, exchange.names(self._tenant) if conversation is None else [conversation], user
        )

    def import_(self, rows: Iterable[dict[str, Any]]) -> Imported:
        return exchange.import_rows(self._tenant, rows, self._after_append)

    def stats(self) -> Stats:
        name = self._tenant.name
        with self._db.read() as connection:
            own = branches.c.tenant == name
            numbers = select(branches.c.number).where(own).scalar_subquery()
            in_segments = func.sum(segments.c.last - seq_in(segments.c.key) + 1)
            its_rows, its_segments = number_in(turns.c.key).in_(numbers), number_in(segments.c.key).in_(numbers)

            def count(what: Any, *where: Any) -> int:
                return int(connection.execute(select(what).where(*where)).scalar() or 0)

            packed = count(in_segments, its_segments)
            return Stats(
                conversations=count(func.count(distinct(branches.c.conversation)), own),
                branches=count(func.count(branches.c.number), own),
                turns=packed + count(func.count(turns.c.key), its_rows),
                packed_turns=packed,
                derived=count(func.count(derived.c.number), derived.c.number.in_(numbers)),
                users=count(func.count(distinct(branches.c.user)), own),
                embedded_turns=count(in_segments, its_segments, segments.c.vectors.is_not(None))
                + count(func.count(turns.c.key), its_rows, turns.c.vector.is_not(None)),
                disk_bytes=self._db.backend.disk_bytes(connection),
                damaged=count(func.count(damaged.c.key), number_in(damaged.c.key).in_(numbers)),
            )

    def check(self, *, repair: bool = False) -> Health:
        health = checking.check(self._db, self._as_tenant, repair)
        self._bags.clear()
        return health

    def tidy(self) -> None:
        if self._key is None:
            with self._db.write() as connection:
                index_waiting(self._db, connection)
        with self._db.read() as connection:
            ripe = lines.ripe(connection, KEEP_RESTING + SEGMENT_TURNS)
        for name, number in ripe:
            self._pack(name, number, KEEP_RESTING)
        if self._embedder is not None:
            embed_waiting(self._db, self._as_tenant, self._embedder)
        self._db.shrink()

    def for_tenant(self, tenant: str) -> Self:
        return type(self)(self._db, named(tenant, "tenant"), self._key, self._embedder, self._opened)

    def close(self) -> None:
        """Tidy what this process has written, and let go of the files."""
        try:
            if self._opened.is_touched:
                self._opened.is_touched = False
                # Where that fails, say on a full disk, all that was appended is stored, and the next may do it.
                with suppress(StoreError):
                    self.tidy()
        finally:
            if self._owner:
                self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # -- after an append: what may wait until there is enough of it

    def _after_append(self, outcome: Outcome) -> None:
        line, new = outcome.line, outcome.appended.new
        if not new:
            return
        self._opened.is_touched = True
        if line.last - line.packed >= PACK_AT:
            self._pack(self._tenant.name, line.number, KEEP_ROWS)
        self._since_indexed += new
        if self._since_indexed >= BATCH and self._key is None:
            self._since_indexed = 0
            with self._db.read() as connection:
                is_due = waiting_count(connection) >= BATCH
            if is_due:
                with self._db.write() as connection:
                    index_waiting(self._db, connection)

    def _pack(self, tenant: str, number: int, keep: int) -> None:
        with self._db.write() as connection:
            pack_branch(self._as_tenant(tenant), connection, number, keep)

    def _as_tenant(self, name: str) -> Tenant:
        return self._tenant if name == self._tenant.name else Tenant(self._db, name, self._key)
