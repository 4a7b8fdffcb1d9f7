"""`tomtat candidates`."""

from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.options import Base, Device
from tomtat.cli.terminal import TerminalProgress, console, print_next, print_table


def candidates_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    data: Annotated[str | None, typer.Option("--data", help="Other data than the run's training split.")] = None,
    validation: Annotated[
        bool,
        typer.Option(
            "--validation",
            help="Draw for the run's validation split, into candidates.validation.jsonl: how much room is there where "
            "nothing was trained? `train --candidates` does not read it.",
        ),
    ] = False,
    count: Annotated[int, typer.Option(min=2, help="Candidates per row; the first is the greedy one.")] = 8,
    temperature: Annotated[float, typer.Option(help="Above 0; the higher, the less alike the candidates.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Draw each token among the likeliest ones that together have this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws: another number, other candidates.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; by default candidates.jsonl in the run folder.")
    ] = None,
    device: Device = "auto",
    base: Base = None,
) -> None:
    """Draw several summaries of each training row and score them, for `tomtat train --candidates`.

    The score is the mean of ROUGE-1, -2 and -L against the row's references. At the end stands how much better than
    the greedy summary the best ones are. It may be stopped or killed: the same command goes on.

    tomtat candidates runs/mine

    tomtat candidates runs/mine --validation --temperature 0.7
    """
    from tomtat.candidates import Draw, draw_candidates
    from tomtat.errors import ConfigError
    from tomtat.run_folder import RunFolder

    is_for_training = not validation and data is None and out is None
    if validation:
        folder = RunFolder.open(run)
        if data or folder.config.data.validation is None:
            raise ConfigError("--data names other rows than --validation: give one." if data else _NO_VALIDATION)
        data, out = folder.config.data.validation, out or folder.path / "candidates.validation.jsonl"
    room = draw_candidates(run, data, Draw(count, temperature, top_p, seed), out, device, base, TerminalProgress())
    rows = {
        "greedy": room.greedy,
        "mean candidate": room.mean,
        "chosen by MBR": room.mbr,
        "best of each row": room.oracle,
    }
    print_table(
        ["", "score", "beside greedy"],
        [[name, f"{score:.2f}", f"{score - room.greedy:+.2f}"] for name, score in rows.items()],
        title=f"{room.rows:,} rows, {count} candidates each",
    )
    console.print(f"\nScore: {room.recipe}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Candidates: {room.path}", markup=False, highlight=False, soft_wrap=True)
    if is_for_training:
        print_next(f"train --candidates {run} --out {run}-calibrated")


_NO_VALIDATION = "The run has no data.validation. Name the rows with --data FILE."
