"""Whether test rows stood in the training data: word for word, or by shared runs of eight words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tomtat.text import words
from tomtat.text.fragments import ngrams

RUN = 8
NEAR = 0.5
"""A test row counts as seen if this share of its runs of eight words stands in training rows."""


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
    texts = [words(text) for text in test]
    whole = {tuple(text) for text in texts}
    runs = [frozenset(map(hash, ngrams(text, RUN))) for text in texts]
    wanted = frozenset().union(*runs)
    seen_runs: set[int] = set()
    seen_whole: set[tuple[str, ...]] = set()
    for text in train:
        tokens = words(text)
        if tuple(tokens) in whole:
            seen_whole.add(tuple(tokens))
        seen_runs.update(run for run in map(hash, ngrams(tokens, RUN)) if run in wanted)
    exact = tuple(number for number, text in enumerate(texts) if tuple(text) in seen_whole)
    near = tuple(
        number
        for number, row in enumerate(runs)
        if row and number not in exact and len(row & seen_runs) >= NEAR * len(row)
    )
    return Leakage(training, exact, near)
