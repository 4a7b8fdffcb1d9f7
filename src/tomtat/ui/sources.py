"""What a reader brings to be summarized: an example of ours, or a file."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tomtat.data.loading import BUNDLED, BUNDLED_LONG, DataOptions, load
from tomtat.errors import DataError
from tomtat.prompts import source_text
from tomtat.types import Example, Source

WITH_ROWS = (".json", ".jsonl", ".ndjson")
"""Files that are read as data; any other is a text."""
SHORT = "test"
"""Its conversations no recipe trains on, so that nothing tuned here has read them."""


@dataclass(frozen=True)
class Brought:
    text: str
    """As a summarizer reads it."""
    note: str
    """What it is, for the reader."""


@cache
def topics(split: str) -> Mapping[str, str]:
    """Ids and labels of the bundled conversations, as a list of examples shows them."""
    rows = [json.loads(line) for line in _lines(split)]
    return {row["id"]: f"{row['topic']} ({len(row['messages'])} turns, {row['language']})" for row in rows}


def short_example(identifier: str) -> Brought:
    (example,) = [one for one in load(f"{BUNDLED}@{SHORT}", DataOptions(needs_summary=False)).examples
                  if one.id == identifier]  # fmt: skip
    return Brought(source_text(example.source), f"An example of ours: {describe(example.source)}.")


def long_example(identifier: str) -> list[dict[str, Any]]:
    """Its messages in OpenAI's shape."""
    rows = (json.loads(line) for line in _lines(BUNDLED_LONG))
    found = next(row["messages"] for row in rows if row["id"] == identifier)
    return [{name: value for name, value in message.items() if name != "id"} for message in found]


def from_file(path: Path) -> Brought:
    """The first text or conversation of a file.

    Raises: DataError for what can't be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        # By a name that no part of can be taken for a split or a slice.
        ending = path.suffix.lower()
        plain = Path(folder, f"source{ending if ending in WITH_ROWS else '.txt'}")
        plain.write_bytes(path.read_bytes())
        examples = _loaded(plain, path.name)
    first = examples[0]
    others = f" The first of {len(examples):,} rows; tomtat summarize takes them all." if len(examples) > 1 else ""
    return Brought(source_text(first.source), f"{path.name}: {describe(first.source)}.{others}")


def _loaded(path: Path, name: str) -> list[Example]:
    if path.suffix == ".txt":
        text = _decoded(path.read_bytes(), name)
        if not text.strip():
            raise DataError(f"{name} is empty.")
        return [Example("1", text.strip())]
    try:
        return load(str(path), DataOptions(needs_summary=False, on_bad_row="skip")).examples
    except DataError as error:
        # Where it lay for a moment is nothing to tell.
        raise DataError(str(error).replace(str(path), name)) from None


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 (byte {error.start}). Save it as UTF-8, or paste its text.") from None


def describe(source: Source) -> str:
    words = len(source_text(source).split())
    return f"{words:,} words" if isinstance(source, str) else f"{len(source):,} turns, {words:,} words"


def _lines(split: str) -> list[bytes]:
    return (files("tomtat.data") / BUNDLED / f"{split}.jsonl").read_bytes().splitlines()
