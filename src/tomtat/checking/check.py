"""One pass over each split, the largest last: what is looked for in others is held in memory, and it need not be."""

from collections.abc import Iterator, Sequence

import numpy as np

from tomtat.checking.abstractive import mean_copying
from tomtat.checking.measure import Measured, Seen
from tomtat.checking.report import Cut, Lengths, Overlap, Report, SplitReport, Unread
from tomtat.checking.sources import Split
from tomtat.checking.suggest import default_new_tokens, suggest
from tomtat.checking.verdict import judge
from tomtat.config import RunConfig
from tomtat.data import DataOptions, Reject, scan_rows
from tomtat.errors import DataError
from tomtat.models import SummarizerModel
from tomtat.models.lossy import lost_characters
from tomtat.progress import Progress
from tomtat.text.runs import RunIndex, RunSearch
from tomtat.types import Example

HELD_RUNS = 256
"""Of a row that is looked for in other splits so many runs of eight words are held, 3 kB a row: all of most dialogues,
and of a long article a sample that tells its share to about 3 points in 100."""


def check_data(
    splits: Sequence[Split], config: RunConfig, model: SummarizerModel | None, progress: Progress | None = None
) -> Report:
    """Look at every row of every split. Bad rows are in the report; they stop nothing.

    `config` says the limits and the fields' names; `model` counts tokens, and without one only words are counted.
    Memory goes with the number of rows, about 1 kB each, and 3 kB more in splits that a larger one is searched for.

    Raises: DataError where a source can't be read at all, or has no row.
    """
    progress = progress or Progress()
    options = DataOptions(config.data.source_field, config.data.summary_field)
    contents = {split: _Rows(split, options) for split in splits}
    sizes = {split: len(contents[split]) for split in splits}
    measured: dict[str, Measured] = {}
    held: list[tuple[Split, RunIndex]] = []
    overlaps: list[Overlap] = []
    in_order = sorted(splits, key=lambda split: sizes[split])
    for split in in_order:
        found = Measured(split.label, model)
        searches = [(other, index.search()) for other, index in held]
        index = RunIndex(HELD_RUNS)
        for row in _measure(split, contents[split], found, progress):
            if split is not in_order[-1]:
                index.add(row.source)
            for _, search in searches:
                search.look_at(row.source, row.number)
        found.finish()
        measured[split.label] = found
        overlaps += [_overlap(other, split, search, measured[other.label].rows) for other, search in searches]
        held.append((split, index))
    limits = _limits([measured[split.label] for split in splits], config)
    reports = [_report(split, measured[split.label], model, limits) for split in splits]
    suggestions = suggest(reports, config.data) if any(report.rows for report in reports) else []
    return Report(config.model.name if model else None, reports, overlaps, suggestions, judge(reports, overlaps))


class _Rows:
    """The rows of a split, as often as they are wanted."""

    def __init__(self, split: Split, options: DataOptions) -> None:
        self._split, self._options = split, options
        # Standard input comes by once.
        self._kept = [*scan_rows(split.source, options)] if split.source == "-" else None
        # A first pass only parses: it costs a hundredth of what follows, and tells how long that will take.
        self._size = sum(1 for _ in self)
        if not self._size:
            raise DataError(f"{split.source} has no rows. Is it the right file?")

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[str, Example | Reject]]:
        return iter(self._kept) if self._kept is not None else scan_rows(self._split.source, self._options)


def _measure(split: Split, rows: _Rows, into: Measured, progress: Progress) -> Iterator[Seen]:
    with progress.task(f"checking {split.label}", len(rows), "rows") as advance:
        place = "standard input" if split.source == "-" else split.source
        for where, row in rows:
            if isinstance(row, Reject):
                into.reject(row)
            else:
                yield into.add(row, where.removeprefix(f"{place}, "))
            advance(1)


def _overlap(split: Split, other: Split, search: RunSearch, rows: int) -> Overlap:
    shares = search.shares()
    return Overlap(split.label, other.label, rows, search.exact, search.near(), float(np.mean(shares)) if rows else 0.0)


def _limits(measured: Sequence[Measured], config: RunConfig) -> tuple[int, int | None]:
    """Of source and summary tokens, as training and its model would have them."""
    train = next((one for one in measured if one.label == "train"), measured[0])
    target = config.generate.max_new_tokens
    if target is None and train.lengths.get("summary tokens"):
        target = default_new_tokens(train.lengths["summary tokens"])
    return config.data.max_source_tokens, target


def _report(
    split: Split, found: Measured, model: SummarizerModel | None, limits: tuple[int, int | None]
) -> SplitReport:
    source, summary = found.lengths.get("source tokens"), found.lengths.get("summary tokens")
    named = ("turns", found.turns), *found.lengths.items()
    return SplitReport(
        label=split.label,
        source=split.source,
        rows=found.rows,
        bad=found.bad,
        references=found.references,
        lengths={name: Lengths.of(values) for name, values in named if values},
        source_cut=Cut.of(source, limits[0]) if source else None,
        summary_cut=Cut.of(summary, limits[1]) if summary and limits[1] else None,
        duplicates=found.duplicates.find(),
        languages=found.languages,
        copying=mean_copying(found.copying),
        suspicions=found.kinds(),
        unread=_unread(found, model),
        places=found.places,
        beginnings=found.beginnings,
        values=found.lengths,
    )


def _unread(found: Measured, model: SummarizerModel | None) -> Unread | None:
    if model is None or not found.sample:
        return None
    lost = lost_characters(model.tokenizer, [part for pair in found.sample for part in pair], 2 * len(found.sample))
    return Unread(lost.share, lost.told() if lost else "", bool(lost.line_breaks)) if lost or lost.line_breaks else None
