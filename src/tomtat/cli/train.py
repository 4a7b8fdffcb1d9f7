"""`tomtat train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tomtat.cli.options import Device, OnBadRow, Set, Show, SourceField, SummaryField
from tomtat.cli.terminal import TerminalProgress, console, print_epochs, print_next


def train_command(
    recipe: Annotated[
        Path | None, typer.Argument(help="A TOML recipe. Without one, the defaults and the flags below.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder to make; by default runs/RECIPE.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with a stopped run folder; its settings hold.")
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(
            "--candidates",
            help="Run folder to go on from, learning to prefer the better of its own candidates.",
            metavar="RUN",
        ),
    ] = None,
    settings: Set = None,
    model: Annotated[str | None, typer.Option(help="Base model: a name or a folder (model.name).")] = None,
    train: Annotated[str | None, typer.Option(help="Training data (data.train).")] = None,
    validation: Annotated[str | None, typer.Option(help="Validation data (data.validation).")] = None,
    test: Annotated[str | None, typer.Option(help="Test data (data.test).")] = None,
    source_field: SourceField = None,
    summary_field: SummaryField = None,
    epochs: Annotated[int | None, typer.Option(help="train.epochs")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="train.learning_rate")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per optimizer step (train.batch_size).")] = None,
    rank: Annotated[int | None, typer.Option(help="lora.rank")] = None,
    target: Annotated[
        str | None, typer.Option(help="Where adapters go: all-linear, attention, decoder ... (lora.target).")
    ] = None,
    device: Device = "auto",
    on_bad_row: OnBadRow = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Score the run on its test split afterwards.")] = False,
    show: Show = 0,
) -> None:
    """Fine-tune a summarizer and keep the best adapter in a run folder.

    tomtat train recipes/quickstart.toml --evaluate

    tomtat train --train 'my.jsonl[50:]' --validation 'my.jsonl[:50]' --epochs 3 --out runs/mine

    tomtat train --train mails.csv.gz --source-field mail --summary-field gist --out runs/mails

    tomtat train --candidates runs/mine --out runs/better
    """
    from tomtat.config import load_config
    from tomtat.errors import ConfigError
    from tomtat.run_folder import RunFolder
    from tomtat.training import calibrate, finetune
    from tomtat.training import resume as resume_run

    flags: dict[str, Any] = {
        "model.name": model,
        "model.device": device if device != "auto" else None,
        "data.train": train,
        "data.validation": validation,
        "data.test": test,
        "data.source_field": source_field,
        "data.summary_field": summary_field,
        "data.on_bad_row": on_bad_row,
        "train.epochs": epochs,
        "train.learning_rate": learning_rate,
        "train.batch_size": batch_size,
        "lora.rank": rank,
        "lora.target": target,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    progress = TerminalProgress()
    if resume is not None:
        if out or candidates:
            raise ConfigError("--resume goes on in the run's own folder: give no --out and no --candidates with it.")
        folder = resume_run(resume, progress, recipe, _overrides(settings or [], given))
    elif candidates is not None:
        if recipe:
            raise ConfigError(f"--candidates goes on with the settings of {candidates}: give no recipe with it.")
        overrides = _overrides(settings or [], given)
        if evaluate and not (overrides.get("data.test") or RunFolder.open(candidates).config.data.test):
            raise ConfigError("--evaluate needs test data: name it with --test FILE.")
        folder = calibrate(candidates, overrides, out, progress)
    else:
        overrides = _overrides(settings or [], given)
        if evaluate and load_config(recipe, overrides).data.test is None:
            raise ConfigError("--evaluate needs test data: name it with --test FILE.")
        folder = finetune(recipe, overrides, out, progress)
    print_epochs(folder.metrics())
    console.print(f"\nRun folder: {folder.path}", highlight=False)
    if evaluate:
        from tomtat.cli.evaluate import report
        from tomtat.evaluation import evaluate as evaluate_run

        report(evaluate_run(folder, device=folder.config.model.device, progress=progress), show)
        print_next(f"summarize {folder.path} FILE")
    else:
        has_test = folder.config.data.test is not None
        data = "" if has_test else " --data FILE"
        print_next(f"evaluate {folder.path}{data}")


def _overrides(settings: list[str], flags: dict[str, Any]) -> dict[str, Any]:
    from tomtat.config import parse_override

    return dict(parse_override(text) for text in settings) | flags
