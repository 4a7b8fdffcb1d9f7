"""Checking: every row read and compared with its checksum, its chain and the index; what is damaged set aside on
request.

A segment's frame has a checksum, a sealed row its tag, and the chain goes through every turn: a flipped bit in a row's
text shows as a chain that doesn't follow, and only there, for the next row's chain starts from what this row says its
own is.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from tomtat.store.database import Database, Statement
from tomtat.store.deriving import DERIVED_COLUMNS, DerivedRow
from tomtat.store.deriving import opened as open_derived
from tomtat.store.facts import fact
from tomtat.store.index import terms_of
from tomtat.store.lines import Line, numbered
from tomtat.store.messages import START, canonical
from tomtat.store.schema import LAST_PLACE, branches, column_names, damaged, derived, key_of, place_of, segments, turns
from tomtat.store.segments import Row, unpack
from tomtat.store.tenant import Tenant, since_1970
from tomtat.store.turns import Segment, chain_at, open_row, segment_place
from tomtat.store.values import Damaged, Finding, Health

_every_branch = Statement(select(branches.c.number, branches.c.tenant).order_by(branches.c.number))
_rows = select(turns).where(turns.c.key.between(bindparam("low"), bindparam("high"))).order_by(turns.c.key)
_segments = Statement(
    select(segments.c.key, segments.c.last, segments.c.chain, segments.c.body)
    .where(segments.c.key.between(bindparam("low"), bindparam("high"))).order_by(segments.c.key)
)  # fmt: skip
_derived = Statement(select(*DERIVED_COLUMNS).where(derived.c.number == bindparam("number")))
_set_aside = Statement(insert(damaged).values({name: bindparam(name) for name in column_names(damaged)}))
_is_aside = Statement(
    select(damaged.c.key, damaged.c.last).where(
        damaged.c.home != "derived", damaged.c.key.between(bindparam("low"), bindparam("high"))
    )
)
_remove_row = Statement(delete(turns).where(turns.c.key == bindparam("which")))
_remove_segment = Statement(delete(segments).where(segments.c.key == bindparam("which")))
_remove_derived = Statement(
    delete(derived).where(
        derived.c.number == bindparam("which"), derived.c.last == bindparam("end"),
        derived.c.first == bindparam("begin"), derived.c.kind == bindparam("sort"),
    )
)  # fmt: skip
_mend_end = Statement(
    update(branches)
    .where(branches.c.number == bindparam("which"))
    .values(last=bindparam("end"), chain=bindparam("chain"))
)

BATCH = 1000


def check(db: Database, as_tenant: Callable[[str], Tenant], repair: bool) -> Health:
    """See `Store.check`."""
    with db.write() if repair else db.read() as connection:
        findings = [Finding(None, None, None, None, what) for what in db.backend.integrity(connection)]
        count, expected = 0, Counter[str]()
        for number, name in _every_branch(connection):
            walk = _Walk(as_tenant(name), connection, numbered(connection, number), repair)
            for row in walk.rows():
                count += 1
                if walk.is_indexed(row):
                    expected.update(terms_of(row.message()).entries)
            walk.check_derived()
            findings += walk.findings
        if dict(db.backend.term_counts(connection)) != expected:
            findings.append(_index_is_wrong(db, connection, repair))
    return Health(count, tuple(findings))


def rebuild_index(db: Database, connection: Connection) -> None:
    """An index of every turn that can be read, in place of the one there is."""
    db.backend.create_index(connection)
    if fact(connection, "key") not in (None, "none"):
        return
    entries: list[tuple[int, list[str]]] = []
    for number, name in _every_branch(connection):
        walk = _Walk(Tenant(db, name, None), connection, numbered(connection, number), repair=False)
        for row in walk.rows():
            if walk.is_indexed(row):
                entries.append((key_of(number, row.seq), terms_of(row.message()).entries))
        if len(entries) >= BATCH:
            db.backend.add_terms(connection, entries)
            entries = []
    if entries:
        db.backend.add_terms(connection, entries)


def _index_is_wrong(db: Database, connection: Connection, repair: bool) -> Finding:
    if repair:
        rebuild_index(db, connection)
    return Finding(
        None, None, None, None, "the index does not have what the turns have", "made anew" if repair else None
    )


class _Walk:
    """Through one branch, turn by turn, with the chain."""

    def __init__(self, tenant: Tenant, connection: Connection, line: Line, repair: bool) -> None:
        self._tenant, self._connection, self._line, self._repair = tenant, connection, line, repair
        self._low, self._high = key_of(line.number, 0), key_of(line.number, LAST_PLACE)
        self._waiting: set[int] = set()
        self.findings: list[Finding] = []

    def is_indexed(self, row: Row) -> bool:
        return not self._tenant.is_sealed and row.seq not in self._waiting

    def rows(self) -> Iterator[Row]:
        """All turns that can be read. What can't is a finding."""
        line = self._line
        chain, last = self._start(), line.fork
        aside = {
            seq
            for key, end in _is_aside(self._connection, low=self._low, high=self._high)
            for seq in range(place_of(key)[1], end + 1)
        }
        for key, end, its_chain, body in _segments(self._connection, low=self._low, high=self._high):
            first = place_of(key)[1]
            found = self._segment(
                Segment(key, end, bytes(its_chain), bytes(body)), chain if first == last + 1 else None
            )
            self._find_gap(last, first, aside)
            yield from found
            chain, last = bytes(its_chain), end
        for row in self._connection.execute(_rows, {"low": self._low, "high": self._high}).all():
            seq = place_of(row.key)[1]
            self._find_gap(last, seq, aside)
            opened = self._row(row, chain if seq == last + 1 else None)
            if opened is not None:
                if row.words is None:
                    self._waiting.add(seq)
                yield opened
            chain, last = bytes(row.chain), seq
        self._find_gap(last, line.last + 1, aside)
        if last > line.last or (last == line.last and chain != line.chain):
            self._note(last, last, "the branch's end does not fit its last turn", "taken from the turn")
            if self._repair:
                _mend_end(self._connection, which=line.number, end=last, chain=chain)

    def check_derived(self) -> None:
        for row in map(DerivedRow._make, _derived(self._connection, number=self._line.number)):
            try:
                open_derived(self._tenant, row, self._line)
            except Damaged:
                self._note(row.first, row.last, f"its {row.kind} can't be read", "set aside")
                if self._repair:
                    key = key_of(self._line.number, row.first)
                    self._aside("derived " + row.kind, key, row.last, "unreadable", bytes(row.value))
                    _remove_derived(self._connection, which=row.number, end=row.last, begin=row.first, sort=row.kind)

    def _start(self) -> bytes | None:
        """The chain before the branch's own first turn; None where it can't be known."""
        if not self._line.fork:
            return START
        try:
            return chain_at(self._tenant, self._connection, self._line, self._line.fork)
        except Damaged:
            return None

    def _segment(self, segment: Segment, chain: bytes | None) -> list[Row]:
        first = place_of(segment.key)[1]
        try:
            rows = unpack(self._tenant.open(segment.body, segment_place(segment.key)))
            is_whole = len(rows) == segment.last - first + 1
            if chain is not None and is_whole and self._follow(chain, rows) != segment.chain:
                raise Damaged("their chain does not follow")
            return rows
        except Damaged as damage:
            self._note(first, segment.last, f"turns can't be read: {damage}", "set aside")
            if self._repair:
                self._aside("segments", segment.key, segment.last, str(damage), segment.body)
                _remove_segment(self._connection, which=segment.key)
            return []

    def _row(self, row: Any, chain: bytes | None) -> Row | None:
        seq = place_of(row.key)[1]
        try:
            opened = open_row(
                self._tenant, (row.key, row.at, row.role, row.content, row.rest, row.sealed), self._line.conversation
            )
            if chain is not None and self._follow(chain, [opened]) != bytes(row.chain):
                raise Damaged("its chain does not follow")
            return opened
        except (Damaged, ValueError, TypeError, AttributeError) as damage:
            self._note(seq, seq, f"the turn can't be read: {damage}", "set aside")
            if self._repair:
                content = (
                    row.sealed
                    if row.sealed is not None
                    else json.dumps([row.role, str(row.content), str(row.rest)]).encode()
                )
                self._aside("turns", row.key, seq, str(damage), bytes(content))
                _remove_row(self._connection, which=row.key)
            return None

    def _follow(self, chain: bytes, rows: list[Row]) -> bytes:
        return self._tenant.chains(chain, [canonical(row.message()) for row in rows])[-1]

    def _find_gap(self, last: int, following: int, aside: set[int]) -> None:
        missing = [seq for seq in range(last + 1, following) if seq not in aside]
        if missing:
            self._note(missing[0], missing[-1], "turns are missing", "noted as lost")
            if self._repair:
                self._aside("missing", key_of(self._line.number, missing[0]), missing[-1], "missing", None)

    def _aside(self, home: str, key: int, last: int, why: str, data: bytes | None) -> None:
        _set_aside(self._connection, home=home, key=key, last=last, at=since_1970(time.time()), why=why, bytes=data)

    def _note(self, first: int, last: int, what: str, repaired: str) -> None:
        self.findings.append(
            Finding(self._line.conversation, self._line.branch, first, last, what, repaired if self._repair else None)
        )
