"""From a data specification to examples, with every row accounted for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tomtat.data.hub import open_hub_rows
from tomtat.data.jsonl import Row, parse_lines, read_rows
from tomtat.data.rows import BadRow, to_example
from tomtat.data.slices import Spec, parse_spec
from tomtat.errors import ConfigError, DataError
from tomtat.types import Example

BUNDLED = "chats"
BUNDLED_SPLITS = ("train", "validation", "test")
FILE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")


@dataclass(frozen=True)
class DataOptions:
    source_field: str | None = None
    summary_field: str | None = None
    needs_summary: bool = True
    on_bad_row: str = "stop"
    or_usual: bool = False
    """The usual field names serve too where a row has not the asked-for ones: for data other than a run's own."""

    def __post_init__(self) -> None:
        if self.on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"--on-bad-row {self.on_bad_row}: choose stop or skip.")


@dataclass(frozen=True)
class Reject:
    """A row that was left out, and why; rejects files hold one a line."""

    where: str
    reason: str
    row: str
    """As it stands in its file, or as JSON where it comes from a hub."""


@dataclass(frozen=True)
class Loaded:
    examples: list[Example]
    rejects: list[Reject]


def load_examples(spec: str, needs_summary: bool = True) -> list[Example]:
    """Examples of a file, a hub data set or the bundled conversations (`chats@test`); any bad row is a DataError."""
    return load(spec, DataOptions(needs_summary=needs_summary)).examples


def load(text: str, options: DataOptions) -> Loaded:
    """Examples that a specification names, and the rows that `on_bad_row="skip"` left out."""
    spec = parse_spec(text)
    rows, place = _rows(spec)
    numbers = spec.rows(len(rows), text) if spec.is_sliced else range(len(rows))
    chosen = [rows[number] for number in numbers]
    loaded = parse_rows(chosen, place, options)
    if not loaded.examples:
        first = loaded.rejects[0]
        raise DataError(f"{text}: no usable row among {len(chosen):,}. The first: {first.where}: {first.reason}.")
    return loaded


def parse_rows(rows: list[Row], place: str, options: DataOptions) -> Loaded:
    examples: list[Example] = []
    rejects: list[Reject] = []
    line_of: dict[str | int, int] = {}
    for row in rows:
        example = example_or_reject(row, place, options)
        if isinstance(example, Example) and example.id in line_of:
            example = reject_doubled(row, example, line_of[example.id], place)
        if isinstance(example, Reject):
            if options.on_bad_row == "stop":
                raise bad_row_error(example)
            rejects.append(example)
        else:
            line_of[example.id] = row.line
            examples.append(example)
    return Loaded(examples, rejects)


def example_or_reject(row: Row, place: str, options: DataOptions) -> Example | Reject:
    """What a row holds, or why it can't be used. Whether its id is doubled, who sees all rows must see."""
    try:
        return _example(row, options)
    except BadRow as error:
        return Reject(f"{place}, line {row.line}", str(error), row.raw)


def reject_doubled(row: Row, example: Example, first_line: int, place: str) -> Reject:
    reason = f"the id {example.id!r} stands in line {first_line} already. Ids must differ"
    return Reject(f"{place}, line {row.line}", reason, row.raw)


def bad_row_error(reject: Reject) -> DataError:
    return DataError(f"{reject.where}: {reject.reason}. (--on-bad-row skip leaves such rows out.)")


def _example(row: Row, options: DataOptions) -> Example:
    if row.problem:
        raise BadRow(row.problem)
    return to_example(
        row.value,
        f"line-{row.line}",
        options.source_field,
        options.summary_field,
        options.needs_summary,
        options.or_usual,
    )


def _rows(spec: Spec) -> tuple[Sequence[Row], str]:
    """The source's rows, and how to name the place they come from."""
    if spec.source == BUNDLED and not Path(BUNDLED).is_file():
        split = spec.split or "train"
        if split not in BUNDLED_SPLITS:
            raise DataError(f"chats has no split {split!r}. It has {', '.join(BUNDLED_SPLITS)}.")
        content = (files("tomtat.data") / "chats" / f"{split}.jsonl").read_bytes()
        return list(parse_lines(content)), f"chats@{split}"
    if _is_file(spec.source):
        return _file_rows(spec), spec.source
    return _HubRows(spec), spec.source


class _HubRows(Sequence[Row]):
    """Rows of a hub data set as they are asked for: half a percent of 287,113 articles reads only that."""

    def __init__(self, spec: Spec) -> None:
        self.rows = open_hub_rows(spec.source, spec.split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        row = self.rows[number]
        return Row(number + 1, row, raw=json.dumps(row, ensure_ascii=False, default=str))


def _file_rows(spec: Spec) -> list[Row]:
    path = Path(spec.source).expanduser()
    if spec.split not in (None, "train"):
        raise DataError(
            f"{spec.source}@{spec.split}: a file is a single split, called 'train'. "
            "Name another file, or take a part of it with a slice such as [:80%]."
        )
    if path.is_file() and path.suffix in FILE_ENDINGS and path.suffix not in (".jsonl", ".ndjson"):
        raise DataError(f"{path}: {path.suffix} files are not read yet. Convert it to JSON Lines (.jsonl).")
    return read_rows(path)


def _is_file(source: str) -> bool:
    looks_like_path = source.startswith((".", "/", "~")) or source.endswith(FILE_ENDINGS)
    return looks_like_path or Path(source).exists()
