"""Published or hand-computed values, and the usual mistakes of the field's tools: each would fail a test here."""

import numpy as np
import pytest

from tomtat.assets import MINILM, WORDNET, pull
from tomtat.config import METRICS, EvaluateSettings
from tomtat.errors import ConfigError
from tomtat.metrics import Rows, Scored, Scorer
from tomtat.metrics.meteor import Meteor
from tomtat.metrics.rouge import Rouge
from tomtat.metrics.values import bleu_from_counts
from tomtat.types import Fact


def score(predictions: list[str], rows: Rows, *metrics: str) -> Scored:
    return Scorer(rows, EvaluateSettings(metrics=list(metrics))).score(predictions)


def values(scored: Scored) -> dict[str, float]:
    return {item.name: item.value for item in scored.scores}


def refs(*texts: str) -> Rows:
    return Rows([(text,) for text in texts])


# ROUGE


def test_our_tokenizer_gives_rouge_scores_own_numbers():
    from rouge_score.rouge_scorer import RougeScorer

    plain, ours = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True), Rouge("google")
    texts = [
        "The ministers' talks\nended on 5 May 2020.",
        "Ministers talked; ending in May.\nIt's over!",
        "naïve café",
        "",
    ]
    for a in texts:
        for b in texts:
            found, expected = ours.pair(a, b), plain.score(b, a)
            assert all(tuple(found[kind]) == pytest.approx(tuple(expected[kind])) for kind in expected)


@pytest.mark.parametrize(
    ("language", "text", "other"),
    [
        ("zh", "今天天气很好。我们去公园。", "今天天气不好。"),
        ("vi", "Ông ấy bán nhà ở Huế.", "Ông ấy bạn nhà ở Huế."),
        ("ar", "اجتمع الوزراء في القاهرة يوم الاثنين", "اجتمع الوزراء في دمشق"),
        ("hi", "मंत्री सोमवार को दिल्ली में मिले", "मंत्री कल मिले"),
        ("th", "ประชุมวันจันทร์", "ประชุมวันศุกร์"),
        ("ru", "Министры встретились в Москве", "Министры уехали"),
    ],
)
def test_no_language_scores_zero_for_its_letters(language: str, text: str, other: str):
    scorer = Scorer(refs(text), EvaluateSettings(metrics=["rouge", "rouge155", "meteor"]))
    assert (scorer.protocol, scorer.language) == ("unicode", language)
    assert values(scorer.score([text]))["rouge1"] == pytest.approx(100)
    assert 0 < values(scorer.score([other]))["rouge1"] < 100
    assert set(scorer.not_run) == {"rouge155", "meteor"}  # English metrics say why, and give no number


def test_vietnamese_marks_tell_words_apart():
    # rouge-score's own words would be "b" and "n" on both sides: 100.
    assert values(score(["bạn"], refs("bán"), "rouge"))["rouge1"] == 0


def test_english_with_foreign_names_stays_with_rouge_scores_words():
    text = "Beyoncé and her band played in the old town for two hours on Sunday evening. " + "Nobody left early. " * 10
    assert Scorer(refs(text), EvaluateSettings(metrics=["rouge"])).protocol == "google"
    recipe = score([text], refs(text), "rouge").scores[0].recipe
    assert "ROUGE google" in recipe
    assert "n=1" in recipe


def test_newlines_on_one_side_only_cost_nothing():
    flat, lines = "Ann stayed home. Bob left early.", "Ann stayed home.\nBob left early."
    assert values(score([flat], refs(lines), "rouge"))["rougeLsum"] == 100
    assert values(score([lines], refs(flat), "rouge"))["rougeLsum"] == 100


def test_policies_over_references_by_hand():
    # ROUGE-1 against the three: 100, 50, 0. Left out in turn, the best of the others: 50, 100, 100.
    rows = Rows([("red fox", "red whale", "blue dog")])
    found = values(score(["red fox"], rows, "rouge"))
    assert (found["rouge1"], found["rouge1-best"]) == (50, 100)
    assert found["rouge1-jackknife"] == pytest.approx(250 / 3)


