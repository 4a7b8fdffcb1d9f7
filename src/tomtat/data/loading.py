"""From a data specification to examples, with every row accounted for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from tomtat.data.hub import open_hub_rows
from tomtat.data.jsonl import Row, parse_lines
from tomtat.data.rows import BadRow, to_example
from tomtat.data.slices import Spec, parse_spec
from tomtat.data.sources import Source, is_source, open_source
from tomtat.errors import ConfigError, DataError
from tomtat.types import Example

BUNDLED = "chats"
BUNDLED_SPLITS = ("train", "validation", "test")
BUNDLED_LONG = "long"


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
    rows, place = _chosen_rows(text, options)
    loaded = parse_rows(rows, place, options)
    if loaded.examples:
        return loaded
    if not loaded.rejects:
        raise DataError(f"{place} is empty: it has no rows. Write one JSON object per line, or a table with a header.")
    first = loaded.rejects[0]
    raise DataError(f"{text}: no usable row among {len(loaded.rejects):,}. The first: {first.where}: {first.reason}.")


def scan(text: str, options: DataOptions | None = None) -> Iterator[Example | Reject]:
    """Every row that a specification names, in order: what it holds, or where it stands and why it can't be used.

    Bad rows never stop it, whatever `options.on_bad_row` says. DataError where the source as a whole can't be read.
    """
    return (found for _, found in scan_rows(text, options))


def scan_rows(text: str, options: DataOptions | None = None) -> Iterator[tuple[str, Example | Reject]]:
    """As `scan`, each with where it stands: `mine.jsonl, line 7`."""
    options = options or DataOptions()
    return _judged(*_chosen_rows(text, options), options)


def parse_rows(rows: Iterable[Row], place: str, options: DataOptions) -> Loaded:
    examples: list[Example] = []
    rejects: list[Reject] = []
    for _, found in _judged(rows, place, options):
        if isinstance(found, Example):
            examples.append(found)
        elif options.on_bad_row == "stop":
            raise bad_row_error(found)
        else:
            rejects.append(found)
    return Loaded(examples, rejects)


def _judged(rows: Iterable[Row], place: str, options: DataOptions) -> Iterator[tuple[str, Example | Reject]]:
    first_with: dict[str | int, tuple[str, str]] = {}
    for row in rows:
        found = example_or_reject(row, place, options)
        if isinstance(found, Example):
            if found.id in first_with:
                found = reject_doubled(row, found, first_with[found.id], place)
            else:
                first_with[found.id] = row.address
        yield row.where(place), found


def example_or_reject(row: Row, place: str, options: DataOptions) -> Example | Reject:
    """What a row holds, or why it can't be used. Whether its id is doubled, who sees all rows must see."""
    try:
        return _example(row, options)
    except BadRow as error:
        return Reject(row.where(place), str(error), row.text)


def reject_doubled(row: Row, example: Example, first: tuple[str, str], place: str) -> Reject:
    """`first` is the address of the row that has the id already."""
    file, number = first
    there = number if number and file == row.place else ", ".join(part for part in (file, number) if part)
    return Reject(row.where(place), f"the id {example.id!r} stands in {there} already. Ids must differ", row.text)


def bad_row_error(reject: Reject) -> DataError:
    return DataError(f"{reject.where}: {reject.reason}. (--on-bad-row skip leaves such rows out.)")


def _example(row: Row, options: DataOptions) -> Example:
    if row.problem:
        raise BadRow(row.problem)
    return to_example(
        row.value,
        row.default_id,
        options.source_field,
        options.summary_field,
        options.needs_summary,
        options.or_usual,
    )


def open_rows(text: str, options: DataOptions) -> tuple[Callable[[], Iterator[Row]], str]:
    """The rows that a specification names, as a stream as often as it is asked for, and how to name their place."""
    spec = parse_spec(text)
    rows, place = _rows(spec, options)
    if isinstance(rows, Source):
        return lambda: sliced(rows.rows, spec, text), place
    numbers = spec.rows(len(rows), text) if spec.is_sliced else range(len(rows))
    return lambda: (rows[number] for number in numbers), place


def _chosen_rows(text: str, options: DataOptions) -> tuple[Iterator[Row], str]:
    rows, place = open_rows(text, options)
    return rows(), place


def sliced(rows: Callable[[], Iterator[Row]], spec: Spec, text: str) -> Iterator[Row]:
    """The rows of a slice as a stream. Of what it does not name no more is read than counting them needs."""
    if not spec.is_sliced:
        yield from rows()
        return
    bounds = spec.fixed_bounds()
    if bounds is None:
        chosen = spec.rows(sum(1 for _ in rows()), text)
        yield from islice(rows(), chosen.start, chosen.stop)
        return
    start, stop = bounds
    number = 0
    for number, row in enumerate(rows(), start=1):
        if number > start:
            yield row
        if number == stop:
            return
    spec.rows(number, text)  # says that there are not so many


def _rows(spec: Spec, options: DataOptions) -> tuple[Sequence[Row] | Source, str]:
    name, _, part = spec.source.partition(":")
    if name == BUNDLED and not Path(spec.source).is_file():
        return _bundled_rows(part, spec.split), str(spec.source) + (f"@{spec.split}" if spec.split else "")
    if is_source(spec.source):
        if spec.split not in (None, "train"):
            raise DataError(
                f"{spec.source}@{spec.split}: a file is a single split, called 'train'. "
                "Name another file, or take a part of it with a slice such as [:80%]."
            )
        asked = [field for field in (options.source_field, options.summary_field) if field]
        source = open_source(spec.source, asked)
        return source, source.place
    return _HubRows(spec), spec.source


def _bundled_rows(part: str, split: str | None) -> list[Row]:
    """`chats`, its rows in one language (`chats:vi`), or the long ones, which are a single split (`chats:long`)."""
    if part == BUNDLED_LONG:
        if split not in (None, "test"):
            raise DataError(f"chats:long is for measuring: it has the split test only, not {split!r}.")
        return list(parse_lines(_bundled(BUNDLED_LONG)))
    split = split or "train"
    if split not in BUNDLED_SPLITS:
        raise DataError(f"chats has no split {split!r}. It has {', '.join(BUNDLED_SPLITS)}.")
    rows = list(parse_lines(_bundled(split)))
    language_of = {row.line: row.value["language"] for row in rows if isinstance(row.value, dict)}
    languages = sorted(set(language_of.values()))
    if part and part not in languages:
        raise DataError(f"chats has no part {part!r}. It has {', '.join(languages)} and {BUNDLED_LONG}.")
    return [row for row in rows if not part or language_of[row.line] == part]


def _bundled(name: str) -> bytes:
    return (files("tomtat.data") / "chats" / f"{name}.jsonl").read_bytes()


class _HubRows(Sequence[Row]):
    """Rows of a hub data set as they are asked for: half a percent of 287,113 articles reads only that."""

    def __init__(self, spec: Spec) -> None:
        self.rows = open_hub_rows(spec.source, spec.split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        row = self.rows[number]
        return Row(number + 1, row)
