"""What a run was started with, as run.json keeps it, and what of it may be another when the run goes on.

Settings, data, model and tokenizer must be the same: what they differ in is named and refused. Another machine, another
number of threads or processes, and other versions of libraries change the last bits of sums only: that is told.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from tomtat.config import RunConfig
from tomtat.errors import RunError
from tomtat.models import Encoded
from tomtat.prompts import source_text
from tomtat.run_folder import RunFolder
from tomtat.training.rows import spread
from tomtat.types import Example

MAY_CHANGE = (
    "train.checkpoint_minutes",
    "train.trackers",
    "data.test",
    "evaluate.metrics",
    "evaluate.bertscore",
    "generate.lookup_tokens",
)
"""Settings, and beginnings of such, that no trained weight and no metrics row depends on.

More epochs are not among them: the learning rate's way down is drawn over all of them.
"""

LIBRARIES = ("torch", "transformers", "peft", "accelerate")

_ENCODED = 64
"""Rows whose token ids tell whether tokenizer, prompt and limits are the same."""


def data_identity(
    examples: Mapping[str, Sequence[Example]], encoded: Sequence[Encoded], candidates: Sequence[Any]
) -> dict[str, Any]:
    """SHA-256 of the rows of each split, of a sample of token ids, and of the candidates where there are any."""
    sample = [encoded[number] for number in spread(len(encoded), _ENCODED)]
    ids = [[row.prompt_ids, row.target_ids] for row in sample]
    return {
        "sha256": {name: _sha256(map(_row, rows)) for name, rows in examples.items()},
        "rows": {name: len(rows) for name, rows in examples.items()},
        "encoded_sha256": _sha256(ids),
        "candidates_sha256": _sha256(candidates) if candidates else None,
    }


def machine_identity(processes: int) -> dict[str, Any]:
    """What the last bits of sums depend on."""
    return {
        "threads": torch.get_num_threads(),
        "processes": processes,
        "processor": torch.backends.cpu.get_cpu_capability(),
        **{name: version(name) for name in LIBRARIES},
    }


def require_same_settings(folder: RunFolder, started: Mapping[str, Any], now: RunConfig) -> None:
    """RunError where a setting that matters has another value than at the start."""
    before, after = flat(started), flat(now.model_dump())
    names = [name for name in {**before, **after} if not name.startswith(MAY_CHANGE)]
    changed = [
        f"{name} {_shown(before.get(name))} -> {_shown(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]
    if changed:
        raise RunError(
            f"{folder.path} was started with other settings: {'; '.join(changed)}. "
            "Go on with those it was started with, or train anew with another --out."
        )


def require_same_model(folder: RunFolder, started: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    _require_same(folder, f"The weights of the model {now['name']}", started["sha256"], now["sha256"])


def require_same_start(folder: RunFolder, started: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    """Of a calibration: the weights it goes on from."""
    before, after = ((one or {}).get("weights_sha256") for one in (started, now))
    _require_same(folder, f"The weights of {(now or started or {}).get('run')}", before, after)


def require_same_data(folder: RunFolder, config: RunConfig, started: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in {**started["sha256"], **now["sha256"]}:
        spec = getattr(config.data, name)
        before, after = ((one["rows"].get(name), one["sha256"].get(name)) for one in (started, now))
        if before[1] != after[1]:
            raise RunError(
                f"The data of {folder.path} changed since it was started: data.{name} = {spec} had {_rows(*before)}, "
                f"and has {_rows(*after)}. Bring back the old rows, or train anew with another --out."
            )
    # The rows are the same, and so are the settings: what is left is the tokenizer, or its chat template.
    _require_same(folder, "The tokenizer or chat template", started["encoded_sha256"], now["encoded_sha256"])
    _require_same(folder, "The file of candidates", started["candidates_sha256"], now["candidates_sha256"])


def machine_differences(started: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """As one line to tell, empty where there is none."""
    changed = [f"{name} {started.get(name)} -> {value}" for name, value in now.items() if started.get(name) != value]
    if not changed:
        return ""
    return f"Careful: not to the bit what an unbroken run would give, because of {', '.join(changed)}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _require_same(folder: RunFolder, what: str, before: str | None, after: str | None) -> None:
    if before != after:
        raise RunError(
            f"{what} changed since {folder.path} was started: SHA-256 {_short(before)} -> {_short(after)}. "
            "Bring back what there was, or train anew with another --out."
        )


def _rows(count: int | None, digest: str | None) -> str:
    return "no rows" if count is None else f"{count:,} rows of SHA-256 {_short(digest)}"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _row(example: Example) -> list[Any]:
    return [source_text(example.source), list(example.references)]


def _sha256(rows: Iterator[Any] | Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode())
        digest.update(b"\n")
    return digest.hexdigest()
