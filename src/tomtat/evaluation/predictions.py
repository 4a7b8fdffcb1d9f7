"""Predictions made elsewhere: a JSON Lines file, joined to the references by `id`."""

import json
from collections.abc import Sequence, Set
from pathlib import Path

from tomtat.data.jsonl import read_rows
from tomtat.errors import DataError

FIELDS = ("prediction", "summary", "generated", "output")


def read_predictions(
    path: Path, ids: Sequence[str | int], field: str | None = None, left_out: Set[str] = frozenset()
) -> list[str]:
    """The predictions in the order of `ids`. Missing, doubled and extra ids are refused, and so is a row without one.

    An id's text counts: 7 and "7" are the same row. Those `left_out` among the references may be there.
    """
    found: dict[str, str] = {}
    for row in read_rows(path):
        place = f"{path}, line {row.line}"
        if row.problem or not isinstance(row.value, dict):
            raise DataError(f"{place}: {row.problem or 'not an object with id and prediction'}.")
        identifier, text = row.value.get("id"), _text(row.value, field, place)
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            raise DataError(f"{place}: no 'id'. Predictions are joined to their references by it.")
        if str(identifier) in found:
            raise DataError(f"{place}: the id {identifier!r} stands in the file already. One prediction a row.")
        found[str(identifier)] = text
    known = [str(identifier) for identifier in ids]
    missing = [identifier for identifier in known if identifier not in found]
    extra = sorted(set(found) - set(known) - left_out)
    if missing or extra:
        raise DataError(f"{path} does not fit the references: {_listing('no prediction for', missing, extra)}.")
    return [found[identifier] for identifier in known]


def _text(row: dict[str, object], field: str | None, place: str) -> str:
    name = field or next((name for name in FIELDS if name in row), None)
    if name is None or name not in row:
        wanted = repr(field) if field else "one of " + ", ".join(FIELDS)
        raise DataError(f"{place}: no field with the prediction ({wanted}; found {', '.join(map(str, row))}).")
    text = row[name]
    if not isinstance(text, str):
        raise DataError(f"{place}: {name!r} must be a text, found {json.dumps(text, ensure_ascii=False)[:60]}.")
    return text


def _listing(what: str, missing: list[str], extra: list[str]) -> str:
    parts = []
    for words, ids in ((what, missing), ("no reference for", extra)):
        if ids:
            shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
            parts.append(f"{words} {len(ids):,} id{'s' if len(ids) > 1 else ''} ({shown})")
    return " and ".join(parts)
