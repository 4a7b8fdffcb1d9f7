"""A summary with what is copied, and what its source does not say, marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tomtat.text import Details, details, word_spans, words
from tomtat.text.fragments import SourceIndex

SHORTEST_COPY = 3
"""Shorter runs of shared words are chance."""

Kind = Literal["plain", "copied", "unsupported"]


@dataclass(frozen=True)
class Piece:
    text: str
    kind: Kind
    about: str = ""


def mark(summary: str, source: str) -> list[Piece]:
    """The summary cut into pieces, in order; joined, their texts are the summary again."""
    kinds: list[tuple[Kind, str]] = [("plain", "")] * len(summary)
    spans = word_spans(summary)
    for fragment in SourceIndex(words(source)).fragments([word for word, _, _ in spans]):
        if fragment.length >= SHORTEST_COPY:
            start, end = spans[fragment.start][1], spans[fragment.start + fragment.length - 1][2]
            kinds[start:end] = [("copied", f"{fragment.length} words in a row stand in the source")] * (end - start)
    index = Details(source)
    for detail in details(summary, index):
        if not index.has(detail):
            about = f"this {detail.kind} does not stand in the source"
            kinds[detail.start : detail.end] = [("unsupported", about)] * (detail.end - detail.start)
    return _pieces(summary, kinds)


def _pieces(text: str, kinds: Sequence[tuple[Kind, str]]) -> list[Piece]:
    pieces: list[Piece] = []
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or kinds[place] != kinds[start]:
            pieces.append(Piece(text[start:place], *kinds[start]))
            start = place
    return pieces
