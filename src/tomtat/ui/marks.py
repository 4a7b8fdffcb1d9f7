"""A summary as HTML: what it copies and what its source does not say, marked; which facts it kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tomtat.evaluation.marks import Piece, mark
from tomtat.text import Details, details

LONGEST = 40
"""Facts of a kind that are listed; beyond, how many more there are."""
KINDS = (("name", "Names"), ("number", "Numbers"), ("date", "Days, dates and times"))

LEGEND = (
    '<p class="tt-legend"><span><span class="tt-copied">copied</span> three words or more in a row</span> '
    '<span><span class="tt-invented">not in the source</span> a name, number or date that it does not say</span></p>'
)


def marked(summary: str, source: str) -> str:
    return "".join(map(_piece, mark(summary, source)))


def _piece(piece: Piece) -> str:
    words = escape(piece.text)
    if piece.kind == "plain":
        return words
    about = escape(piece.about, quote=True)
    if piece.kind == "copied":
        return f'<span class="tt-copied" title="{about}">{words}</span>'
    # Told in words to those who don't see the mark.
    return f'<mark class="tt-invented" title="{about}">{words}<span class="tt-unseen"> ({about})</span></mark>'


@dataclass(frozen=True)
class Fact:
    kind: str
    text: str
    is_kept: bool


def facts(summary: str, source: str) -> list[Fact]:
    """The source's names, numbers and dates, each once, in the order in which they stand."""
    in_summary = Details(summary)
    found: dict[tuple[str, str], Fact] = {}
    for one in details(source, Details(source)):
        found.setdefault((one.kind, one.text.lower()), Fact(one.kind, one.text, in_summary.has(one)))
    return list(found.values())


def facts_html(found: Sequence[Fact]) -> str:
    if not found:
        return '<p class="tt-note">The source has no names, numbers or dates to keep.</p>'
    kept = sum(fact.is_kept for fact in found)
    lists = "".join(_of_kind(label, [fact for fact in found if fact.kind == kind]) for kind, label in KINDS)
    told = f"Keeps {kept} of the source's {len(found)} names, numbers and dates"
    return f"<details><summary>{told}</summary>{lists}</details>"


def _of_kind(label: str, found: Sequence[Fact]) -> str:
    if not found:
        return ""
    kept = [fact for fact in found if fact.is_kept]
    lost = [fact for fact in found if not fact.is_kept]
    return f"<h4>{label}</h4>" + _line("kept", kept) + _line("lost", lost)


def _line(what: str, found: Sequence[Fact]) -> str:
    if not found:
        return ""
    shown = " ".join(f'<span class="tt-fact">{escape(fact.text)}</span>' for fact in found[:LONGEST])
    more = f" and {len(found) - LONGEST} more" if len(found) > LONGEST else ""
    return f'<p class="tt-facts tt-{what}"><b>{what}</b> {shown}{more}</p>'
