"""What is odd about a row that can be used all the same: seldom an error for certain, often worth a look."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

from tomtat.evaluation.yardsticks import speakers
from tomtat.text import Details, details, language_of
from tomtat.types import Source

KINDS = {
    "no words": "no word in source or summary",
    "not shorter": "no shorter than its source",
    "beginning": "the beginning of its source",
    "repeated": "one summary, several sources",
    "number": "a number from nowhere",
    "name": "a name from nowhere",
    "language": "another language",
    "mixed": "two scripts",
    "one speaker": "turns of one speaker only",
}
"""Each kind in a few words; docs/data_check.md says more."""
OFTEN = 3
"""From so many rows on, one summary for different sources is odd."""
LANGUAGE_LETTERS = 2000
"""Of a source, so many characters say which language it is in."""
FEWEST_WORDS = 6
"""In a shorter summary letters don't tell the language: "OK, 3 pm" is any."""
_MIXED = 0.3
"""Each of two scripts has at least this share of a summary's letters; names and products stay below it."""
_SCRIPTS = {
    name: regex.compile(rf"[{names}]")
    for name, names in {
        "Latin": r"\p{Latin}",
        # Japanese and Chinese mix these as a matter of course.
        "Chinese or Japanese": r"\p{Han}\p{Hiragana}\p{Katakana}",
        "Cyrillic": r"\p{Cyrillic}",
        "Arabic": r"\p{Arabic}",
        "Hangul": r"\p{Hangul}",
        "Thai": r"\p{Thai}",
        "Devanagari": r"\p{Devanagari}",
        "Greek": r"\p{Greek}",
        "Hebrew": r"\p{Hebrew}",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Suspicion:
    kind: str
    """One of KINDS."""
    row: int
    """Number of the row in its split, from 0."""
    what: str
    """What was found: the number, the name, the two languages."""


@dataclass(frozen=True, slots=True)
class Look:
    """A row, taken apart once for all checks."""

    source: Source
    text: str
    words: Sequence[str]
    summary: str
    summary_words: Sequence[str]
    languages: tuple[str, str]
    """Of source and summary, ISO 639-1."""


def look(source: Source, text: str, words: Sequence[str], summary: str, summary_words: Sequence[str]) -> Look:
    languages = language_of([text[:LANGUAGE_LETTERS]]), language_of([summary])
    return Look(source, text, words, summary, summary_words, languages)


def suspicions(row: Look) -> Iterator[tuple[str, str]]:
    """Kind and what was found. What takes all rows to see (`repeated`) is not among them."""
    if not row.words or not row.summary_words:
        yield "no words", "summary" if row.words else "source"
        return
    size = len(row.summary_words)
    if size >= len(row.words):
        yield "not shorter", f"{size:,} words of {len(row.words):,}"
    elif size >= FEWEST_WORDS and list(row.words[:size]) == list(row.summary_words):
        yield "beginning", f"{size:,} words"
    yield from _from_nowhere(row)
    if row.languages[0] != row.languages[1] and size >= FEWEST_WORDS:
        yield "language", " / ".join(row.languages)
    elif mixed := _mixed_scripts(row.summary):
        yield "mixed", mixed
    if speakers(row.source) == 1 and _turns(row) > 1:
        yield "one speaker", f"{_turns(row)} turns"


def _from_nowhere(row: Look) -> Iterator[tuple[str, str]]:
    index = Details(row.text)
    strange = [detail for detail in details(row.summary, index) if not index.has(detail)]
    names = [detail for detail in strange if detail.kind == "name" and not _opens(row.summary, detail.start)]
    for kind, found in (
        ("number", [detail.text for detail in strange if detail.kind != "name"]),
        ("name", [detail.text for detail in names]),
    ):
        if found:
            yield kind, ", ".join(dict.fromkeys(found))


def _opens(text: str, start: int) -> bool:
    """A capital at the beginning of a sentence or a line says nothing, and half of them would be false alarms."""
    before = text[:start].rstrip(" \t\"'“‘(")
    return not before or before[-1] in ".!?:;\n…"


def _mixed_scripts(text: str) -> str | None:
    if text.isascii():
        return None
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS.items()}
    letters = sum(counts.values())
    found = [name for name, count in counts.items() if letters and count >= _MIXED * letters]
    return " and ".join(found) if len(found) > 1 else None


def _turns(row: Look) -> int:
    return row.text.count("\n") + 1 if isinstance(row.source, str) else len(row.source)
