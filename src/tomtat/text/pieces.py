"""A long text cut into pieces that fit, at the best places there are: every character stands in exactly one piece."""

import math
import re
from collections.abc import Callable, Iterator

from sentencex import segment

Count = Callable[[str], int]

_LINES = re.compile(r".*?(?:\n+|\Z)", re.DOTALL)
_WORDS = re.compile(r"\s*\S+\s*")


def pieces(text: str, count: Count, limit: int) -> list[str]:
    """Pieces of about the same length, each of at most `limit` by `count`; together they are the text.

    Cuts fall between lines (a chat's turns, an article's paragraphs), else between sentences, words, characters.
    """
    if limit < 1:
        raise ValueError(f"a limit of {limit} leaves nothing to read")
    total = count(text)
    if total <= limit:
        return [text]
    units = list(_units(text, count, limit, 0))
    sizes = [count(unit) for unit in units]
    # Alike in length, so that none is left over so short that it says nothing.
    target = sum(sizes) / math.ceil(sum(sizes) / limit)
    found, size = [""], 0
    for unit, unit_size in zip(units, sizes, strict=True):
        is_full = size + unit_size / 2 > target or size + unit_size > limit
        if found[-1] and is_full:
            found.append("")
            size = 0
        found[-1] += unit
        size += unit_size
    # Tokens may differ where units meet, so the pieces are counted as they will be read.
    return [part for piece in found for part in ([piece] if count(piece) <= limit else _halves(piece, count, limit))]


def _halves(piece: str, count: Count, limit: int) -> list[str]:
    return pieces(piece, count, max(1, min(limit - 1, math.ceil(count(piece) / 2))))


_CUTS: tuple[Callable[[str], list[str]], ...] = (
    lambda text: [match[0] for match in _LINES.finditer(text) if match[0]],
    lambda text: _sentences(text),
    lambda text: [match[0] for match in _WORDS.finditer(text)] or [text],
    list,
)


def _units(text: str, count: Count, limit: int, level: int) -> Iterator[str]:
    """The largest parts that fit: lines, of those too long their sentences, of those too long their words."""
    for part in _CUTS[level](text):
        if count(part) <= limit or level == len(_CUTS) - 1:
            yield part
        else:
            yield from _units(part, count, limit, level + 1)


def _sentences(text: str) -> list[str]:
    """As sentencex finds them, with what stands between them at the end of each."""
    starts, place = [0], 0
    for sentence in segment("en", text):
        words = sentence.strip()
        found = text.find(words, place) if words else -1
        if found > starts[-1]:
            starts.append(found)
        place = max(place, found + len(words))
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
