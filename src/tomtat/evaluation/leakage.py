"""Whether test rows stood in the training data: word for word, or by shared runs of eight words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tomtat.text import words
from tomtat.text.runs import RUN, RunIndex, hashed


@dataclass(frozen=True)
class Leakage:
    """Which test rows were seen in training."""

    training: str
    """The data specification it was checked against."""
    exact: tuple[int, ...]
    """Numbers of test rows whose source is a training source, but for case, blanks and punctuation."""
    near: tuple[int, ...]
    """Others that share at least half of their runs of eight words with training sources."""

    @property
    def seen(self) -> frozenset[int]:
        return frozenset(self.exact) | frozenset(self.near)

    def sentence(self, rows: int) -> str:
        if not self.seen:
            return f"None of the {rows:,} rows stands in the training data, nor half of its runs of {RUN} words."
        return (
            f"{len(self.exact):,} of the {rows:,} rows stand in the training data word for word, "
            f"{len(self.near):,} more share at least half of their runs of {RUN} words with it. "
            "The report scores the clean rows apart, where there are three or more."
        )


def find_leakage(test: Sequence[str], train: Iterable[str], training: str) -> Leakage:
    """Memory goes with the test rows only; training rows are looked at one by one."""
    index = RunIndex()
    for text in test:
        index.add(hashed(words(text)))
    search = index.search()
    for number, text in enumerate(train):
        search.look_at(hashed(words(text)), number)
    return Leakage(training, tuple(sorted(search.exact)), tuple(search.near()))
