"""Conversations kept whole, found again, erased for good: on SQLite or PostgreSQL.

    from tomtat.store import open_store

    with open_store("chats.db") as store:
        store.append("chat-1", [{"role": "user", "content": "My order LM-48213 came cracked."}], user="ann")
        store.history("chat-1", newest=50)
        store.search("which order was it?", conversation="chat-1")

Nothing here knows about models or HTTP. `base.Store` is the contract, `conformance` the same as tests.

What needs SQLAlchemy or numpy is imported when first used, so that pytest finds the suite's option without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tomtat.store.base import Store
from tomtat.store.sealing import KEY_VARIABLE
from tomtat.store.values import (
    Appended,
    Branch,
    Conflict,
    Damaged,
    Derived,
    Finding,
    Health,
    Hit,
    Imported,
    Located,
    Receipt,
    Span,
    Stats,
    Turn,
    UnknownConversation,
)

if TYPE_CHECKING:
    from tomtat.store.sql_store import SqlStore, open_store
    from tomtat.store.vectors import Embedder

_HOMES = {
    "Embedder": "tomtat.store.vectors",
    "SqlStore": "tomtat.store.sql_store",
    "open_store": "tomtat.store.sql_store",
}

__all__ = [
    "KEY_VARIABLE",
    "Appended",
    "Branch",
    "Conflict",
    "Damaged",
    "Derived",
    "Embedder",
    "Finding",
    "Health",
    "Hit",
    "Imported",
    "Located",
    "Receipt",
    "Span",
    "SqlStore",
    "Stats",
    "Store",
    "Turn",
    "UnknownConversation",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tomtat.store' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
