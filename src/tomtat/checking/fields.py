"""Which columns hold the text and its summary, where their names don't tell: the longest text, and what sums it up."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tomtat.text import words

_ALWAYS = 0.9
"""A column counts if at least this part of the rows has a text in it."""
_NAMED = re.compile(
    r"summar|abstract|highlight|tl_?;?dr|recap|gist|minutes|synopsis|headline|title|short|target|output|label",
    re.IGNORECASE,
)
_FEWEST_WORDS = 3
"""On average: what has fewer is a name, a date or a class."""


def guess_fields(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Names of the columns with text and summary, by what stands in them; None where that can't be told."""
    columns = {name: found for name in _names(rows) if (found := _texts(rows, name)) is not None}
    if len(columns) < 2:
        return None
    sizes = {name: sum(len(words(text)) for text in texts) / len(texts) for name, texts in columns.items()}
    source = max(sizes, key=lambda name: sizes[name])
    others = [name for name in columns if name != source and _FEWEST_WORDS <= sizes[name] < 0.8 * sizes[source]]
    if not others:
        return None
    summary = max(others, key=lambda name: (_NAMED.search(name) is not None, _shared(columns[name], columns[source])))
    return source, summary


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _texts(rows: Sequence[Mapping[str, Any]], name: str) -> list[str] | None:
    """Row by row, empty where there is none; None where too few rows have one."""
    texts = [value if isinstance(value := row.get(name), str) else "" for row in rows]
    return texts if sum(bool(text.strip()) for text in texts) >= _ALWAYS * len(rows) else None


def _shared(summaries: Sequence[str], sources: Sequence[str]) -> float:
    """Of the words of one column, the share that stands in the other, row by row."""
    pairs = [(set(words(summary)), set(words(source))) for summary, source in zip(summaries, sources, strict=True)]
    total = sum(len(summary) for summary, _ in pairs)
    return sum(len(summary & source) for summary, source in pairs) / total if total else 0.0
