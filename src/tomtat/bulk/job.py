"""Summaries of many documents, from the first look at the file to the last row."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from tomtat.bulk.cluster import Cluster
from tomtat.bulk.documents import Documents, Window, look_over, open_documents
from tomtat.bulk.output import Output, StandardOutput, open_output
from tomtat.bulk.settings import SummarizerSettings
from tomtat.bulk.work import Finished, summarize_here
from tomtat.data import DataOptions
from tomtat.errors import Interrupted, RunError
from tomtat.progress import Advance, Progress
from tomtat.types import total


@dataclass(frozen=True)
class BulkReport:
    rows: int
    """Summaries that are in the file now."""
    rows_before: int
    """Of them, those that an earlier session wrote."""
    bad_rows: int
    cut: int
    """Documents of this session of which only the beginning was read."""
    in_pieces: int
    """Documents of this session that were longer than the input limit and read in pieces."""
    at_limit: int
    """Summaries of this session that the token limit ended."""
    near_ties: int | None
    """Tokens of this session that rounding decided: their runner-up was within 1e-4. None where nobody counted: of
    beams, and by engines that don't show it."""


def summarize_file(
    model: SummarizerSettings | Path | str,
    documents: Path | str,
    out: Path | str,
    *,
    options: DataOptions | None = None,
    overwrite: bool = False,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> BulkReport:
    """Summarize each row of a source into a row of `out`, or go on where an earlier call was stopped.

    A source is what `data/sources.py` reads: files of any format and size, folders, patterns, `-`.

    DataError for bad rows, before any work; RunError if `out` holds something else (`overwrite` replaces that), is
    being written or can't be; Interrupted after Ctrl-C.
    """
    settings = model if isinstance(model, SummarizerSettings) else SummarizerSettings(str(model))
    options = options or DataOptions(needs_summary=False, or_usual=True)
    with open_documents(documents, options.source_field) as source:
        found = look_over(source, str(documents), options, progress)
        return summarize_documents(settings, found, Path(out), overwrite=overwrite, cluster=cluster, progress=progress)


def summarize_documents(
    settings: SummarizerSettings,
    documents: Documents,
    out: Path | None,
    *,
    overwrite: bool = False,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> BulkReport:
    """As `summarize_file`, of a file that was looked over; standard output if `out` is None."""
    opened: AbstractContextManager[Output] = nullcontext(StandardOutput(documents))
    if out:
        _require_another_file(documents, out)
        identity = {**settings.identity(), "source_field": documents.options.source_field, "input": documents.sha256}
        opened = open_output(out, documents, identity, overwrite)
    with opened as output:
        try:
            return _fill(output, settings, documents, cluster, progress or Progress())
        except KeyboardInterrupt:
            if not out:
                raise
            done = f"{output.rows:,} of {documents.rows:,} summaries are in {out}"
            raise Interrupted(f"Stopped; {done}. To go on, repeat the command.") from None


def _fill(
    output: Output, settings: SummarizerSettings, documents: Documents, cluster: Cluster | None, progress: Progress
) -> BulkReport:
    windows = output.pending()
    # Looked for before a model is loaded or a cluster started: where nothing is left to do, neither is needed.
    first = list(islice(windows, 1))
    before = output.rows
    told = dict.fromkeys(("cut", "in_pieces", "at_limit"), 0)
    near_ties: int | None = 0
    if first:
        if before:
            progress.note(f"going on after the {before:,} summaries that are there")
        work = _work(settings, documents, chain(first, windows), cluster, progress)
        with (
            progress.task("summarizing", documents.rows, "documents", done=before) as advance,
            closing(work(advance)) as results,
        ):
            for finished in results:
                output.append(finished.lines, finished.rows)
                for name in told:
                    told[name] += getattr(finished, name)
                near_ties = total((near_ties, finished.near_ties))
    if output.rows != documents.rows:
        raise RunError(f"{documents.place} changed while it was read. Repeat the command with --overwrite.")
    return BulkReport(output.rows, before, documents.bad_rows, **told, near_ties=near_ties)


def _work(
    settings: SummarizerSettings,
    documents: Documents,
    windows: Iterator[Window],
    cluster: Cluster | None,
    progress: Progress,
) -> Callable[[Advance], Generator[Finished, None, None]]:
    if cluster:
        return partial(cluster.summarize, settings, documents, windows)
    return partial(summarize_here, settings.load(progress), windows)


def _require_another_file(documents: Documents, out: Path) -> None:
    if documents.source.reads(out):
        what = (
            "is the file that is read" if documents.source.place == str(out) else "lies among the files that are read"
        )
        raise RunError(f"{out} {what}. Name another --out.")
