"""What of the machine the page may read when its reader names a file: what lies below certain folders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tomtat.config import parse_override
from tomtat.data.slices import parse_spec
from tomtat.data.sources import STANDARD_INPUT, is_source, open_source
from tomtat.errors import ConfigError


class Readable:
    def __init__(self, folders: Sequence[Path | str]) -> None:
        self.folders = tuple(Path(folder) for folder in folders)

    def require_data(self, text: str) -> None:
        """Raises: ConfigError where a data specification leads to files elsewhere. Bundled and hub data pass."""
        with _as_names(text):
            source = parse_spec(text).source
            if source == STANDARD_INPUT:
                raise ConfigError("A page has no standard input. Name a file, or upload it.")
            # A hub data set's name is looked for on the disk too, without what stands behind its colon.
            for name in (text, source, source.partition(":")[0]):
                self._require_inside(name)
            if is_source(source):
                for file in open_source(source).files:  # a folder's, a pattern's, or two parallel ones
                    self._require_inside(str(file.path))

    def require_source(self, text: str) -> None:
        """As `require_data`, for what may also be `LABEL=FILE`, a recipe or a run's folder."""
        with _as_names(text):
            _, equals, file = text.partition("=")
            self.require_data(file if equals and not Path(text).exists() else text)

    def require_settings(self, settings: Sequence[str]) -> None:
        """For texts like `lora.rank=8`: none may name a file elsewhere.

        Raises: ConfigError.
        """
        for name, value in map(parse_override, settings):
            for text in filter(None, _texts(value)):
                if name in ("data.train", "data.validation", "data.test"):
                    self.require_data(text)
                with _as_names(text):
                    self._require_inside(text)

    def _require_inside(self, name: str) -> None:
        path = Path(name).expanduser()
        is_path = name.startswith(("/", "~", "./", "../")) or path.exists()
        if is_path and not any(path.resolve().is_relative_to(folder.resolve()) for folder in self.folders):
            places = ", ".join(str(folder.resolve()) for folder in self.folders)
            raise ConfigError(
                f"{name} lies outside of what this page may read: {places}. More folders: data_folders in the settings "
                "of tomtat serve."
            )


@contextmanager
def _as_names(text: str) -> Iterator[None]:
    """Names that are too long or hold a NUL make the system's own calls fail."""
    try:
        if "\0" in text:
            raise ValueError(text)
        yield
    except (OSError, ValueError):
        raise ConfigError(f"{text[:80]!r} can't be a file's name.") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
