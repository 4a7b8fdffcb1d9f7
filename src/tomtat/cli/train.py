"""`tomtat train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomtat.cli.options import Device, OnBadRow, Set, Show, SourceField, SummaryField, given
from tomtat.cli.terminal import console, is_first_process, print_epochs, print_next, progress_of_this_process
from tomtat.progress import Progress

if TYPE_CHECKING:
    from tomtat.run_folder import RunFolder


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
    flags = {
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
    overrides = _overrides(settings or [], given(flags))
    progress = progress_of_this_process()
    if resume is not None:
        folder = _resumed(resume, recipe, candidates, out, overrides, progress)
    elif candidates is not None:
        folder = _calibrated(candidates, recipe, out, overrides, evaluate, progress)
    else:
        folder = _finetuned(recipe, out, overrides, evaluate, progress)
    if not is_first_process():
        return
    print_epochs(folder.metrics())
    console.print(f"\nRun folder: {folder.path}", highlight=False)
    if evaluate:
        _evaluate(folder, show, progress)
        print_next(f"summarize {folder.path} FILE")
    else:
        has_test = folder.config.data.test is not None
        data = "" if has_test else " --data FILE"
        print_next(f"evaluate {folder.path}{data}")


def _overrides(settings: list[str], flags: dict[str, Any]) -> dict[str, Any]:
    from tomtat.config import parse_override

    return dict(parse_override(text) for text in settings) | flags


def _resumed(
    run: Path,
    recipe: Path | None,
    candidates: Path | None,
    out: Path | None,
    overrides: dict[str, Any],
    progress: Progress,
) -> "RunFolder":
    from tomtat.errors import ConfigError
    from tomtat.training import resume

    if out or candidates:
        raise ConfigError("--resume goes on in the run's own folder: give no --out and no --candidates with it.")
    return resume(run, progress, recipe, overrides)


def _calibrated(
    run: Path,
    recipe: Path | None,
    out: Path | None,
    overrides: dict[str, Any],
    evaluate: bool,
    progress: Progress,
) -> "RunFolder":
    from tomtat.errors import ConfigError
    from tomtat.run_folder import RunFolder
    from tomtat.training import calibrate

    if recipe:
        raise ConfigError(f"--candidates goes on with the settings of {run}: give no recipe with it.")
    if evaluate:
        _require_test(overrides.get("data.test") or RunFolder.open(run).config.data.test)
    return calibrate(run, overrides, out, progress)


def _finetuned(
    recipe: Path | None, out: Path | None, overrides: dict[str, Any], evaluate: bool, progress: Progress
) -> "RunFolder":
    from tomtat.config import load_config
    from tomtat.training import finetune

    if evaluate:
        _require_test(load_config(recipe, overrides).data.test)
    return finetune(recipe, overrides, out, progress)


def _require_test(data: str | None) -> None:
    """Before hours of training, not after them."""
    from tomtat.errors import ConfigError

    if not data:
        raise ConfigError("--evaluate needs test data: name it with --test FILE.")


def _evaluate(folder: "RunFolder", show: int, progress: Progress) -> None:
    from tomtat.cli.evaluate import report
    from tomtat.evaluation import evaluate

    report(evaluate(folder, device=folder.config.model.device, progress=progress), show)
