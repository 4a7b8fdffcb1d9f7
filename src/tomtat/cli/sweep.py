"""`tomtat sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.options import Set
from tomtat.cli.terminal import TerminalProgress, console, print_next, print_table


def sweep_command(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe with validation data.")],
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Placements to try (lora.target); by default the recipe's.")
    ] = None,
    rank: Annotated[list[int] | None, typer.Option("--rank", help="Ranks; alpha is twice the rank.")] = None,
    rate: Annotated[
        list[float] | None, typer.Option("--rate", help="Learning rates; by default half, once and twice the recipe's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the trials; by default runs/RECIPE-sweep.")
    ] = None,
    settings: Set = None,
) -> None:
    """Try placements, ranks and rates, giving up the worse half after each epoch.

    What is frozen is computed once for all trials. The same command goes on after Ctrl-C or a kill.

    tomtat sweep recipes/chats.toml --target all-linear --target top-10 --rank 8 --rank 16 --rate 5e-4 --rate 1e-3
    """
    from tomtat.config import load_config
    from tomtat.training.sweep import sweep, trials

    config = load_config(recipe, settings or [])
    own = config.lora.target
    chosen = trials(
        target or [own if isinstance(own, str) else " + ".join(own)],
        rank or [config.lora.rank],
        rate or [config.train.learning_rate * factor for factor in (0.5, 1.0, 2.0)],
    )
    results = sweep(config, chosen, out or Path("runs") / f"{recipe.stem}-sweep", TerminalProgress())
    by = "ROUGE" if config.train.choose_by == "rouge" else "validation loss"
    print_table(
        ["placement", "rank", "rate", "epochs", by, "seconds", ""],
        [
            [
                str(result.trial.settings["lora.target"]),
                str(result.trial.settings["lora.rank"]),
                f"{result.trial.settings['train.learning_rate']:g}",
                str(result.epochs),
                "-" if result.best is None else f"{result.best:.3f}",
                f"{result.seconds:.0f}",
                result.end,
            ]
            for result in results
        ],
        title=f"{len(results)} trials, the best first",
    )
    console.print(f"\nBest: {results[0].path}", markup=False, highlight=False, soft_wrap=True)
    print_next(f"evaluate {results[0].path}")
