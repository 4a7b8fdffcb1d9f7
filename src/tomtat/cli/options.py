"""Options that several commands share."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.", metavar="DEVICE")]
OnBadRow = Annotated[
    str | None,
    typer.Option(
        "--on-bad-row", help="stop (default), or skip: leave bad rows out and write them with their reasons to a file."
    ),
]
SourceField = Annotated[
    str | None,
    typer.Option("--source-field", help="Column with the text, where it has no usual name.", metavar="NAME"),
]
SummaryField = Annotated[
    str | None,
    typer.Option("--summary-field", help="Column with the summary, where it has no usual name.", metavar="NAME"),
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
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="torch (any model and device), torch-int8, ctranslate2, ctranslate2-float32, or auto: the fastest here of "
        "those that agree with torch, found by trying.",
        metavar="ENGINE",
    ),
]
UpstreamKey = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="Environment variable with the upstream's key.")
]
Tokenizer = Annotated[str | None, typer.Option(help="Folder, hub id or encoding to count the upstream's tokens with.")]
ServedEngine = Annotated[str | None, typer.Option(help="torch, torch-int8, ctranslate2 or auto.")]
GenerateSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Override a setting under generate: --set generate.no_repeat_ngram=3.",
        metavar="generate.NAME=VALUE",
    ),
]


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those that stood in the command; the others have their defaults in the settings."""
    return {name: value for name, value in flags.items() if value is not None}


def generate_overrides(overrides: Sequence[str] | None) -> dict[str, Any]:
    """`generate.NAME=VALUE` texts as a table; other settings are the run's own."""
    from tomtat.config import parse_override
    from tomtat.errors import ConfigError

    pairs = [parse_override(text) for text in overrides or ()]
    for name, _ in pairs:
        if not name.startswith("generate."):
            raise ConfigError(
                f"--set {name}: here only settings under generate. can be changed; the run has the others."
            )
    return {name.removeprefix("generate."): value for name, value in pairs}
