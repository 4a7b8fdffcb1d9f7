"""Stores of somebody else's: one that keeps the contract, and some that each drop a promise, for the suite to find out."""

from pathlib import Path
from typing import Any

from store_subjects import SqliteSubject
from tomtat.store import SqlStore, open_store


class Plain:
    """With nothing but what a subject must have."""

    store = SqlStore

    def new_place(self, folder: Path) -> str:
        return str(folder / "store.db")

    def open(self, place: str) -> SqlStore:
        opened = open_store(place)
        opened.__class__ = self.store
        return opened


class StoresRetries(SqlStore):
    def append(self, conversation: str, messages: Any, **how: Any) -> Any:
        return super().append(
            conversation, [{k: v for k, v in m.items() if k != "id"} for m in messages], **{**how, "after": None}
        )


class ForgetsTheOrder(SqlStore):
    def history(self, *what: Any, **how: Any) -> Any:
        return sorted(super().history(*what, **how), key=lambda turn: str(turn.message.get("content")))


class SharesTenants(SqlStore):
    def for_tenant(self, tenant: str) -> Any:
        return self


class OverwritesDerived(SqlStore):
    def attach(self, conversation: str, span: Any, kind: str, value: Any, **how: Any) -> Any:
        known = [one for one in self.derived(conversation, branch=how.get("branch"), kind=kind) if one.span == span]
        return super().attach(
            conversation, span, kind, value, **{**how, "expected": known[0].version if known else None}
        )


class HidesOnly(SqlStore):
    """Erased rows stay in the file, as they do where nobody looks."""

    def erase(self, **what: Any) -> Any:
        forget, self._db.backend.forget = self._db.backend.forget, lambda engine: True
        try:
            return super().erase(**what)
        finally:
            self._db.backend.forget = forget


class AppendsInPieces(SqlStore):
    """Each message a transaction of its own: a kill or a full disk leaves half of a batch."""

    def append(self, conversation: str, messages: Any, *, after: int | None = None, **how: Any) -> Any:
        done = super().append(conversation, [], after=after, **how)
        for number, message in enumerate(messages):
            done = super().append(conversation, [message], after=None if after is None else after + number, **how)
        return done


def subject(broken: type[SqlStore]) -> type[SqliteSubject]:
    return type(
        f"{broken.__name__}Subject",
        (SqliteSubject, Plain),
        {"store": broken, "open": Plain.open, "__module__": __name__},
    )


StoresRetriesSubject = subject(StoresRetries)
ForgetsTheOrderSubject = subject(ForgetsTheOrder)
SharesTenantsSubject = subject(SharesTenants)
OverwritesDerivedSubject = subject(OverwritesDerived)
HidesOnlySubject = subject(HidesOnly)
AppendsInPiecesSubject = subject(AppendsInPieces)
