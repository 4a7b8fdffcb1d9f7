"""`tomtat compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.terminal import console, print_table

if TYPE_CHECKING:
    from tomtat.evaluation import Comparison


def compare_command(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]", help="Run folders or evaluation folders; PATH:SYSTEM names another system."
        ),
    ],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Compare by this one only; may be given often.")
    ] = None,
    across_limits: Annotated[
        bool, typer.Option("--across-limits", help="Compare although the systems wrote under different length limits.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the comparison as JSON too.")] = None,
) -> None:
    """Say whether systems differ on the same rows: paired permutation test, paired 95 % interval, Holm's correction.

    tomtat compare runs/a runs/b

    tomtat compare runs/a/evaluations/dialogsum runs/b/evaluations/dialogsum runs/a/evaluations/dialogsum:untuned
    """
    from tomtat.errors import ConfigError
    from tomtat.evaluation import compare
    from tomtat.files import write_text

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ConfigError(f"--out {out}: name a file in a folder that exists.")
    comparison = compare(evaluations, metric, across_limits)
    _print(comparison)
    if out is not None:
        write_text(out, json.dumps(comparison.as_dict(), ensure_ascii=False, indent=2) + "\n")


def _print(comparison: "Comparison") -> None:
    console.print(f"{comparison.data}: {comparison.rows:,} rows", style="bold", markup=False, highlight=False)
    for pair in comparison.pairs:
        console.print()
        print_table(
            ["", pair.a, pair.b, "difference", "95 % interval", "p", "p (Holm)", "visible"],
            [
                [
                    found.metric,
                    f"{found.a:.2f}",
                    f"{found.b:.2f}",
                    f"{found.value:+.2f}",
                    f"{found.low:+.2f} to {found.high:+.2f}",
                    f"{found.p:.4f}",
                    f"{found.p_corrected:.4f}",
                    "-" if found.detectable is None else f"{found.detectable:.2f}",
                ]
                for found in pair.differences
            ],
        )
        console.print(f"\n{pair.verdict}", markup=False, highlight=False, soft_wrap=True)
    if comparison.limits_differ:
        console.print(
            f"\nNote: {comparison.limits_differ}; the difference may come from that.",
            style="yellow", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(
        "\nvisible: the smallest true difference these rows would show four times out of five, correction included.",
        style="dim", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
