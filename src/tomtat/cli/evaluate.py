"""`tomtat evaluate`."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Base, Device, OnBadRow, Show
from tomtat.cli.terminal import TerminalProgress, console, print_next, print_table

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
    print_next(f"summarize {run} FILE")


def report(evaluation: "Evaluation", show: int) -> None:
    """The table, some summaries side by side, and where the files are."""
    console.print()
    print_table(*_columns(evaluation, best=False), title=f"{evaluation.data}: {len(evaluation.examples):,} rows")
    if any(len(example.references) > 1 for example in evaluation.examples):
        # The mean over references stands above; the field often reports the best of them.
        console.print()
        print_table(*_columns(evaluation, best=True), title="the same against the best of each row's references")
    first = evaluation.scores["tuned"][0]
    console.print(
        f"\n{first.name} of the tuned model, 95 % interval: {first.low:.1f} to {first.high:.1f}", highlight=False
    )
    if cut := evaluation.cut_off["tuned"]:
        limit = evaluation.settings["max_new_tokens"]
        console.print(f"{cut} of its summaries were cut at {limit} tokens (generate.max_new_tokens)", highlight=False)
    for number in range(min(show, len(evaluation.examples))):
        _print_example(evaluation, number)
    console.print(f"\nScores with their recipes: {evaluation.path / 'scores.json'}", highlight=False, soft_wrap=True)


def _columns(evaluation: "Evaluation", best: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows: systems by metrics, those against the best reference or the others."""
    names = [score.name for score in evaluation.scores["tuned"] if score.name.endswith("-best") == best]
    rows = []
    for system, scores in evaluation.scores.items():
        values = {score.name: f"{score.value:.1f}" for score in scores}
        rows.append([system, *(values[name] for name in names), f"{evaluation.words[system]:.0f}"])
    return ["", *(name.removesuffix("-best") for name in names), "words"], rows


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
