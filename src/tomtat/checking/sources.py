"""Which splits are meant: files and data sets with labels, or all that a recipe or a run names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tomtat.config import RunConfig, load_config
from tomtat.data.slices import parse_spec
from tomtat.errors import DataError
from tomtat.run_folder import RunFolder

_LABEL = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)
_USUAL = {
    "train": re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])", re.IGNORECASE),
    "validation": re.compile(r"(?<![a-z])(?:valid(?:ation)?|val|dev|eval)(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"(?<![a-z])test(?:ing)?(?![a-z])", re.IGNORECASE),
}


@dataclass(frozen=True)
class Split:
    label: str
    """`train`, `validation`, `test`, or what the user called it."""
    source: str
    """A data specification."""


@dataclass(frozen=True)
class Named:
    splits: Sequence[Split]
    config: RunConfig | None
    """Of the recipe or run among the sources."""


def name_splits(sources: Sequence[str]) -> Named:
    """Each source is `FILE`, `LABEL=FILE`, any other data specification, a recipe (.toml) or a run folder.

    Raises: DataError where two splits have one name; ConfigError, RunError.
    """
    splits: list[Split] = []
    config: RunConfig | None = None
    for text in sources:
        if (found := _settings_of(text)) is not None:
            config = found
            named = {"train": found.data.train, "validation": found.data.validation, "test": found.data.test}
            splits += [Split(label, source) for label, source in named.items() if source is not None]
        else:
            splits.append(_split(text))
    return Named(_with_labels_apart(splits), config)


def _settings_of(text: str) -> RunConfig | None:
    path = Path(text).expanduser()
    if path.suffix == ".toml":
        return load_config(path)
    return RunFolder.open(path).config if (path / "config.toml").is_file() else None


def _split(text: str) -> Split:
    if not Path(text).exists() and (match := _LABEL.fullmatch(text)):
        return Split(match[1], match[2])
    if text == "-":
        return Split("standard input", text)
    spec = parse_spec(text)
    # What is written behind an @, else the file's own name; the folders above it say something else too often.
    name = spec.split or Path(spec.source).name
    found = [label for label, pattern in _USUAL.items() if pattern.search(name)]
    return Split(found[0] if len(found) == 1 else name, text)


def _with_labels_apart(splits: list[Split]) -> list[Split]:
    """Two files of one name in different folders go by their paths."""
    labels = [split.label for split in splits]
    apart = [Split(split.source, split.source) if labels.count(split.label) > 1 else split for split in splits]
    seen: set[str] = set()
    for split in apart:
        if split.label in seen:
            raise DataError(
                f"{split.source} is given twice. Name each split once, as LABEL=FILE where names are alike."
            )
        seen.add(split.label)
    return apart
