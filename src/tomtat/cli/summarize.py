"""`tomtat summarize`."""

import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Base, Device, Engine, GenerateSet, OnBadRow, SourceField, generate_overrides, given
from tomtat.cli.terminal import TerminalProgress
from tomtat.files import write_text

if TYPE_CHECKING:
    from tomtat.bulk import BulkReport, Cluster, Documents, SummarizerSettings
    from tomtat.data import DataOptions
    from tomtat.data.sources import Source
    from tomtat.types import Source as Text

REJECTS_TOLD = 10
FORMATS = ("auto", "text", "jsonl", "json", "csv", "parquet")


def summarize_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Run folder, what `tomtat export` made of one (--to merged, adapter or ctranslate2), or the name or "
            "folder of an untuned model.",
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A text or a chat in one file (.txt and others); or rows: .jsonl, .json, .csv, .tsv, .parquet, also "
            "compressed, a folder, a pattern in quotes; - is standard input.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write, JSON Lines where rows are summarized; by default standard output."
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="auto, text, jsonl, json, csv or parquet: what the input is.")
    ] = "auto",
    source_field: SourceField = None,
    engine: Engine = "torch",
    decode: Annotated[
        str | None,
        typer.Option(help="greedy, beam, sample or mbr (best of several); by default the run's own.", metavar="HOW"),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=2, help="Summaries drawn for --decode mbr, which this asks for.")
    ] = None,
    max_words: Annotated[int | None, typer.Option(min=1, help="Longest summary, in words.")] = None,
    max_sentences: Annotated[int | None, typer.Option(min=1, help="Longest summary, in sentences.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest summary, in tokens; by default as the run's own data say.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Draw candidates as --decode mbr does, and prefer those in this language (en, vi, ja ...)."),
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Of a long text read the beginning only, instead of all in pieces.")
    ] = False,
    overrides: GenerateSet = None,
    device: Device = "auto",
    on_bad_row: OnBadRow = None,
    base: Base = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace JSON Lines in --out that something else made.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Share the rows out over a Ray cluster, or over this machine.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="A running cluster: auto, or HOST:PORT.", metavar="ADDRESS")
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that hold the model; by default one per GPU or four CPUs.")
    ] = None,
) -> None:
    """Summarize a text (the summary is printed) or rows (a line of JSON with id and summary for each).

    A text longer than the model reads at once is read whole, in pieces. With --out, a run over rows may be stopped or
    killed: the same command goes on where it was.

    tomtat summarize runs/quickstart article.txt

    tomtat summarize runs/quickstart chats.jsonl -o summaries.jsonl --engine auto

    tomtat summarize runs/quickstart article.txt --decode mbr --max-words 40

    tomtat summarize runs/quickstart 'tickets/*.csv.gz' --source-field description -o summaries.jsonl

    cat chats.jsonl | tomtat summarize runs/quickstart - --format jsonl > summaries.jsonl

    tomtat summarize runs/quickstart big.jsonl -o summaries.jsonl --ray-address auto
    """
    from tomtat.asking import completed
    from tomtat.bulk import SummarizerSettings, open_documents, summarize_documents
    from tomtat.data import DataOptions
    from tomtat.errors import ConfigError

    if form not in FORMATS:
        raise ConfigError(f"--format {form}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    if out is not None:
        _require_writable(out)
    cluster = _cluster(ray, ray_address, ray_workers, out)
    asked = {
        "decode": decode,
        "candidates": candidates,
        "max_words": max_words,
        "max_sentences": max_sentences,
        "max_new_tokens": max_new_tokens,
        "language": language,
        "long_inputs": "truncate" if truncate else None,
    }
    generate = completed(generate_overrides(overrides) | given(asked))
    settings = SummarizerSettings(model, device, base, engine, generate)
    options = DataOptions(
        source_field or _source_field(model),
        needs_summary=False,
        on_bad_row=on_bad_row or "stop",
        or_usual=source_field is None,
    )
    progress = TerminalProgress()
    with open_documents(source, options.source_field, "" if form == "auto" else form) as opened:
        if opened.single_text():
            if cluster:
                raise ConfigError("--ray is for JSON Lines; this is a single text.")
            _summarize_text(settings, _text(opened), out, progress)
        else:
            documents = _look_over(opened, options, progress)
            report = summarize_documents(
                settings, documents, out, overwrite=overwrite, cluster=cluster, progress=progress
            )
            _tell(report, out, bool(generate.get("whole_sentences")), progress)


def _cluster(ray: bool, address: str | None, workers: int | None, out: Path | None) -> "Cluster | None":
    from tomtat.bulk import Cluster
    from tomtat.errors import ConfigError

    if not (ray or address or workers):
        return None
    if out is None:
        # Ray itself writes to standard output when a worker dies.
        raise ConfigError("--ray needs a file for the summaries: name it with --out.")
    return Cluster(address, workers)


def _require_writable(out: Path) -> None:
    """Before minutes of work, not after them."""
    from tomtat.errors import ConfigError

    what = ""
    if out.exists() and not out.is_file():
        what = "is a folder" if out.is_dir() else "is no file that could be gone on with"
    elif not out.parent.is_dir():
        what = f"lies in {out.parent}, which is no folder"
    if what:
        raise ConfigError(f"--out {out} {what}. Name a file in a folder that exists.")
    try:
        # Where rights, a read-only disk or a file system of its own kind stand against it, only trying tells.
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ConfigError(f"--out {out} can't be written: {error.strerror}. Name a file in another folder.") from None


def _look_over(source: "Source", options: "DataOptions", progress: TerminalProgress) -> "Documents":
    """Usable rows; those left out are told."""
    from tomtat.bulk import look_over

    documents = look_over(source, source.place, options, progress)
    for reject in islice(documents.rejects() if documents.bad_rows else (), REJECTS_TOLD):
        progress.note(f"left out: {reject.where}: {reject.reason}")
    if documents.bad_rows > REJECTS_TOLD:
        progress.note(f"left out: {documents.bad_rows - REJECTS_TOLD:,} more")
    return documents


def _tell(report: "BulkReport", out: Path | None, has_whole_sentences: bool, progress: TerminalProgress) -> None:
    from tomtat.bulk import rejects_path

    if out and report.rows == report.rows_before:
        progress.note(f"all {report.rows:,} summaries are in {out} already")
    if out and report.bad_rows:
        progress.note(f"the {report.bad_rows:,} rows left out lie with their reasons in {rejects_path(out)}")
    if report.cut:
        what = "1 text is" if report.cut == 1 else f"{report.cut:,} texts are"
        progress.note(f"{what} longer than the model's input limit: only the beginning was read.")
    if report.in_pieces:
        what = "1 text was" if report.in_pieces == 1 else f"{report.in_pieces:,} texts were"
        progress.note(f"{what} longer than the model's input limit and read whole, in pieces.")
    if report.at_limit:
        what = "1 summary was" if report.at_limit == 1 else f"{report.at_limit:,} summaries were"
        progress.note(f"{what} ended by the token limit: {_cut_advice(has_whole_sentences)}.")
    _tell_near_ties(report.near_ties, progress)


def _cut_advice(has_whole_sentences: bool) -> str:
    more = "--max-new-tokens N allows more"
    return more if has_whole_sentences else f"{more}, --set generate.whole_sentences=true drops a half sentence"


def _tell_near_ties(count: int | None, progress: TerminalProgress) -> None:
    if count:
        what = "1 token had" if count == 1 else f"{count:,} tokens had"
        progress.note(f"{what} a runner-up within 1e-4: with other batches the text may differ from there.")


def _summarize_text(settings: "SummarizerSettings", text: "Text", out: Path | None, progress: TerminalProgress) -> None:
    from tomtat.text import language_of

    summarizer = settings.load(progress)
    [summary] = summarizer.generate([text])
    limit = summarizer.max_source_tokens
    if summary.share_read < 1:
        read = f"its first {summary.share_read:.0%} was read"
        progress.note(f"The text is longer than {limit} tokens: only {read}.")
    elif summary.pieces > 1:
        progress.note(f"The text is longer than {limit} tokens: it was read whole, in {summary.pieces} pieces.")
    if summary.finish_reason == "length":
        limit, advice = summarizer.decoding.max_new_tokens, _cut_advice(summarizer.limits.whole_sentences)
        progress.note(f"The summary was ended by the limit of {limit} tokens: {advice}.")
    _tell_near_ties(summary.near_ties, progress)
    wanted = summarizer.limits.language
    if wanted and language_of([summary.text]) != wanted:
        progress.note(f"None of {summarizer.decoding.candidates} candidates was in the language {wanted}.")
    if out:
        write_text(out, summary.text + "\n")
    else:
        sys.stdout.write(summary.text + "\n")


def _source_field(model: str) -> str | None:
    """The field that a run was trained to read, if it is a run and named one."""
    from tomtat.run_folder import RunFolder

    is_run = (Path(model) / "config.toml").is_file()
    return RunFolder.open(model).config.data.source_field if is_run else None


def _text(source: "Source") -> "Text":
    """A text, or the messages of a chat that was saved as one."""
    from tomtat.data.rows import to_example
    from tomtat.errors import DataError

    [row] = source.rows()
    if row.problem:
        raise DataError(f"{source.place} {row.problem}" + ("" if row.problem.endswith("?") else "."))
    return to_example(row.value, "text", needs_summary=False).source
