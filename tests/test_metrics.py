"""Known values, worked out by hand or printed by the reference tools."""

import pytest

from tomtat.config import EvaluateSettings
from tomtat.errors import DataError
from tomtat.metrics import Rows, Scorer
from tomtat.metrics.values import mean_of, score_rows
from tomtat.text import sentences
from tomtat.types import Score

PLAIN = EvaluateSettings(metrics=["rouge", "bleu", "bleu-nltk"])


def score_all(predictions: list[str], references: list[list[str]]) -> list[Score]:
    return Scorer(Rows([tuple(texts) for texts in references]), PLAIN).score(predictions).scores


def values(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    return {score.name: score.value for score in score_all(predictions, references)}


def test_identical_texts_score_100_and_foreign_ones_0():
    same = values(["the cat sat on the mat today"], [["the cat sat on the mat today"]])
    assert same == pytest.approx(dict.fromkeys(same, 100.0))
    other = values(["alpha beta gamma delta"], [["one two three four"]])
    assert other["rouge1"] == other["rouge2"] == other["rougeLsum"] == other["bleu"] == 0


def test_rouge_by_hand():
    # 2 of 3 predicted and 2 of 4 reference words match: P 2/3, R 2/4, F 4/7. One bigram of 2 and of 3: F 2/5.
    result = values(["red fox runs"], [["red fox sleeps here"]])
    assert result["rouge1"] == pytest.approx(100 * 4 / 7)
    assert result["rouge2"] == pytest.approx(100 * 2 / 5)


def test_stems_count_as_equal():
    assert values(["dogs running"], [["dog runs"]])["rouge1"] == 100


def test_lsum_splits_both_sides_into_sentences():
    # One side with newlines, the other flat: without splitting both, the order of sentences would cost half.
    result = values(["Bob left early. Ann stayed home."], [["Ann stayed home.\nBob left early."]])
    assert result["rougeLsum"] == 100
    assert result["rougeL"] == 50


def test_the_notebooks_bleu_is_the_mean_over_rows_split_on_blanks():
    # NLTK's method1 gives two equal one-word texts (1 * 0.1 * 0.1 * 0.1) ** 0.25.
    assert values(["word"], [["word"]])["bleu-nltk"] == pytest.approx(17.78, abs=0.01)
    # "mat." and "mat" differ when split on blanks, and agree for sacreBLEU's tokenizer but for the full stop.
    texts = values(["the cat sat on the mat."], [["the cat sat on the mat ."]])
    assert texts["bleu-nltk"] < 80
    assert texts["bleu"] == pytest.approx(100)


def test_several_references_show_their_mean_and_their_best():
    result = values(["red fox"], [["red fox", "blue whale"]])
    assert (result["rouge1"], result["rouge1-best"]) == (50, 100)


def test_rows_may_have_different_numbers_of_references():
    assert values(["red fox", "blue"], [["red fox", "x"], ["blue"]])["rouge1-best"] == 100


def test_an_empty_prediction_scores_0_and_breaks_nothing():
    result = values(["", "red fox runs far away"], [["red fox"], ["red fox runs far away"]])
    assert result["rouge1"] == 50


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [(["a", "b"], [["a"]], "2 predictions"), ([], [], "no row"), (["a"], [[]], "have no reference")],
)
def test_uneven_input_is_refused(predictions: list[str], references: list[list[str]], message: str):
    with pytest.raises(DataError, match=message):
        score_all(predictions, references)


def test_each_score_carries_its_recipe_and_an_interval():
    for score in score_all(["red fox runs", "blue whale"], [["red fox"], ["a blue whale swims"]]):
        assert score.low <= score.value <= score.high
        assert "n=2" in score.recipe


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    [score] = score_rows([mean_of("half", "recipe", [0.0, 1.0] * 200)])  # standard error 0.025
    assert (score.low, score.high) == pytest.approx((0.45, 0.55), abs=0.01)


def test_sentences_end_at_newlines_and_full_stops_but_not_in_abbreviations():
    assert sentences("Dr. Lee left at 5 p.m. on Monday.\nShe called. Really?") == [
        "Dr. Lee left at 5 p.m. on Monday.",
        "She called.",
        "Really?",
    ]
