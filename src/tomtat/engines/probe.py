"""Which engine is the fastest here, found by trying: once per model and machine, then remembered."""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
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

PROBES = 12
PROBE_TOKENS = 32
EXACT = "torch"
ALTERNATIVES = ("torch-int8", "ctranslate2", "ctranslate2-float32")
AGREES_FROM = 0.92
"""Least share of tokens in which an engine goes on as torch does, for it to be chosen. With SmolLM2-135M on bundled
conversations (LOG.md, 2026-11-29) bf16 goes on as fp32 in 98.7 %, torch-int8 in 96 to 98 %, CTranslate2's int8, whose
summaries score as well, in 93 to 96 %; where one layer of thirty gives twice too much it is 89 %, in 5 bits 87 %.
Likeness of whole summaries tells the two kinds apart badly: after one near-tie all that follows differs. A wrong scale
of all logits changes no greedy token: conversion looks for that."""


@dataclass(frozen=True)
class Tried:
    engine: str
    seconds: float
    agreement: float
    """Share of tokens in which it goes on as torch does, from 0 to 1."""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.engine}: {self.problem}"
        alike = "" if self.engine == EXACT else f" (goes on as torch does in {self.agreement:.1%} of tokens)"
        return f"{self.engine} {self.seconds:.1f} s{alike}"


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
    key = f"{where.fingerprint()} {where.precision} {PROBES} x {PROBE_TOKENS} tokens {_machine()}"
    if key not in known:
        progress.note(f"trying the engines on {PROBES} conversations, once for this model on this machine ...")
        known[key] = [asdict(tried) for tried in _try(where)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, known)
    tried = [Tried(**values) for values in known[key]]
    usable = [one for one in tried if not one.problem and one.agreement >= AGREES_FROM]
    best = min(usable, key=lambda one: one.seconds)
    progress.note(
        f"engine: {best.engine}, the fastest here of those that agree with torch. {'; '.join(map(str, tried))}"
        + (f". Its price in ROUGE: tomtat evaluate RUN --engine {best.engine}" if best.engine != EXACT else "")
    )
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
        cut = exact.model.tokenizer.tokenize
        found.append(Tried(name, seconds, agreement([(cut(a), cut(b)) for a, b in zip(said, other, strict=True)])))
    return found


def agreement(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> float:
    """Share of tokens, of those that two texts say after the same beginning, that are the same.

    What follows the first difference says nothing: it is of another beginning.
    """
    same = parted = 0
    for one, other in pairs:
        alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))
        same += alike
        parted += alike < max(len(one), len(other))
    return same / (same + parted) if same + parted else 1.0


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
