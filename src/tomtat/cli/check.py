"""`tomtat data check`: the report on the screen, or as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Set
from tomtat.cli.terminal import TerminalProgress, console, harmless, print_table

if TYPE_CHECKING:
    from tomtat.checking.report import Report, SplitReport
    from tomtat.config import RunConfig
    from tomtat.models import SummarizerModel


def check_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="The splits of one set: files, LABEL=FILE, chats@train, hub data sets; or a recipe, or a run folder.",
        ),
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Take limits, model and fields from this recipe.", metavar="TOML")
    ] = None,
    settings: Set = None,
    model: Annotated[
        str | None,
        typer.Option(help="Count this model's tokens: a name (fetched if need be) or a folder.", metavar="MODEL"),
    ] = None,
    source_field: Annotated[
        str | None, typer.Option("--source-field", help="The column with the text.", metavar="NAME")
    ] = None,
    summary_field: Annotated[
        str | None, typer.Option("--summary-field", help="The column with the summary.", metavar="NAME")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write all findings, the report and the plot here.", metavar="FOLDER"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the lengths (.png, .svg, .pdf).", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    show: Annotated[
        int,
        typer.Option(
            "--show", min=0, help="Print so many rows of a kind, and four times as many bad ones.", metavar="N"
        ),
    ] = 5,
) -> None:
    """Look at data before training on it: bad rows, lengths, duplicates, leaks between splits, odd summaries.

    Ends with exit code 2 where a row can't be used.

    tomtat data check train.jsonl validation.jsonl test.jsonl

    tomtat data check recipes/chats.toml --out checked
    """
    from tomtat.checking import check_data, name_splits

    _require_writable(out, plot)
    named = name_splits(sources)
    flags = {"model.name": model, "data.source_field": source_field, "data.summary_field": summary_field}
    config = _config(recipe, named.config, settings or [], flags)
    progress = TerminalProgress()
    report = check_data(named.splits, config, _tokenizer(config, model is not None, progress), progress)
    _write(report, out, plot)
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    else:
        _print(report, show, out)
    _require_good(report, out)


def _require_writable(out: Path | None, plot: Path | None) -> None:
    from tomtat.checking.files import require_folder
    from tomtat.checking.plot import require_plottable

    if out is not None:
        require_folder(out)
    if plot is not None:
        require_plottable(plot)


def _config(
    recipe: Path | None, named: "RunConfig | None", settings: Sequence[str], flags: dict[str, str | None]
) -> "RunConfig":
    """Of a recipe, else of what the sources name, else the defaults; what was typed goes before."""
    from tomtat.config import RunConfig, build_config, load_config, parse_override

    base = load_config(recipe) if recipe else named or RunConfig()
    typed = {name: value for name, value in flags.items() if value}
    return build_config(base.model_dump(), dict(map(parse_override, settings)) | typed)


def _write(report: "Report", out: Path | None, plot: Path | None) -> None:
    from tomtat.checking.files import write_findings
    from tomtat.checking.plot import write_plot

    if out is not None:
        write_findings(report, out)
    if plot is not None and any(split.rows for split in report.splits):
        write_plot(report, plot)


def _require_good(report: "Report", out: Path | None) -> None:
    from tomtat.errors import DataError

    if report.bad_rows:
        all_in = f" All are in {out / 'bad_rows.jsonl'}." if out else ""
        raise DataError(f"{report.bad_rows:,} row{'s' * (report.bad_rows > 1)} can't be used; see above.{all_in}")


def _tokenizer(config: "RunConfig", fetch: bool, progress: TerminalProgress) -> "SummarizerModel | None":
    from tomtat.models.tokenizer_only import open_tokenizer

    model = open_tokenizer(config.model, config.prompt, fetch)
    if model is None:
        progress.note(
            f"{config.model.name} is not here, so words are counted and no tokens. "
            f"To fetch it: --model {config.model.name}"
        )
    return model


def _print(report: "Report", show: int, out: Path | None) -> None:
    from tomtat.checking.suggest import as_toml

    splits = [split for split in report.splits if split.rows]
    _print_rows(report)
    _print_bad(report, 4 * show, out)
    if splits:
        _print_lengths(report, splits)
        _print_repeats(report, splits, show)
        _print_overlaps(report)
        _print_languages(splits)
        _print_copying(splits)
        _print_odd(splits)
        _title("Settings to start from")
        _say(as_toml(report.suggestions))
    _print_verdict(report)
    if out is not None:
        _say(f"\nAll rows found, the report and the plot: {out}")


def _print_rows(report: "Report") -> None:
    rows = [
        [split.label, f"{split.rows:,}", f"{len(split.bad):,}", f"{split.references:,}", harmless(split.source)]
        for split in report.splits
    ]
    print_table(["", "rows", "bad", "summaries", "source"], rows, left=(0, 4))


def _print_bad(report: "Report", show: int, out: Path | None) -> None:
    bad = [row for split in report.splits for row in split.bad]
    if not bad:
        return
    _title("Rows that can't be used")
    for row in bad[:show]:
        _say(harmless(f"{row.where}: {row.reason}"))
    if len(bad) > show:
        where = out / "bad_rows.jsonl" if out else "--out FOLDER writes them all"
        _say(f"... and {len(bad) - show:,} more ({where})")


def _print_lengths(report: "Report", splits: Sequence["SplitReport"]) -> None:
    from tomtat.checking.suggest import percent

    of = f" (tokens of {report.model})" if report.model else ""
    print_table(
        ["", "least", "median", "95 %", "most"],
        [
            [f"{split.label}: {name}", *(f"{n:,}" for n in (found.least, found.median, found.high, found.most))]
            for split in splits
            for name, found in split.lengths.items()
        ],
        f"\nLengths{of}",
    )
    cuts = [
        (split, name, found)
        for split in splits
        for name, found in (("source", split.source_cut), ("summary", split.summary_cut))
        if found
    ]
    if cuts:
        print_table(
            ["", "limit", "rows longer", "share", "tokens lost"],
            [
                [
                    f"{split.label}: {name}",
                    f"{found.limit:,}",
                    f"{found.rows:,}",
                    percent(found.row_share),
                    percent(found.token_share),
                ]
                for split, name, found in cuts
            ],
            "\nWhat the limits cut (data.max_source_tokens, generate.max_new_tokens)",
        )


def _print_repeats(report: "Report", splits: Sequence["SplitReport"], show: int) -> None:
    from tomtat.checking.suggest import share

    _title("Rows that repeat an earlier row of their split")
    for split in splits:
        found = split.duplicates
        if not found.clusters:
            _say(f"{split.label}: none")
            continue
        other = f" ({found.conflicting:,} with another summary)" if found.conflicting else ""
        counts = f"{found.exact:,} word for word{other}, {found.near:,} nearly"
        _say(f"{split.label}: {share(found.superfluous, split.rows)}: {counts}")
        for cluster in found.clusters[:show]:
            places = ", ".join(split.places[row] for row in cluster.rows[:6])
            more = f" and {len(cluster.rows) - 6:,} more" if len(cluster.rows) > 6 else ""
            kind = "same" if cluster.is_exact else "near"
            _say(harmless(f"  {kind}: {places}{more}: {split.beginnings[cluster.rows[0]]}..."))
        if len(found.clusters) > show:
            _say(f"  ... and {len(found.clusters) - show:,} more groups")


def _print_overlaps(report: "Report") -> None:
    from tomtat.checking.suggest import percent

    if not report.overlaps:
        return
    print_table(
        ["", "rows", "word for word", "by half or more", "share of 8-word runs"],
        [
            [
                f"{one.label} in {one.other}",
                f"{one.rows:,}",
                f"{len(one.exact):,}",
                f"{len(one.near):,}",
                percent(one.share),
            ]
            for one in report.overlaps
        ],
        "\nRows of one split that stand in another",
    )


def _print_languages(splits: Sequence["SplitReport"]) -> None:
    _title("Languages, by their letters (all that have only a to z count as en)")
    for split in splits:
        pairs = ", ".join(
            f"{source if source == summary else f'{source} with a summary in {summary}'} {rows:,}"
            for (source, summary), rows in split.languages.most_common(6)
        )
        _say(f"{split.label}: {pairs}")


def _print_copying(splits: Sequence["SplitReport"]) -> None:
    from tomtat.checking.abstractive import in_words

    rows = [
        [
            split.label,
            f"{split.copying.coverage:.2f}",
            f"{split.copying.density:.2f}",
            *(f"{100 * part:.0f} %" for part in split.copying.novel),
            f"{split.copying.compression:.1f}",
        ]
        for split in splits
        if split.copying
    ]
    columns = ["", "coverage", "density", "new 1", "new 2", "new 3", "new 4", "compression"]
    print_table(columns, rows, "\nHow much of the summaries is copied, how many of their runs of 1 to 4 words are new")
    told = {split.label: in_words(split.copying) for split in splits if split.copying}
    _say(
        "; ".join(
            f"{', '.join(label for label in told if told[label] == how)}: {how}" for how in dict.fromkeys(told.values())
        )
    )


def _print_odd(splits: Sequence["SplitReport"]) -> None:
    from tomtat.checking.suggest import percent
    from tomtat.checking.suspicions import KINDS

    _title("Summaries that deserve a look")
    rows = [
        [
            f"{split.label}: {KINDS[kind]}",
            f"{len(found):,}",
            percent(len(found) / split.rows),
            harmless(f"{split.places[found[0].row]}: {_short(found[0].what)}"),
        ]
        for split in splits
        for kind, found in split.suspicions.items()
    ]
    if rows:
        print_table(["", "rows", "share", "the first"], rows, left=(0, 3))
    else:
        _say("none")


def _print_verdict(report: "Report") -> None:
    verdict = report.verdict
    style = "bold red" if verdict.problems else "bold yellow" if verdict.remarks else "bold green"
    console.print(f"\n{verdict.sentence}", style=style, markup=False, highlight=False, soft_wrap=True)
    for mark, texts in (("!", verdict.problems), ("-", verdict.remarks)):
        for text in texts:
            _say(harmless(f"{mark} {text}"))


def _title(text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False, highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