def test_the_human_line_is_each_reference_against_the_others():
    # Pairs: 50 (red), 0, 0. Means: 25, 25, 0; best of the others: 50, 50, 0.
    human = Scorer(Rows([("red fox", "red whale", "blue dog")]), EvaluateSettings(metrics=["rouge"])).score_humans()
    assert human is not None
    assert values(human)["rouge1"] == pytest.approx(50 / 3)
    assert values(human)["rouge1-jackknife"] == pytest.approx(100 / 3)
    assert Scorer(Rows([("a", "b"), ("c",)]), EvaluateSettings(metrics=["rouge"])).score_humans() is None


# BLEU


def test_corpus_bleu_from_counts_is_sacrebleus_own():
    from sacrebleu.metrics import BLEU

    predictions = ["the cat sat on the mat", "he left", "", "a completely different line of words", "on the mat"]
    references = ["the cat sat on a mat", "he left early today", "x", "nothing in common here", "on the mat now"]
    for k in range(1, 6):
        found = values(score(predictions[:k], refs(*references[:k]), "bleu"))["bleu"]
        assert found == pytest.approx(BLEU().corpus_score(predictions[:k], [references[:k]]).score)
    assert bleu_from_counts(np.zeros(10)) == 0


def test_a_list_cut_to_the_shorter_one_is_refused():
    with pytest.raises(Exception, match="2 predictions but references for 1"):
        score(["a", "b"], refs("a"), "bleu")


def test_bleu_with_several_references_takes_all_at_once():
    from sacrebleu.metrics import BLEU

    rows = Rows([("the cat sat here", "a cat sat down"), ("he left early", "he went away early")])
    predictions = ["a cat sat here", "he left away early"]
    streams = [[texts[k] for texts in rows.references] for k in range(2)]
    assert values(score(predictions, rows, "bleu"))["bleu"] == pytest.approx(
        BLEU().corpus_score(predictions, streams).score
    )


# METEOR


@pytest.fixture(scope="module")
def meteor() -> Meteor:
    return Meteor(pull(WORDNET))


@pytest.mark.slow
def test_synonyms_count_by_surface_form(meteor: Meteor):
    # All match in one chunk of four: 1 - 0.5 * (1/4)^3.
    expected = 1 - 0.5 / 64
    assert meteor.pair("the film was long".split(), "the movie was long".split()) == pytest.approx(expected)
    assert meteor.pair("the films were long".split(), "the movie were long".split()) == pytest.approx(expected)


@pytest.mark.slow
def test_meteor_by_hand(meteor: Meteor):
    # Two matches in two chunks, P 2/3, R 2/2: F = P R / (0.9 P + 0.1 R), penalty 0.5 * 1.
    mean = (2 / 3) / (0.9 * 2 / 3 + 0.1)
    assert meteor.pair("red qqq fox".split(), "red fox".split()) == pytest.approx(0.5 * mean)
    assert meteor.pair(["dogs"], ["dog"]) == pytest.approx(0.5)
    assert meteor.pair([], ["dog"]) == meteor.pair(["cat"], ["dog"]) == 0


@pytest.mark.slow
def test_synonyms_are_wordnets(meteor: Meteor):
    from tomtat.metrics.wordnet import load_wordnet

    wordnet = load_wordnet(pull(WORDNET))
    assert {"movie", "film", "flick", "pic", "picture"} <= wordnet.synonyms("movies")
    assert "goose" in wordnet.synonyms("geese")
    assert wordnet.synonyms("qqqq") == frozenset()


# BERTScore: values printed by bert-score 0.3.13, BERTScorer(model_type=<MiniLM's folder>, num_layers=5, idf=...)

CANDIDATES = [
    "The meeting was moved to Friday.",
    "Nina is ill.",
    "A cat sat on the mat.",
    "Nobody paid for the trip to Rome.",
]
REFERENCES = [
    "They moved the meeting to Friday because Nina is ill.",
    "Nina is sick.",
    "Stocks fell sharply on Monday.",
    "The trip to Rome was paid by nobody.",
]
BERT = {False: [84.2347, 89.8731, 43.1793, 90.8039], True: [83.0484, 85.4660, 34.9345, 88.3017]}


@pytest.mark.slow
@pytest.mark.parametrize("idf", [False, True])
def test_bertscore_is_bert_scores_own(idf: bool):
    from tomtat.metrics.bertscore import BertScore

    pull(MINILM)
    metric = BertScore(idf=idf)
    [found] = metric.measure(CANDIDATES, refs(*REFERENCES)).values
    assert list(found.per_row) == pytest.approx(BERT[idf], abs=2e-3)
    assert metric.recipe.startswith(f"BERTScore[all-MiniLM-L6-v2@L5,{'idf' if idf else 'noidf'},norescale,max512]")


