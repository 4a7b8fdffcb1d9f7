"""What the suite needs to know of a store under test: how to make one and how to hurt it.

A class with `Subject`'s two methods is enough. Each further ability below lets the tests that need it run; where it is
missing they are skipped and say so. Worker processes import the class by its name and call it without arguments, so all
that `open` needs must be in the place.
"""

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import pytest

from tomtat.store.base import Store

Ability = TypeVar("Ability")


class Subject(Protocol):
    def new_place(self, folder: Path) -> str:
        """Where a store can be made that is empty yet. `folder` is the test's own and exists."""

    def open(self, place: str, **options: Any) -> Store:
        """Open the store there, or make it. `options` are given to a subject that `Seals` only: `key`, 32 bytes."""


@runtime_checkable
class Damages(Protocol):
    def damage(self, place: str, conversation: str, seq: int) -> None:
        """Change bytes of what is stored of a turn on branch 0 of the default tenant, also where it lies compressed."""


@runtime_checkable
class DamagesIndex(Protocol):
    def damage_index(self, place: str) -> None:
        """Lose what a search looks up, for some turns."""


@runtime_checkable
class FillsDisk(Protocol):
    def fill_disk(self, place: str) -> AbstractContextManager[None]:
        """While this lasts, the disk takes a few megabytes more at most, then writes fail."""


@runtime_checkable
class LooksForRemains(Protocol):
    def remains(self, place: str, needle: bytes) -> list[str]:
        """Where these bytes are still found in the store's files, or in what lies compressed in them."""


@runtime_checkable
class Seals(Protocol):
    seals: bool
    """`open` takes `key`, and encrypts with it."""


@runtime_checkable
class SearchesNarrowly(Protocol):
    searches_narrowly: bool
    """A search must name its conversation."""


def load(name: str) -> Subject:
    """The subject that `package.module:Class` names."""
    module, separator, attribute = name.partition(":")
    if not separator:
        raise pytest.UsageError(f"--store {name}: give package.module:Class")
    try:
        return cast(Subject, getattr(import_module(module), attribute)())
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--store {name}: {error}") from error


def name_of(subject: Subject) -> str:
    """What `load` takes."""
    return f"{type(subject).__module__}:{type(subject).__qualname__}"


def needs(subject: Subject, ability: type[Ability]) -> Ability:
    """The subject, if it can do this; else the test is skipped."""
    if not isinstance(subject, ability):
        raise pytest.skip.Exception(f"{name_of(subject)} is not one that {ability.__name__}")
    return subject


def needs_wide_search(subject: Subject) -> None:
    if isinstance(subject, SearchesNarrowly) and subject.searches_narrowly:
        raise pytest.skip.Exception(f"{name_of(subject)} searches one conversation at a time")
