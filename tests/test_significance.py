"""The tests themselves tested: known answers, and what a difference must survive."""

from itertools import product

import numpy as np
import pytest

from tomtat.evaluation.verdict import verdict
from tomtat.metrics.significance import Difference, differences, holm
from tomtat.metrics.values import RowValues, mean_of


def values(numbers: list[float], name: str = "rouge1") -> list[RowValues]:
    return [mean_of(name, "recipe", numbers)]


def test_the_permutation_p_is_the_exact_one_on_few_rows():
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 2.5, 5.0, 4.5, 7.0, 5.5]
    gaps = np.subtract(b, a)
    exact = np.mean([abs(gaps @ signs) >= abs(gaps.sum()) - 1e-9 for signs in product((-1, 1), repeat=6)])
    [found] = differences(values(a), values(b))
    assert found.p == pytest.approx(exact, abs=0.015)
    assert found.value == pytest.approx(gaps.mean())


def test_equal_outputs_never_differ():
    [found] = differences(values([1.0, 5.0, 3.0]), values([1.0, 5.0, 3.0]))
    assert (found.p, found.value, found.low, found.high) == (1.0, 0, 0, 0)


def test_a_paired_difference_is_seen_although_the_separate_intervals_overlap():
    generator = np.random.default_rng(1)
    rows = generator.normal(30, 12, 200)
    better = rows + generator.normal(1.0, 2.0, 200)
    [found] = differences(values(list(rows)), values(list(better)))
    assert found.p < 0.01
    assert found.low > 0
    assert found.detectable < 1


def test_the_detectable_size_is_about_three_standard_errors():
    gaps = np.random.default_rng(0).normal(0, 10, 400)
    [found] = differences(values([0.0] * 400), values(list(gaps)))
    assert found.detectable == pytest.approx(2.8 * 10 / 20, rel=0.1)


def test_false_alarms_are_as_rare_as_promised():
    generator = np.random.default_rng(3)
    alarms = 0
    for repeat in range(200):
        a, b = generator.normal(0, 1, (2, 40))
        alarms += differences(values(list(a)), values(list(b)), permutations=300, seed=repeat)[0].p <= 0.05
    assert alarms <= 20  # 10 expected


def test_holms_correction_by_hand():
    found = [Difference(name, 0, 1, 0, 1, p, p, 1, 50) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))]
    assert [item.p_corrected for item in holm(found)] == pytest.approx([0.03, 0.06, 0.06])


def test_corpus_bleu_is_compared_by_its_counts():
    counts = np.tile([4.0, 2, 1, 1, 5, 4, 3, 2, 5, 5], (30, 1))
    worse = counts.copy()
    worse[:, 0] = 2
    a, b = (RowValues("bleu", "r", columns, "bleu") for columns in (counts, worse))
    [found] = differences([a], [b])
    assert found.value < 0
    assert found.p < 0.001


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([("rouge1", 2.0, 0.01), ("bleu", 1.0, 0.01)], "b is better than a"),
        ([("rouge1", -2.0, 0.01)], "b is worse than a"),
        ([("rouge1", 0.5, 0.4)], "No evidence of a difference"),
        ([("rouge1", 2.0, 0.01), ("bleu", -1.0, 0.01)], "Mixed"),
        ([], "no metric of quality"),
    ],
)
def test_verdicts_in_words(found: list[tuple[str, float, float]], words: str):
    items = [Difference(name, 10, 10 + value, value - 1, value + 1, p, p, 0.5, 100) for name, value, p in found]
    assert words in verdict("a", "b", items, 100)
