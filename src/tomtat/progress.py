"""How long work tells what it is doing. The command line shows it; from Python it is silent by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, count: int, figures: str = "") -> None: ...


class Progress:
    """Says nothing; the command line's one overrides both."""

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""

    def pauses_after(self, epoch: int) -> bool:
        """Whether training is to stop after this epoch, to be gone on with later."""
        return False

    @contextmanager
    def task(self, name: str, total: int, unit: str = "examples", done: int = 0) -> Iterator[Advance]:
        """Work of `total` units; call the value with each number done and, where wanted, figures such as the loss."""

        def advance(count: int, figures: str = "") -> None:
            pass

        yield advance
