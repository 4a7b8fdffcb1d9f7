"""What tests are given, and the few messages they say."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tomtat.store.base import Store
from tomtat.store.conformance.subject import Subject, load
from tomtat.store.values import Turn

Messages = list[dict[str, Any]]


@pytest.fixture(scope="session")
def subject(pytestconfig: pytest.Config) -> Subject:
    name = pytestconfig.getoption("--store", None)
    if not name:
        raise pytest.UsageError("Say which store to test: --store package.module:Subject")
    return load(name)


@pytest.fixture
def place(subject: Subject, tmp_path: Path) -> str:
    return subject.new_place(tmp_path)


@pytest.fixture
def store(subject: Subject, place: str) -> Iterator[Store]:
    with subject.open(place) as opened:
        yield opened


def says(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(count: int, about: str = "message") -> Messages:
    """User and assistant in turn, each message another."""
    return [says(f"{about} number {n}", "assistant" if n % 2 == 0 else "user") for n in range(1, count + 1)]


def contents(turns: Sequence[Turn]) -> list[Any]:
    return [turn.message["content"] for turn in turns]


def messages(turns: Sequence[Turn]) -> Messages:
    return [dict(turn.message) for turn in turns]


def noise(size: int, seed: int = 0) -> str:
    """A text that no compression makes small."""
    return random.Random(seed).randbytes(size // 2).hex()