@pytest.mark.slow
def test_bertscore_scores_empty_texts_zero_and_tells_what_is_too_long():
    from tomtat.metrics.bertscore import BertScore

    pull(MINILM)
    measured = BertScore().measure(["", "word " * 600, "a b"], refs("a b", "word " * 600, "a b"))
    assert list(measured.values[0].per_row) == pytest.approx([0, 100, 100], abs=1e-3)
    assert "1 of 3 predictions" in measured.notes[0]


def test_an_encoder_that_is_not_there_is_said_and_not_guessed(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path))
    scorer = Scorer(refs("a plain text"), EvaluateSettings(metrics=["rouge", "rouge155", "meteor", "bertscore"]))
    assert scorer.not_run.keys() == {"rouge155", "meteor", "bertscore"}
    assert all("tomtat models pull" in why for why in scorer.not_run.values())
    assert not any(name.startswith(("meteor", "bert", "rouge155")) for name in values(scorer.score(["a"])))


# Faithfulness and form

SOURCE = "Nina: The talk on Monday is off.\nOmar: So Friday at 14:30? It costs 1,250 dollars for three people."


def faithful(summary: str) -> dict[str, float]:
    rows = Rows([("x",)], [SOURCE], [(Fact("14:30", "t2", "When?"), Fact("Berlin", "t2", "Where?"))])
    return values(score([summary], rows, "faithfulness"))


def test_numbers_names_and_dates_are_looked_up_in_the_source():
    true = faithful("Nina tells Omar on Friday at 14:30: 3 people, 1250 dollars.")
    assert (true["numbers-in-source"], true["names-in-source"], true["dates-in-source"]) == (100, 100, 100)
    false = faithful("Nina tells Bob on Sunday at 15:00: four people.")
    assert (false["numbers-in-source"], false["names-in-source"], false["dates-in-source"]) == (0, 50, 0)


def test_facts_of_the_data_are_kept_or_lost():
    assert faithful("They meet at 14:30.")["facts-kept"] == 50


def test_what_a_summary_has_none_of_is_no_score():
    assert "numbers-in-source" not in faithful("nobody came")


def test_precision_against_the_source_is_clipped():
    assert faithful("omar omar omar xyz")["source-precision"] == 25


def test_fragments_by_hand():
    # Grusky et al.: fragments of 3 and 1 words in a summary of 5: coverage 4/5, density (9 + 1) / 5.
    rows = Rows([("x",)], ["the red fox ran away and slept"])
    found = values(score(["the red fox never slept"], rows, "form"))
    assert found["coverage"] == pytest.approx(80)
    assert found["density"] == pytest.approx(2)
    assert found["compression"] == pytest.approx(7 / 5)
    assert (found["novel-1"], found["novel-2"]) == (pytest.approx(20), pytest.approx(50))


def test_repetition_and_empty_summaries_are_counted():
    rows = Rows([("x",), ("y",)], ["a b c", "d"])
    found = values(score(["so it is so it is", ""], rows, "form"))
    assert found["repetition"] == pytest.approx(25)  # of 4 trigrams, "so it is" comes twice
    assert found["empty"] == 50
    assert found["words"] == 3


@pytest.mark.parametrize("text", ["", "a", "a b", "<b>x</b> & {y}", "word " * 600, "🙂", "\u2028"])
def test_no_text_breaks_a_metric(text: str):
    names = [name for name in METRICS if name not in ("rouge155", "meteor", "bertscore")]
    scored = score([text, "plain"], Rows([("a b",), (text or "x",)], [text, "source"], [(), ()]), *names)
    assert all(np.isfinite(item.value) and item.low <= item.value <= item.high for item in scored.scores)


def test_an_unknown_metric_is_refused():
    from tomtat.config import load_evaluate_settings

    with pytest.raises(ConfigError, match="there is no 'rogue'"):
        load_evaluate_settings(EvaluateSettings(), ['evaluate.metrics=["rogue"]'])
    with pytest.raises(ConfigError, match="only settings under evaluate"):
        load_evaluate_settings(EvaluateSettings(), ["lora.rank=4"])
