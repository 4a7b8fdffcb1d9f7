"""`tomtat data`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.check import check_command
from tomtat.cli.options import OnBadRow, SourceField, SummaryField
from tomtat.cli.terminal import TerminalProgress, console, print_table

if TYPE_CHECKING:
    from tomtat.types import Example

data_app = typer.Typer(no_args_is_help=True, help="Look into data before training on it.")
data_app.command("check")(check_command)


@data_app.command("show")
def show_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Files of any format, a folder, chats@test, chats:vi, or a hub data set."
        ),
    ],
    row: Annotated[
        str | None, typer.Option("--row", "-r", help="Show this row, by its number or id.", metavar="N|ID")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="Show so many rows.")] = 1,
    source_field: SourceField = None,
    summary_field: SummaryField = None,
) -> None:
    """How many rows there are, how long they are, and what one looks like.

    tomtat data show chats

    tomtat data show chats:long --row long-03
    """
    from tomtat.data import DataOptions, load

    examples = load(source, DataOptions(source_field, summary_field, needs_summary=False)).examples
    print_table(["", "least", "median", "most"], _lengths(examples), f"{source}: {len(examples):,} rows")
    for example in _chosen(examples, row, source) if row is not None else examples[:count]:
        _show(example)


@data_app.command("dedupe")
def dedupe_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Files of any format, a folder, chats@train, or a hub data set.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new file of JSON Lines for the rows that stay.")],
    source_field: SourceField = None,
    summary_field: SummaryField = None,
    on_bad_row: OnBadRow = None,
) -> None:
    """Leave out rows that repeat an earlier one, word for word or nearly: those that data check tells.

    The first of each group stays, as it is and in its place. SOURCE is only read.

    tomtat data dedupe train.jsonl --out unique.jsonl
    """
    from tomtat.bulk import rejects_path
    from tomtat.checking.unique import write_unique
    from tomtat.data import DataOptions

    options = DataOptions(source_field, summary_field, needs_summary=False, on_bad_row=on_bad_row or "stop")
    found = write_unique(source, out, options, TerminalProgress())
    repeats = found.duplicates
    other = f", {repeats.conflicting:,} of them with another summary" if repeats.conflicting else ""
    _say(f"{out}: {found.kept:,} of {found.rows:,} rows.")
    _say(f"Left out: {repeats.exact:,} that repeat an earlier row word for word{other}; {repeats.near:,} nearly.")
    if found.bad:
        _say(f"Bad rows left out: {found.bad:,}; they lie with their reasons in {rejects_path(out)}.")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _lengths(examples: Sequence["Example"]) -> list[list[str]]:
    from tomtat.prompts import source_text

    chats = [example.source for example in examples if not isinstance(example.source, str)]
    counts = {
        "turns": [len(chat) for chat in chats],
        "words": [len(source_text(example.source).split()) for example in examples],
        "words of a summary": [len(example.references[0].split()) for example in examples if example.references],
        "summaries": [len(example.references) for example in examples],
        "facts": [len(example.facts) for example in examples if example.facts],
    }
    return [
        [name, f"{min(found):,}", f"{sorted(found)[len(found) // 2]:,}", f"{max(found):,}"]
        for name, found in counts.items()
        if found
    ]


def _chosen(examples: Sequence["Example"], row: str, source: str) -> list["Example"]:
    from tomtat.errors import DataError

    found = [example for example in examples if str(example.id) == row]
    if not found and row.isdigit() and 1 <= int(row) <= len(examples):
        found = [examples[int(row) - 1]]
    if not found:
        raise DataError(f"{source} has no row {row!r}. Give an id, or a number from 1 to {len(examples):,}.")
    return found


def _show(example: "Example") -> None:
    from tomtat.prompts import source_text

    console.print(f"\n{example.id}", style="bold", markup=False, highlight=False)
    parts = [source_text(example.source)]
    parts += [f"Summary: {reference}" for reference in example.references]
    parts += [f"Fact: {fact.text}  ({fact.turn}: {fact.question})" for fact in example.facts]
    console.print("\n\n".join(parts[:1]) + "\n", markup=False, highlight=False, soft_wrap=True)
    for part in parts[1:]:
        console.print(part, markup=False, highlight=False, soft_wrap=True)
