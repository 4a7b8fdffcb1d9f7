"""`tomtat evaluate`."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Base, Device, Engine, OnBadRow, Set, Show, SourceField, SummaryField
from tomtat.cli.terminal import TerminalProgress, console, print_next, print_table

if TYPE_CHECKING:
    from tomtat.data import DataOptions
    from tomtat.evaluation import Evaluation


def evaluate_command(
    run: Annotated[Path | None, typer.Argument(help="Run folder; none for predictions made elsewhere.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Other data than the run's test split, for example 'test.jsonl[:96]'.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Folder under evaluations/ for other data; made from --data if not given.")
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Score this file of {id, prediction} lines instead of a run; may be given often."),
    ] = None,
    references: Annotated[str | None, typer.Option(help="The data that --predictions belong to, joined by id.")] = None,
    prediction_field: Annotated[
        str | None, typer.Option(help="Name of the field with the prediction, where it is not a usual one.")
    ] = None,
    source_field: SourceField = None,
    summary_field: SummaryField = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the evaluation of --predictions; by default evaluations/FILE."),
    ] = None,
    yardsticks: Annotated[
        bool, typer.Option(help="Score the untuned model, lead-3, an oracle and humans on the same rows too.")
    ] = True,
    leakage: Annotated[bool, typer.Option(help="Look for the test rows in the run's training data.")] = True,
    settings: Set = None,
    device: Device = "auto",
    on_bad_row: OnBadRow = None,
    base: Base = None,
    engine: Engine = "torch",
    show: Show = 0,
) -> None:
    """Score a run beside its yardsticks, with 95 % intervals, a verdict in words and a report to look at.

    tomtat evaluate runs/quickstart

    tomtat evaluate runs/chats --data 'test.jsonl[:96]' --set 'evaluate.metrics=["rouge", "bertscore"]'

    tomtat evaluate runs/chats --data mails.csv --source-field mail --summary-field gist

    tomtat evaluate runs/chats --engine torch-int8          (what 8 bits cost)

    tomtat evaluate runs/chats --set generate.decode=beam

    tomtat evaluate --predictions theirs.jsonl --references test.jsonl
    """
    from tomtat.data import DataOptions
    from tomtat.errors import ConfigError
    from tomtat.evaluation import evaluate

    progress = TerminalProgress()
    if predictions:
        if run is not None or data or name:
            raise ConfigError(
                "--predictions are scored without a run: give --references, and no RUN, --data or --name."
            )
        options = DataOptions(source_field, summary_field, on_bad_row=on_bad_row or "stop")
        report(_of_files(predictions, references, prediction_field, out, yardsticks, settings, options, progress), show)
        return
    if run is None or references or out or prediction_field:
        raise ConfigError(
            "Name a run folder, or predictions made elsewhere: tomtat evaluate --predictions FILE --references FILE."
        )
    evaluation = evaluate(
        run,
        data,
        name,
        yardsticks,
        device,
        on_bad_row,
        base,
        progress,
        settings or [],
        leakage,
        source_field=source_field,
        summary_field=summary_field,
        engine=engine,
    )
    report(evaluation, show)
    print_next(f"summarize {run} FILE")


def _of_files(
    predictions: list[Path],
    references: str | None,
    field: str | None,
    out: Path | None,
    yardsticks: bool,
    settings: list[str] | None,
    options: "DataOptions",
    progress: TerminalProgress,
) -> "Evaluation":
    from tomtat.errors import ConfigError
    from tomtat.evaluation import evaluate_predictions
    from tomtat.run_folder import free_path

    if references is None:
        raise ConfigError("--predictions need the data they belong to: --references FILE.")
    folder = out or free_path(Path("evaluations"), predictions[0].stem)
    return evaluate_predictions(predictions, references, folder, field, yardsticks, progress, settings or [], options)


def report(evaluation: "Evaluation", show: int) -> None:
    """The table, the verdicts, some summaries side by side, and where the files are."""
    console.print()
    print_table(*evaluation.columns(), title=f"{evaluation.data}: {len(evaluation.examples):,} rows")
    most = max(len(example.references) for example in evaluation.examples)
    if most > 1:
        # The mean over references stands above; the field often reports the best of them.
        policies = {
            "-best": "the best of each row's references",
            "-jackknife": "the best of all references but one, each left out in turn",
        }
        for suffix, about in policies.items():
            if suffix == "-jackknife" and most == 2:
                continue  # of two references, the best of the others is the other: the mean again
            console.print()
            print_table(*evaluation.columns(suffix), title=f"the same against {about}")
    words = {"google": "a-z and 0-9, as rouge-score has it", "unicode": "words of every script"}[evaluation.protocol]
    console.print(
        f"\nROUGE compares {words}; sentences are split as in {evaluation.language!r}.", highlight=False, soft_wrap=True
    )
    _print_verdicts(evaluation)
    for number in range(min(show, len(evaluation.examples))):
        _print_example(evaluation, number)
    console.print(f"\nReport: {evaluation.path / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    where = evaluation.path / "scores.json"
    console.print(f"Scores with their recipes: {where}", markup=False, highlight=False, soft_wrap=True)


def _print_verdicts(evaluation: "Evaluation") -> None:
    from tomtat.evaluation.verdict import verdict

    judged = evaluation.judged[0]
    console.print()
    for system, found in evaluation.comparisons.items():
        sentence = verdict(system, judged, found, len(evaluation.examples))
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if evaluation.headline:
        first = evaluation.score(evaluation.headline[0])
        line = f"{first.name} of {judged}, 95 % interval: {first.low:.1f} to {first.high:.1f}"
        console.print(line, markup=False, highlight=False)
    if cut := evaluation.cut_off.get(judged):
        limit = evaluation.settings["max_new_tokens"]
        console.print(f"{cut} of its summaries were cut at {limit} tokens (generate.max_new_tokens)", highlight=False)
    for note in evaluation.notes:
        console.print(f"Note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for metric, why in evaluation.not_run.items():
        console.print(f"Not run: {metric}: {why}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _print_example(evaluation: "Evaluation", number: int) -> None:
    example = evaluation.examples[number]
    console.print(f"\n{example.id}", style="bold", markup=False, highlight=False)
    texts = {"reference": example.references[0]}
    texts |= {
        system: evaluation.predictions[system][number]
        for system in ("untuned", *evaluation.judged)
        if system in evaluation.predictions
    }
    width = min(console.width, 120)
    for label, text in texts.items():
        wrapped = textwrap.fill(
            " ".join(text.split()), width, initial_indent=f"  {label:<11}", subsequent_indent=" " * 13
        )
        console.print(wrapped, markup=False, highlight=False, soft_wrap=True)
