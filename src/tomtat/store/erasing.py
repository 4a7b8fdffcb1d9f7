"""Erasing: rows, index entries and vectors go in one transaction; then what keeps deleted text is rewritten."""

import time

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.exc import DatabaseError

from tomtat.store import lines
from tomtat.store.checking import rebuild_index
from tomtat.store.database import Statement
from tomtat.store.index import terms_of
from tomtat.store.lines import Line, Stretch
from tomtat.store.messages import canonical
from tomtat.store.schema import LAST_PLACE, branches, client_ids, damaged, derived, key_of, segments, turns
from tomtat.store.tenant import Tenant
from tomtat.store.turns import chain_at, rows_of
from tomtat.store.values import Damaged, Receipt

_of_user = Statement(
    select(branches.c.conversation).distinct()
    .where(branches.c.tenant == bindparam("tenant"), branches.c.user == bindparam("user"))
)  # fmt: skip
_in_range = [
    Statement(delete(table).where(table.c.key.between(bindparam("low"), bindparam("high"))))
    for table in (turns, segments, damaged)
]
_of_branch = [
    Statement(delete(table).where(table.c.number == bindparam("which"))) for table in (client_ids, derived, branches)
]
_count_derived = Statement(select(func.count()).where(derived.c.number == bindparam("which")))
_indexed_rows = Statement(
    select(turns.c.key).where(turns.c.key.between(bindparam("low"), bindparam("high")), turns.c.words.is_not(None))
)


def erase(tenant: Tenant, conversation: str | None, user: str | None) -> Receipt:
    """See `Store.erase`."""
    db, now = tenant.db, time.time()
    conversations = its_turns = its_derived = 0
    index_is_sound = True
    with db.write() as connection:
        if conversation is not None:
            names = [conversation]
        else:
            names = [row[0] for row in _of_user(connection, tenant=tenant.name, user=user)]
        for name in sorted(names):
            db.backend.lock(connection, tenant.name, name)
            gone = lines.all_of(connection, tenant.name, name)
            conversations += bool(gone)
            for line in reversed(gone):
                index_is_sound &= _remove_terms(tenant, connection, line)
                its_turns += line.last - line.fork
                its_derived += _count_derived(connection, which=line.number)[0][0]
                _remove_rows(connection, line)
        if not index_is_sound:
            rebuild_index(db, connection)
    tenant.opened.clear()
    tenant.found_terms.clear()
    rewritten = db.forget()
    what = "conversation" if user is None else "user"
    return Receipt(what, conversations, its_turns, its_derived, now, rewritten, db.backend.remains)


def _remove_terms(tenant: Tenant, connection: Connection, line: Line) -> bool:
    """Take a branch's turns out of the index; False where that can't be done because a turn or the index is damaged."""
    if tenant.is_sealed:
        return True
    low, high = key_of(line.number, line.packed + 1), key_of(line.number, LAST_PLACE)
    indexed = {row[0] for row in _indexed_rows(connection, low=low, high=high)}
    try:
        rows = rows_of(tenant, connection, Stretch(line, line.fork + 1, line.last))
        before = chain_at(tenant, connection, line, line.fork)
    except Damaged:
        return False
    if rows and tenant.chains(before, [canonical(row.message()) for row in rows])[-1] != line.chain:
        return False
    entries = []
    for row in rows:
        key = key_of(line.number, row.seq)
        if row.seq <= line.packed or key in indexed:
            entries.append((key, terms_of(row.message()).entries))
    try:
        with connection.begin_nested():
            if entries:
                tenant.db.backend.remove_terms(connection, entries)
    except DatabaseError:
        return False
    return True


def _remove_rows(connection: Connection, line: Line) -> None:
    low, high = key_of(line.number, 0), key_of(line.number, LAST_PLACE)
    for statement in _in_range:
        statement(connection, low=low, high=high)
    for statement in _of_branch:
        statement(connection, which=line.number)
