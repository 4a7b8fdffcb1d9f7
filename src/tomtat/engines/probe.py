"""Which engine is the fastest here, found by trying: once per model and machine, then remembered."""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tomtat.assets import cache_directory
from tomtat.data import DataOptions, load
from tomtat.engines.base import Engine
from tomtat.engines.opening import Place, make_engine
from tomtat.errors import TomtatError
from tomtat.files import write_json
from tomtat.models import Decoding, Encoded
from tomtat.models.precision import choose_device
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.ranking import likeness

PROBES = 4
PROBE_TOKENS = 32
EXACT = "torch"
ALTERNATIVES = ("torch-int8", "ctranslate2")
AGREES_FROM = 0.5
"""Least mean likeness (F1 of words and pairs of words) between an engine's summaries and torch's for it to be chosen.
Of two summaries that part ways at one near-tie most words are still the same; a model that 8 bits damage says
something else."""


@dataclass(frozen=True)
class Tried:
    engine: str
    seconds: float
    agreement: float
    """Mean likeness to what torch says, from 0 to 1."""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.engine}: {self.problem}"
        return f"{self.engine} {self.seconds:.1f} s (agreement {self.agreement:.2f})"


def fastest(where: Place, progress: Progress) -> str:
    """An engine's name; what was tried and chosen is told."""
    if where.is_converted:
        progress.note("engine: ctranslate2, which this folder was exported for")
        return "ctranslate2"
    device = choose_device(where.device)
    if device.type != "cpu":
        progress.note(f"engine: torch, the only one here for {device}")
        return EXACT
    kept = cache_directory() / "engines.json"
    known = _read(kept)
    key = f"{where.fingerprint()} {where.precision} {_machine()}"
    if key not in known:
        progress.note(f"trying the engines on {PROBES} conversations, once for this model on this machine ...")
        known[key] = [asdict(tried) for tried in _try(where)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, known)
    tried = [Tried(**values) for values in known[key]]
    usable = [one for one in tried if not one.problem and one.agreement >= AGREES_FROM]
    best = min(usable, key=lambda one: one.seconds)
    progress.note(f"engine: {best.engine}, the fastest here of those that say the same. {'; '.join(map(str, tried))}")
    return best.engine


def _try(where: Place) -> list[Tried]:
    exact = make_engine(EXACT, where)
    texts = [source_text(example.source) for example in load(f"chats@validation[:{PROBES}]", DataOptions()).examples]
    rows = [exact.model.encode(text, None, 512) for text in texts]
    seconds, said = _timed(exact, rows)
    found = [Tried(EXACT, seconds, 1.0)]
    for name in ALTERNATIVES:
        try:
            seconds, other = _timed(make_engine(name, where), rows)
        except TomtatError as error:
            found.append(Tried(name, 0.0, 0.0, str(error)))
            continue
        agreement = sum(likeness(a, b) for a, b in zip(said, other, strict=True)) / len(said)
        found.append(Tried(name, seconds, agreement))
    return found


def _timed(engine: Engine, rows: Sequence[Encoded]) -> tuple[float, list[str]]:
    decoding = Decoding(PROBE_TOKENS)
    engine.candidates(rows[:1], decoding)  # the first call allocates and, in CTranslate2, chooses kernels
    started = time.perf_counter()
    found = engine.candidates(rows, decoding)
    return time.perf_counter() - started, [generations[0].text for generations in found]


def _machine() -> str:
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith(("model name", "flags"))][:2]
    versions = [f"{name} {_version(name)}" for name in ("tomtat", "torch", "transformers", "ctranslate2")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return " ".join([platform.machine(), *names, f"{cores} cores", *versions])


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
