"""`tomtat params`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Base, Set
from tomtat.cli.terminal import console, print_table

if TYPE_CHECKING:
    from tomtat.models.parameters import ParameterCount


def params_command(
    run_or_recipe: Annotated[Path, typer.Argument(help="Run folder, or TOML recipe.")],
    settings: Set = None,
    base: Base = None,
) -> None:
    """Count weights: in all, trained, their share, the adapter's size on disk, module by module."""
    from tomtat.errors import ConfigError

    if run_or_recipe.is_dir():
        if settings:
            raise ConfigError("--set changes a recipe; a run folder's settings are fixed.")
        count = _of_run(run_or_recipe, base)
    else:
        count = _of_recipe(run_or_recipe, settings or [], base)
    print_table(
        ["module", "weights", "trained"],
        [[row.module, f"{row.base:,}", f"{row.trainable:,}" if row.trainable else ""] for row in count.modules],
    )
    size = (
        f"{count.disk_bytes:,} bytes on disk"
        if count.disk_bytes is not None
        else f"about {count.bytes_once_saved:,} bytes once saved"
    )
    console.print(
        f"\nBase {count.base:,} + added {count.added:,} = total {count.total:,}\n"
        f"Trained {count.trainable:,}, a share of {100 * count.share:.2f} % of the total; {size}",
        highlight=False,
    )


def _of_recipe(recipe: Path, settings: list[str], base: str | None) -> "ParameterCount":
    from tomtat.config import load_config
    from tomtat.models import load_base
    from tomtat.models.adapters import prepare_training
    from tomtat.models.parameters import count_parameters

    config = load_config(recipe, settings)
    model = load_base(config.model.model_copy(update={"name": base or config.model.name}), config.prompt)
    prepare_training(model, config.lora, config.train)
    return count_parameters(model.network)


def _of_run(path: Path, base: str | None) -> "ParameterCount":
    from tomtat.models import load_base
    from tomtat.models.adapters import prepare_training
    from tomtat.models.parameters import count_parameters
    from tomtat.run_folder import RunFolder

    folder = RunFolder.open(path)
    config = folder.config
    model = load_base(config.model.model_copy(update={"name": base or config.model.name}), config.prompt)
    prepare_training(model, config.lora, config.train)
    return count_parameters(model.network, folder.trained_path)
