"""Drafts as a table that people edit where they like, and the decisions read back from it.

key,id,status,decision,summary,reasons,chat
9f3c...,chat-7,review,,Ann moves it to 3 pm.,number from nowhere: 3,"User: Hello ..."

In `decision` stands accept or reject, or nothing; a changed `summary` is a correction, and needs no decision. The other
columns are there to read. CSV and TSV as spreadsheets write them, or JSON Lines with the same names.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomtat.data.jsonl import read_rows
from tomtat.errors import DataError
from tomtat.files import write_text
from tomtat.labelling.drafts import Draft, decided, drafts_of, keep_decisions
from tomtat.labelling.journal import Journal

COLUMNS = ("key", "id", "status", "decision", "summary", "reasons", "chat")
JSON_LINES = (".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
MOST_OF_CHAT = 30_000
"""Characters of a chat in a table: spreadsheets take 32,767 in a cell, and tear the rest."""
MOST_TOLD = 5
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula: such a text gets an apostrophe in front, and loses it
again."""

ACCEPTS = frozenset("accept accepted a yes y ok x 1 true".split())
REJECTS = frozenset("reject rejected r no n 0 false".split())
NOTHING = frozenset(("", "review", "passed", "skip"))


@dataclass(frozen=True)
class Applied:
    accepted: int = 0
    corrected: int = 0
    rejected: int = 0
    unchanged: int = 0
    """Rows without a decision, or with the one that was taken already."""


def write_sheet(path: Path, drafts: Sequence[Draft]) -> None:
    """By the name's ending: .csv, .tsv or .jsonl.

    Raises: DataError for another ending.
    """
    rows = [_row(draft) for draft in drafts]
    if path.suffix in JSON_LINES:
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    if path.suffix not in DELIMITERS:
        raise DataError(f"{path}: name it .csv, .tsv or .jsonl, which says what it will be.")
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, delimiter=DELIMITERS[path.suffix], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(text) for name, text in row.items()} for row in rows)
    # With a byte order mark, by which spreadsheets know that it is UTF-8.
    write_text(path, "\ufeff" + out.getvalue())


def _row(draft: Draft) -> dict[str, str]:
    chat = draft.source_text
    if len(chat) > MOST_OF_CHAT:
        chat = f"{chat[:MOST_OF_CHAT]} [... {len(chat) - MOST_OF_CHAT:,} more characters]"
    values = (
        draft.key,
        ", ".join(str(row.id) for row in draft.chats),
        draft.status,
        draft.decision or "",
        draft.accepted,
        "; ".join(draft.reasons),
        chat,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _cell(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) or text[:1] == "'" else text


def _uncell(text: str) -> str:
    return text[1:] if text[:1] == "'" and text[1:2] in (*_FORMULA, "'") else text


def apply_sheet(path: Path, journal: Journal) -> Applied:
    """Take the decisions of a table: all of them, or none where a row can't be read.

    Raises: DataError with the rows that can't be read.
    """
    drafts = drafts_of(journal.events)
    wanted, problems = [], []
    for place, row in _rows(path):
        try:
            wanted.append(_decision(row, drafts))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        more = f"; and {len(problems) - MOST_TOLD:,} more" if len(problems) > MOST_TOLD else ""
        raise DataError(f"{path}: {'; '.join(problems[:MOST_TOLD])}{more}. Nothing was taken from it.")
    new = [after for before, after in wanted if after != before]
    keep_decisions(journal, new)
    counts = Counter(draft.decision for draft in new)
    return Applied(counts["accepted"], counts["corrected"], counts["rejected"], len(wanted) - len(new))


def _decision(row: Mapping[str, str], drafts: Mapping[str, Draft]) -> tuple[Draft, Draft]:
    """A row's draft before and after.

    Raises: ValueError with what is wrong with the row.
    """
    draft = drafts.get(row["key"])
    if draft is None:
        raise ValueError(f"there is no draft with the key {row['key']!r}")
    said, summary = row.get("decision", "").strip().lower(), row["summary"].replace("\r\n", "\n").strip()
    known = {attempt.text for attempt in draft.attempts} | {draft.accepted}
    if said in REJECTS:
        return draft, decided(draft, "rejected")
    if said in ACCEPTS or said == "corrected":
        if not summary:
            raise ValueError("an empty summary can't be accepted")
        return draft, decided(draft, "corrected", summary)
    if said not in NOTHING:
        raise ValueError(f"{said!r} is no decision: write accept or reject, or nothing")
    return draft, decided(draft, "corrected", summary) if summary and summary not in known else draft


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each row with its place; all its values are texts."""
    if path.suffix in JSON_LINES:
        for row in read_rows(path):
            value = row.value
            if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("key", "summary")):
                raise DataError(f"{path}, line {row.line}: {row.problem or 'no key and summary as texts'}.")
            yield f"line {row.line}", {name: text for name, text in value.items() if isinstance(text, str)}
        return
    reader = _table(path)
    try:
        for found in reader:
            values = {name: _uncell(text) for name, text in found.items() if name and isinstance(text, str)}
            if any(values.values()):
                yield f"line {reader.line_num}", {"key": "", "summary": "", **values}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is no row of a table: {error}.") from None


def _table(path: Path) -> "csv.DictReader[str]":
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as CSV UTF-8.") from None
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    for delimiter in (",", ";", "\t"):
        # Spreadsheets write their country's delimiter, whatever was read.
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        if {"key", "summary"} <= set(reader.fieldnames or ()):
            return reader
    raise DataError(
        f"{path} has no columns named key and summary in its first line. Keep those of label review --sheet."
    )
