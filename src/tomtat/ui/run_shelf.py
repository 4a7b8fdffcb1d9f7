"""The folder of runs that the page shows. What a reader names is looked up among what is there: no name leads out."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomtat.config import RunConfig
from tomtat.errors import ConfigError, RunError, TomtatError
from tomtat.run_folder import RunFolder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
REPORT_BYTES = 32 * 2**20
"""A report goes to the browser whole; those of a thousand rows are a hundredth of this."""


def require_name(name: str) -> None:
    """Raises: ConfigError where a new run can't be called so."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"A run can't be called {name!r}: letters, digits and . _ - are taken, at most 100.")


def is_plain(name: str) -> bool:
    """Whether it names something directly inside a folder."""
    return name == Path(name).name and name not in ("", "..")


@dataclass(frozen=True)
class StoredScores:
    """An evaluation that lies in a run's folder."""

    label: str
    """The run's name, with the evaluation's behind a slash where it is one of other data."""
    path: Path
    systems: tuple[str, ...]


class RunShelf:
    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def names(self) -> list[str]:
        """The newest first."""
        return sorted(self._folders(), key=lambda name: (-_written(self.path / name), name))

    def _folders(self) -> list[str]:
        try:
            inside = list(self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ConfigError(f"{self.path} can't be read: {error.strerror}. Name another folder: --runs.") from None
        return [item.name for item in inside if (item / "config.toml").is_file() and self._lies_here(item)]

    def _lies_here(self, folder: Path) -> bool:
        """Not a link to elsewhere."""
        return folder.resolve().parent == self.path.resolve()

    def run(self, name: str) -> RunFolder:
        """Raises: RunError where there is no such run here."""
        if name not in self._folders():
            raise RunError(f"There is no run {name!r} in {self.path}. Choose one from the list.")
        return RunFolder(self.path / name)

    def place_for(self, name: str) -> Path:
        """Where a new run of this name goes; nothing is made.

        Raises: ConfigError, RunError where the name is taken.
        """
        require_name(name)
        path = self.path / name
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} exists already. Choose another name, or resume that run.")
        return path

    def evaluations(self, run: str | None = None) -> list[StoredScores]:
        """Of one run, or of all."""
        found = []
        for name in self.names() if run is None else [self.run(run).path.name]:
            folder = self.path / name
            for place in [folder, *sorted(path.parent for path in folder.glob("evaluations/*/scores.json"))]:
                if systems := _systems(place, folder):
                    label = name if place == folder else f"{name}/{place.name}"
                    found.append(StoredScores(label, place, systems))
        return found

    def evaluation(self, label: str) -> StoredScores:
        """Raises: RunError."""
        for found in self.evaluations():
            if found.label == label:
                return found
        raise RunError(f"There are no scores of {label!r} in {self.path}. First: tomtat evaluate {self.path}/RUN.")

    def report(self, label: str) -> str:
        """report.html of an evaluation, a page without scripts that loads nothing.

        Raises: RunError.
        """
        folder = self.evaluation(label).path
        path = folder / "report.html"
        try:
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise RunError(f"{path} leads out of {self.path}: it is not shown.")
            if path.stat().st_size > REPORT_BYTES:
                raise RunError(f"{path} is larger than {REPORT_BYTES:,} bytes: open it in the browser from its folder.")
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise RunError(f"{path} can't be read. Make it again: tomtat evaluate {folder}.") from None


def read_scores(found: StoredScores) -> dict[str, Any]:
    """scores.json.

    Raises: RunError.
    """
    try:
        value: dict[str, Any] = json.loads((found.path / "scores.json").read_text(encoding="utf-8"))
        value["systems"], value["judged"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise RunError(f"{found.path}/scores.json is damaged. Make it again with tomtat evaluate.") from None
    return value


def read_config(folder: RunFolder) -> RunConfig | None:
    """None where it can't be read: a run of another version still has curves to look at."""
    try:
        return folder.config
    except TomtatError:
        return None


def read_info(folder: RunFolder) -> dict[str, Any]:
    """run.json; empty where it is missing or damaged."""
    try:
        return folder.info()
    except TomtatError:
        return {}


def _systems(place: Path, run: Path) -> tuple[str, ...]:
    """None of them where scores.json is missing or damaged, or a link leads out of the run."""
    path = place / "scores.json"
    try:
        if not path.resolve().is_relative_to(run.resolve()):
            return ()
        scores = json.loads(path.read_text(encoding="utf-8"))
        judged = list(scores["judged"])
        return (*judged, *(name for name in scores["systems"] if name not in judged))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _written(folder: Path) -> float:
    """When something was last logged there, in seconds since 1970."""
    for name in ("metrics.jsonl", "config.toml"):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0
