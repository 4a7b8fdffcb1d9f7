"""`tomtat evaluate`."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Base, Device, OnBadRow, Show
from tomtat.cli.terminal import TerminalProgress, console, print_table

if TYPE_CHECKING:
    from tomtat.evaluation import Evaluation


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Other data than the run's test split, for example 'test.jsonl[:96]'.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder under evaluations/ for other data; made from --data if not given.")
    ] = None,
    yardsticks: Annotated[bool, typer.Option(help="Score the untuned model and lead-3 on the same rows too.")] = True,
    device: Device = "auto",
    on_bad_row: OnBadRow = None,
    base: Base = None,
    show: Show = 0,
) -> None:
    """Score a run beside the untuned model and lead-3, with 95 % intervals."""
    from tomtat.evaluation import evaluate

    evaluation = evaluate(run, data, name, yardsticks, device, on_bad_row, base, TerminalProgress())
    report(evaluation, show)
    console.print(f"Next: tomtat summarize {run} FILE", highlight=False, soft_wrap=True)


def report(evaluation: "Evaluation", show: int) -> None:
    """The table, some summaries side by side, and where the files are."""
    tuned = evaluation.scores["tuned"]
    # With several references the best of them is the field's usual figure; both are in scores.json.
    names = [score.name for score in tuned if not score.name.endswith("-best")]
    best = [score.name for score in tuned if score.name.endswith("-best") and score.name != "rougeLsum-best"]
    rows = []
    for system, scores in evaluation.scores.items():
        values = {score.name: score for score in scores}
        cells = [f"{values[metric].value:.1f}" for metric in names + best]
        rows.append([system, *cells, f"{evaluation.words[system]:.0f}"])
    console.print()
    print_table(["", *names, *best, "words"], rows, title=f"{evaluation.data}: {len(evaluation.examples):,} rows")
    first = tuned[0]
    console.print(
        f"\n{first.name} of the tuned model, 95 % interval: {first.low:.1f} to {first.high:.1f}", highlight=False
    )
    if cut := evaluation.cut_off["tuned"]:
        limit = evaluation.settings["max_new_tokens"]
        console.print(f"{cut} of its summaries were cut at {limit} tokens (generate.max_new_tokens)", highlight=False)
    for number in range(min(show, len(evaluation.examples))):
        _print_example(evaluation, number)
    console.print(f"\nScores with their recipes: {evaluation.path / 'scores.json'}", highlight=False, soft_wrap=True)


def _print_example(evaluation: "Evaluation", number: int) -> None:
    example = evaluation.examples[number]
    console.print(f"\n{example.id}", style="bold", markup=False, highlight=False)
    texts = {"reference": example.references[0]}
    texts |= {
        system: evaluation.predictions[system][number]
        for system in ("untuned", "tuned")
        if system in evaluation.predictions
    }
    width = min(console.width, 120)
    for label, text in texts.items():
        wrapped = textwrap.fill(
            " ".join(text.split()), width, initial_indent=f"  {label:<11}", subsequent_indent=" " * 13
        )
        console.print(wrapped, markup=False, highlight=False, soft_wrap=True)
