"""A store as rows, for JSON Lines: to back up, to move, to read elsewhere.

    {"tomtat_store": 1, "tenant": "default"}
    {"conversation": "chat-1", "branch": 0, "user": "ann", "created": 1764000000.0}
    {"turn": 1, "at": 1764000000.0, "message": {"role": "user", "content": "Hello"}}
    {"span": [1, 1], "kind": "summary", "version": 1, "value": "Ann says hello."}

Turns and spans belong to the branch named last. A branch's turns before its fork are its parent's, and stand there
only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, select

from tomtat.errors import StoreError
from tomtat.store import lines
from tomtat.store.appending import Outcome, Said, append, named, shape
from tomtat.store.database import Statement
from tomtat.store.deriving import attach, derived_from
from tomtat.store.lines import Stretch
from tomtat.store.schema import branches
from tomtat.store.tenant import Tenant
from tomtat.store.turns import as_turns, rows_of
from tomtat.store.values import Conflict, Imported, Span

FORMAT = 1
PAGE = 500

_names = Statement(
    select(branches.c.conversation)
    .where(branches.c.tenant == bindparam("tenant"), branches.c.branch == 0)
    .where(branches.c.conversation > bindparam("above"))
    .order_by(branches.c.conversation).limit(PAGE)
)  # fmt: skip


def names(tenant: Tenant) -> Iterator[str]:
    """Of all conversations; those that come while this goes on may be among them or not."""
    above = ""
    while True:
        with tenant.db.read() as connection:
            page = [row[0] for row in _names(connection, tenant=tenant.name, above=above)]
        yield from page
        if len(page) < PAGE:
            return
        above = page[-1]


def export(tenant: Tenant, wanted: Iterable[str], user: str | None) -> Iterator[dict[str, Any]]:
    """See `Store.export`."""
    yield {"tomtat_store": FORMAT, "tenant": tenant.name}
    for name in wanted:
        with tenant.db.read() as connection:
            all_lines = lines.all_of(connection, tenant.name, name)
            if user is not None and not any(line.user == user for line in all_lines):
                continue
            for branch, line in zip(lines.describe(all_lines), all_lines, strict=True):
                row = {"conversation": name, "branch": branch.branch, "user": branch.user, "created": branch.created}
                if branch.forked_from is not None:
                    row |= {"forked_from": branch.forked_from, "forked_after": branch.forked_after}
                yield row
                for first in range(line.fork + 1, line.last + 1, PAGE):
                    rows = rows_of(tenant, connection, Stretch(line, first, min(first + PAGE - 1, line.last)))
                    for turn in as_turns(rows, line.branch):
                        yield {"turn": turn.seq, "at": turn.at, "message": turn.message}
                of_all = derived_from(tenant, connection, line, None, 0, None)
                for one in [*of_all, *derived_from(tenant, connection, line, None, None, None)]:
                    if one.branch == line.branch:
                        yield {
                            "span": [one.span.first, one.span.last], "kind": one.kind, "version": one.version,
                            "value": one.value,
                        }  # fmt: skip


def import_rows(tenant: Tenant, rows: Iterable[dict[str, Any]], after_append: Callable[[Outcome], None]) -> Imported:
    """See `Store.import_`. Each page of turns is a transaction of its own, so that a stopped import is simply
    repeated."""
    reader = _Reader(tenant, after_append)
    for number, row in enumerate(rows, start=1):
        try:
            reader.take(row)
        except StoreError as error:
            raise StoreError(f"Row {number}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"Row {number} is not a row of a store: {error!r}.") from error
    reader.flush()
    if not reader.has_begun:
        raise StoreError("There is nothing to import: an export begins with a row that has tomtat_store in it.")
    return reader.imported


class _Reader:
    """Rows, one after the other, into a store. Places are given anew: where the export has a gap, ours has none."""

    def __init__(self, tenant: Tenant, after_append: Callable[[Outcome], None]) -> None:
        self._tenant, self._after_append = tenant, after_append
        self.has_begun = False
        self.imported = Imported(0, 0, 0, 0)
        self._name = ""
        self._user: str | None = None
        self._branch = 0
        self._there = 0
        """The branch as it is numbered here."""
        self._last = 0
        self._said: list[Said] = []
        self._seqs: list[int] = []
        self._places: dict[int, dict[int, int]] = {}
        """Of each branch of the export, where its turns are now."""
        self._branches: dict[int, int] = {}

    def take(self, row: dict[str, Any]) -> None:
        if "tomtat_store" in row:
            if row["tomtat_store"] != FORMAT:
                raise StoreError(f"This is an export of format {row['tomtat_store']}; this tomtat reads {FORMAT}.")
            self.has_begun = True
        elif not self.has_begun:
            raise StoreError("An export begins with a row that has tomtat_store in it.")
        elif "conversation" in row:
            self._begin(row)
        elif not self._name and ("turn" in row or "span" in row):
            raise StoreError("A turn or span stands after the conversation it belongs to, and none has come yet.")
        elif "turn" in row:
            self._said.append(shape([row["message"]])[0]._replace(at=float(row["at"])))
            self._seqs.append(int(row["turn"]))
            if len(self._said) >= PAGE:
                self.flush()
        elif "span" in row:
            self.flush()
            self._attach(row)
        else:
            raise StoreError(f"A row has none of conversation, turn and span: {', '.join(row) or 'it is empty'}.")

    def flush(self) -> None:
        if not self._name:
            return
        with self._tenant.db.write() as connection:
            outcome = append(
                self._tenant, connection, self._name, self._said, self._user, self._there, self._last, fork=True
            )  # fmt: skip
        self._after_append(outcome)
        done = outcome.appended
        self._there = self._branches[self._branch] = done.branch
        self._places[self._branch].update(zip(self._seqs, range(done.first, done.last + 1), strict=True))
        self._last = done.last
        known = len(self._said) - done.new
        self.imported = replace(self.imported, turns=self.imported.turns + done.new, known=self.imported.known + known)
        self._said, self._seqs = [], []

    def _begin(self, row: dict[str, Any]) -> None:
        self.flush()
        name, branch = named(row["conversation"], "conversation"), int(row["branch"])
        if name != self._name:
            self._places, self._branches = {}, {}
            self.imported = replace(self.imported, conversations=self.imported.conversations + 1)
        self._name, self._user, self._branch = name, row.get("user"), branch
        self._places[branch], self._there, self._last = {}, 0, 0
        if "forked_from" in row:
            parent = int(row["forked_from"])
            if parent not in self._branches:
                raise StoreError(
                    f"Branch {branch} of {name!r} was forked from branch {parent}, which does not stand before it."
                )
            self._places[branch] = {
                seq: place for seq, place in self._places[parent].items() if seq <= row["forked_after"]
            }
            self._last = max(self._places[branch].values(), default=0)
            self._there = self._branches[parent]

    def _attach(self, row: dict[str, Any]) -> None:
        first, last = row["span"]
        places = [place for seq, place in self._places[self._branch].items() if first <= seq <= last]
        is_of_all = first == last == 0
        if not (places or is_of_all):
            return
        span = Span(0, 0) if is_of_all else Span(min(places), max(places))
        try:
            with self._tenant.db.write() as connection:
                attach(
                    self._tenant, connection, self._name, span, named(row["kind"], "kind"), row["value"],
                    self._there, None,
                    version=int(row["version"]),
                )  # fmt: skip
        except Conflict:
            return  # what is here stays
        self.imported = replace(self.imported, derived=self.imported.derived + 1)
