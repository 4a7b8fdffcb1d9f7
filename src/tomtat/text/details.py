"""Numbers, names and dates of a text: what a summary must not invent, and what can be looked up without a model.

Rules, not a model: names are capitalised words, so they are found in English and other languages that capitalise
names only. A word that is capitalised because it opens a sentence counts as a name unless it is a usual opener or
stands in small letters in the source.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tomtat.text.words import words

Kind = Literal["number", "name", "date"]


@dataclass(frozen=True)
class Detail:
    kind: Kind
    text: str
    start: int
    end: int


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_SMALL)} | {
    word: str(10 * value)
    for value, word in enumerate("thirty forty fifty sixty seventy eighty ninety hundred".split(), start=3)
}
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_MONTHS = "january february march april may june july august september october november december".split()
_SHORT = {name[:3]: name for name in [*_DAYS, *_MONTHS]} | {
    "tues": "tuesday",
    "thur": "thursday",
    "thurs": "thursday",
    "sept": "september",
}
_RELATIVE = ("today", "tonight", "tomorrow", "yesterday")
# "may", "march", "sun" and "sat" are words too: they count as dates only with a capital, and not as openers.
_DATE_WORDS = {*_DAYS, *_MONTHS, *_SHORT, *_RELATIVE}

_TIME_OR_DATE = re.compile(r"(?<!\d)(?:\d{4}-\d{2}-\d{2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|\d{1,2}:\d{2})(?!\d)")
# Digits inside a word belong to it: "Person1" is a name, "B12" no number.
_NUMBER = re.compile(r"(?<![A-Za-z\u00c0-\u024f\d_])\d+(?:[.,]\d+)*")
_WORD = re.compile(r"(?<!\w)[^\W\d_]\w*(?:['’-]\w+)*")
_SENTENCE_ENDS = ".!?:\n\"'“”‘’(«»*-–—•"

OPENERS = frozenset(
    """a about above according across after afterwards again against all almost along already also although always am
    among an and another any anyone anything apparently are as at back be because been before being below besides best
    better between both but by can cannot could currently despite did do does doing don't down during each either else
    even eventually every everyone everything except few finally first following for from further given had has have
    having he hello her here hers hi him his how however i i'd i'll i'm i've if in indeed initially instead into is it
    it's its just last later least less let let's like many maybe me meanwhile more moreover most much must my near
    neither never new next no nobody none nor not nothing now of off often oh ok okay on once one only or other others
    otherwise our out over overall perhaps please previously quite rather really recently right same second several
    shall she should since so some someone something sometimes soon still such sure take thank thanks that that's the
    their them then there there's therefore these they they're third this those though through thus to together too
    towards under unfortunately unless unlike until up upon us very was we we'll well were what when where whether which
    while who whose why will with within without would yes yesterday yet you you're your people person man woman men
    women users user assistant customer agent doctor patient police officials experts researchers report
    reports study two three four five""".split()
)


def details(text: str, source: "Details | None" = None) -> list[Detail]:
    """Numbers, names and dates in the order in which they stand. `source` says which openers are ordinary words."""
    found = [Detail("date", match[0], *match.span()) for match in _TIME_OR_DATE.finditer(text)]
    taken = [(detail.start, detail.end) for detail in found]
    for match in _NUMBER.finditer(text):
        if not any(start <= match.start() < end for start, end in taken):
            found.append(Detail("number", match[0], *match.span()))
    for match in _WORD.finditer(text):
        if kind := _kind(match[0], _opens_sentence(text, match.start()), source):
            found.append(Detail(kind, match[0], *match.span()))
    return sorted(found, key=lambda detail: detail.start)


def _kind(word: str, opens: bool, source: "Details | None") -> Kind | None:
    small = word.lower()
    base = re.sub(r"['’]s$", "", small)
    if _spelled(small):
        return "number" if small != "one" else None  # "one of them" counts nothing
    if base in _RELATIVE or (
        base in _DATE_WORDS and word[0].isupper() and not (opens and base in ("may", "march", "sun", "sat"))
    ):
        return "date"
    if not word[0].isupper() or len(word) < 2 or small in OPENERS or base in OPENERS:
        return None
    if opens and (source is None or base in source.small_words or base.endswith(("ing", "ly"))):
        return None
    return "name"


def _opens_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \t")
    return not before or before[-1] in _SENTENCE_ENDS


class Details:
    """A source, indexed for the question whether a detail of its summary stands in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def small_words(self) -> frozenset[str]:
        """Words that stand in small letters somewhere."""
        return frozenset(word for word in set(_WORD.findall(self.text)) if word.islower())

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(words(self.text))

    @cached_property
    def _numbers(self) -> frozenset[str]:
        spelled = {number for word in _WORD.findall(self.text.lower()) if (number := _spelled(word))}
        return frozenset({_plain_number(match) for match in _NUMBER.findall(self.text)} | spelled)

    @cached_property
    def _dates(self) -> frozenset[str]:
        return frozenset(_TIME_OR_DATE.findall(self.text)) | {_full(word) for word in self._words}

    def has(self, detail: Detail) -> bool:
        """Whether the source says the same: numbers in digits or words, dates and names by their words."""
        small = detail.text.lower()
        if detail.kind == "number":
            return (_spelled(small) or _plain_number(detail.text)) in self._numbers
        if detail.kind == "date":
            return detail.text in self._dates or _full(re.sub(r"['’]s$", "", small)) in self._dates
        return all(word in self._words for word in words(re.sub(r"['’]s$", "", detail.text)))


def _spelled(word: str) -> str | None:
    """Digits of a number in words: "three" and "thirty-five", but not "three hundred"."""
    tens, _, ones = word.partition("-")
    if ones:
        both = _NUMBER_WORDS.get(tens), _NUMBER_WORDS.get(ones)
        is_number = both[0] and both[1] and len(both[0]) == 2 and both[0].endswith("0") and len(both[1]) == 1
        return str(int(both[0] or 0) + int(both[1] or 0)) if is_number else None
    return _NUMBER_WORDS.get(word)


def stands_in(phrase: str, text: str) -> bool:
    """Whether a phrase stands in a text as it is, but for case and blanks; "12" does not stand in "112"."""
    wanted, whole = (" ".join(part.casefold().split()) for part in (phrase, text))
    before = r"(?<![a-z0-9])" if wanted[:1].isascii() and wanted[:1].isalnum() else ""
    after = r"(?![a-z0-9])" if wanted[-1:].isascii() and wanted[-1:].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, whole) is not None


def _plain_number(text: str) -> str:
    """1,000 and 1000 are the same; 1.50 and 1.5 are left apart, as prices and versions want it."""
    return re.sub(r",(?=\d{3}(?:\D|$))", "", text)


def _full(word: str) -> str:
    return _SHORT.get(word, word)
