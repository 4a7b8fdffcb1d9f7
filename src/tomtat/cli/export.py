"""`tomtat export`."""

from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.options import Base
from tomtat.cli.terminal import TerminalProgress, console


def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or an adapter or model folder that a run made.")],
    to: Annotated[str, typer.Option("--to", help="merged, adapter, ctranslate2, onnx or gguf.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make; by default exports/ in the run folder.")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            "-q",
            help="ctranslate2: float32 (default), bfloat16, float16, int16, int8. gguf: f16 (default), q8_0, f32.",
        ),
    ] = None,
    base: Base = None,
) -> None:
    """Write a run in another tool's format, and check on ten inputs that it still says the same.

    tomtat export runs/mine --to merged

    tomtat export runs/mine --to ctranslate2 --quantization int8

    tomtat export runs/mine --to gguf --quantization q8_0 --out mine-gguf
    """
    from tomtat.exporting import export

    made = export(run, to, out, quantization, base, TerminalProgress())
    if made.check.first_difference:
        ours, theirs = made.check.first_difference
        _say(f"First difference\n  the run   {ours}\n  exported  {theirs}\n")
    _say(f"{made.check}.")
    _say(f"{made.path} ({made.bytes / 1e6:,.1f} MB, {made.quantization})")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
