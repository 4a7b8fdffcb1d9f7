"""Options that several commands share."""

from typing import Annotated

import typer

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.", metavar="DEVICE")]
OnBadRow = Annotated[
    str | None,
    typer.Option(
        "--on-bad-row", help="stop (default), or skip: leave bad rows out and write them with their reasons to a file."
    ),
]
Base = Annotated[
    str | None, typer.Option("--base", help="Where the adapter's base model lies here, if not where it was trained.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", help="Override a setting: --set lora.rank=8. May be given often.", metavar="NAME=VALUE"
    ),
]
Show = Annotated[int, typer.Option("--show", min=0, help="Print this many summaries: reference, untuned, tuned.")]
