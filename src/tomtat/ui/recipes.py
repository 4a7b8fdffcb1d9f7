"""What a run can be started from: recipes in a folder, the settings of runs that are there, or the defaults."""

from collections.abc import Sequence
from pathlib import Path

from tomtat.config import load_config
from tomtat.errors import ConfigError
from tomtat.ui.readable import Readable
from tomtat.ui.run_shelf import RunShelf

DEFAULTS = "the defaults"
AGAIN = "as run "


class Recipes:
    def __init__(self, folder: Path | str, shelf: RunShelf, readable: Readable) -> None:
        self.folder = Path(folder)
        self.shelf = shelf
        self.readable = readable

    def names(self) -> list[str]:
        recipes = sorted(path.name for path in self.folder.glob("*.toml") if path.is_file())
        return [*recipes, DEFAULTS, *(AGAIN + name for name in self.shelf.names())]

    def path(self, name: str) -> Path | None:
        """None for the defaults.

        Raises: ConfigError where there is no such recipe.
        """
        if name not in self.names():
            raise ConfigError(f"There is no recipe {name!r} in {self.folder}. Choose one from the list.")
        if name == DEFAULTS:
            return None
        return (
            self.shelf.path / name.removeprefix(AGAIN) / "config.toml" if name.startswith(AGAIN) else self.folder / name
        )

    def require_good(self, name: str, settings: Sequence[str], evaluate: bool) -> None:
        """A slip shows here, not in a process that starts and ends.

        Raises: ConfigError.
        """
        path = self.path(name)
        self.readable.require_settings(settings)
        config = load_config(path, settings)
        if evaluate and config.data.test is None:
            raise ConfigError("To score it afterwards it needs test data: add the setting data.test=FILE.")


def setting_lines(text: str) -> list[str]:
    """One setting a line; empty lines and comments are left out."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
