"""The index: which turns have which terms, and how often.

Neither database counts how often a term stands in a turn the way the other does, and one of them ranks by something
else than BM25. So the counts are terms themselves: a turn with "dog" three times is indexed under "dog", "dog~2" and
"dog~3". The index needs no positions then, which halves it, and both databases give the same counts. Between the
levels the count is rounded down: BM25 hardly tells six from seven.

Who speaks is a term too: a turn of Ann's has "ann~by".

New turns wait: a search reads the few that the index has not got yet itself, and every `BATCH` turns go into the index
at once. Done for each turn alone, indexing is most of what an append costs.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, select, text, update

from tomtat.store.database import Database, Ranges, Statement
from tomtat.store.messages import text_of
from tomtat.store.schema import place_of, turns
from tomtat.store.segments import Row
from tomtat.store.tenant import Tenant
from tomtat.text.terms import LONGEST_NUMBER, TERMS, terms
from tomtat.text.words import words

ANALYSIS = f"{TERMS}, text-2"
"""What an index was made by: the terms of a text, and which text of a message (`text_of`, raised when that changes)."""
LEVELS = (2, 3, 4, 6, 9, 14)
BATCH = 512

_waits = text("words IS NULL")  # the very words of the partial index, or SQLite does not use it
_waiting = Statement(
    select(turns.c.key, turns.c.at, turns.c.role, turns.c.content, turns.c.rest, turns.c.sealed)
    .where(_waits, turns.c.key.between(bindparam("low"), bindparam("high")))
    .order_by(turns.c.key)
)
_count_waiting = Statement(select(func.count()).select_from(turns).where(_waits))
_note_words = Statement(update(turns).where(turns.c.key == bindparam("which")).values(words=bindparam("words")))

EVERYTHING = (0, 2**63 - 1)


class Terms(NamedTuple):
    """A turn as the index sees it."""

    counts: Counter[str]
    speaker: str | None
    """The first word of the speaker's name."""

    @property
    def length(self) -> int:
        return self.counts.total()

    @property
    def entries(self) -> list[str]:
        """Each term once, once more for each level that its count reaches, and the speaker."""
        levels = [f"{term}~{level}" for term, count in self.counts.items() for level in LEVELS if count >= level]
        return [*self.counts, *levels, *([] if self.speaker is None else [by(self.speaker)])]


def terms_of(message: Mapping[str, Any]) -> Terms:
    name = message.get("name")
    spoken = words(name) if isinstance(name, str) else []
    return Terms(Counter(terms(text_of(message))), spoken[0][:LONGEST_NUMBER] if spoken else None)


def by(speaker: str) -> str:
    return f"{speaker}~by"


def rounded(count: int) -> int:
    """A count as the index knows it."""
    return max((level for level in LEVELS if level <= count), default=1)


def waiting_count(connection: Connection) -> int:
    return int(_count_waiting(connection)[0][0])


def index_waiting(db: Database, connection: Connection, ranges: Ranges = (EVERYTHING,)) -> int:
    """Put turns that wait into the index; how many. Sealed stores have no index: there nothing waits."""
    db.backend.lock(connection, "", "index")
    done = 0
    for low, high in ranges:
        rows = _waiting(connection, low=low, high=high)
        if rows:
            found = [(row[0], terms_of(_plain(row).message())) for row in rows]
            db.backend.add_terms(connection, [(key, its_terms.entries) for key, its_terms in found])
            _note_words.many(connection, [{"which": key, "words": its_terms.length} for key, its_terms in found])
        done += len(rows)
    return done


def waiting(tenant: Tenant, connection: Connection, ranges: Ranges) -> dict[int, Terms]:
    """Turns that the index hasn't got yet, by key."""
    found = {}
    for low, high in ranges:
        for row in _waiting(connection, low=low, high=high):
            found[row[0]] = tenant.found_terms.get(row[0], lambda row=row: terms_of(_plain(row).message()))  # type: ignore[misc]
    return found


def _plain(row: Any) -> Row:
    key, at, role, content, rest, _ = row
    return Row(place_of(key)[1], at, role, content, rest if rest is None else json.loads(rest))
