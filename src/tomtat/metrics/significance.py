"""Whether two systems differ on the same rows: paired permutation test, paired bootstrap interval, Holm's correction.

The permutation test (Fisher; approximate randomisation, Noreen 1989) swaps the two systems' outputs row by row: were
there no difference, each swap would be as good as the next. Separate intervals that overlap prove nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from tomtat.metrics.values import CHUNK, RESAMPLES, SEED, Array, RowValues, resamples

PERMUTATIONS = 10_000
LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """How one metric of system `b` differs from that of `a` on the same rows."""

    metric: str
    a: float
    b: float
    low: float
    """Lower end of the paired 95 % interval of b - a."""
    high: float
    p: float
    """Two-sided, of the permutation test."""
    p_corrected: float
    """Holm's, over all differences that were looked at together; the test that counts."""
    error: float
    """Standard error of b - a, from the paired bootstrap."""
    rows: int
    together: int = 1
    """How many differences the correction runs over."""

    @property
    def value(self) -> float:
        return self.b - self.a

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that these rows would show with 80 % power after the correction.

        None where no difference can be: fewer rows than a permutation test needs to get below the level, or outputs
        that do not differ at all. Bonferroni's level, which Holm's first step takes; later steps see smaller ones.
        """
        if 2 / 2**self.rows > LEVEL / self.together or not self.error:
            return None
        quantile = NormalDist().inv_cdf
        return (quantile(1 - LEVEL / (2 * self.together)) + quantile(POWER)) * self.error

    @property
    def is_significant(self) -> bool:
        return self.p_corrected <= LEVEL


def differences(
    a: Sequence[RowValues], b: Sequence[RowValues], permutations: int = PERMUTATIONS, seed: int = SEED
) -> list[Difference]:
    """One per metric that both have, in a's order; `p_corrected` is still `p` (see `holm`)."""
    of_b = {metric.name: metric for metric in b}
    pairs = [(metric, of_b[metric.name]) for metric in a if metric.name in of_b]
    if not pairs:
        return []
    p_values = _permutation_p([*pairs], permutations, seed)
    intervals, errors = _paired_intervals(pairs, seed)
    return [
        Difference(ours.name, ours.value, theirs.value, *interval, p, p, error, len(ours.columns))
        for (ours, theirs), p, interval, error in zip(pairs, p_values, intervals, errors, strict=True)
    ]


def holm(found: Sequence[Difference]) -> list[Difference]:
    """Holm's step-down correction (1979): the chance of any false alarm among all of them stays at the level."""
    order = sorted(range(len(found)), key=lambda n: found[n].p)
    corrected = [1.0] * len(found)
    highest = 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(found) - rank) * found[number].p))
        corrected[number] = highest
    return [
        replace(difference, p_corrected=p, together=len(found)) for difference, p in zip(found, corrected, strict=True)
    ]


Pairs = Sequence[tuple[RowValues, RowValues]]


def _permutation_p(pairs: Pairs, permutations: int, seed: int) -> list[float]:
    """(1 + permutations at least as far apart as what was seen) / (1 + permutations), by metric."""
    rows = len(pairs[0][0].columns)
    gaps = [b.columns - a.columns for a, b in pairs]
    columns = np.concatenate(gaps, axis=1)
    ends = _ends(gaps)
    seen = [abs(b.value - a.value) for a, b in pairs]
    as_far = np.ones(len(pairs))
    for swaps in _swaps(rows, permutations, seed):
        moved = np.split(swaps @ columns, ends, axis=1)
        for number, ((a, b), sums) in enumerate(zip(pairs, moved, strict=True)):
            swapped = a.total(a.columns.sum(axis=0) + sums) - b.total(b.columns.sum(axis=0) - sums)
            # Equal up to rounding counts as equal: two systems with the same outputs never differ.
            as_far[number] += np.count_nonzero(~(np.abs(swapped) < seen[number] - 1e-9))
    return [float(count / (1 + permutations)) for count in as_far]


def _swaps(rows: int, permutations: int, seed: int) -> Iterator[Array]:
    """Chunks of (chunk, rows): 1 where a row's outputs change places."""
    generator = np.random.default_rng([seed, 1])
    for start in range(0, permutations, 5 * CHUNK):
        size = (min(5 * CHUNK, permutations - start), rows)
        yield generator.integers(0, 2, size, dtype=np.int8).astype(np.float64)


def _paired_intervals(pairs: Pairs, seed: int) -> tuple[list[tuple[float, float]], list[float]]:
    """95 % percentile intervals of b - a, and the standard errors, over the same resampled rows for both."""
    rows = len(pairs[0][0].columns)
    both = [np.concatenate([a.columns, b.columns], axis=1) for a, b in pairs]
    columns, ends = np.concatenate(both, axis=1), _ends(both)
    found: list[list[Array]] = [[] for _ in pairs]
    for weights in resamples(rows, RESAMPLES, seed):
        for number, ((a, b), sums) in enumerate(zip(pairs, np.split(weights @ columns, ends, axis=1), strict=True)):
            width = a.columns.shape[1]
            found[number].append(b.total(sums[:, width:]) - a.total(sums[:, :width]))
    values = [np.concatenate(chunks) for chunks in found]
    intervals = [(float(low), float(high)) for low, high in (np.nanpercentile(v, [2.5, 97.5]) for v in values)]
    return intervals, [float(np.nanstd(v)) for v in values]


def _ends(parts: Sequence[Array]) -> Array:
    return np.cumsum([part.shape[1] for part in parts])[:-1]
