"""ROUGE as the Perl script ROUGE-1.5.5 has it."""

import json
from pathlib import Path

import pytest

from tomtat.assets import WORDNET, pull
from tomtat.metrics.rouge import Rouge
from tomtat.metrics.stemmers import PerlPorterStemmer

PAIRS = Path(__file__).parents[2] / "shared" / "data" / "rouge155" / "pairs.jsonl"


@pytest.fixture(scope="module")
def rouge(tmp_path_factory: pytest.TempPathFactory) -> Rouge:
    """With four irregular forms in place of WordNet's lists."""
    folder = tmp_path_factory.mktemp("wordnet")
    lists = {"verb": "ran run\nwas be\nbroken break", "noun": "geese goose\nbroken brokenness", "adv": "", "adj": ""}
    for part, text in lists.items():
        (folder / f"{part}.exc").write_text(text)
    return Rouge("rouge155", wordnet=folder)


# Prediction, reference (a sentence a line), then F of ROUGE-1, ROUGE-2 and summary-level ROUGE-L, worked out by hand.
BY_HAND = {
    "the same": ("the cat sat", "the cat sat", 1, 1, 1),
    "a stem": ("police killed gunmen", "police kills the gunmen", 6 / 7, 2 / 5, 6 / 7),
    # Lin's own example: the union of w1 w2 and w1 w3 w5 is four of five; 4/10 and 4/5 make 8/15.
    "the union of two sentences": ("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 8 / 15, 2 / 13, 8 / 15),
    "repeated words count as often as the reference has them": ("the the the", "the cat the", 2 / 3, 0, 2 / 3),
    "hyphens divide words": ("a 22-year-old man", "a 22 year old man", 1, 1, 1),
    "three letters stay as they are, irregular or not": ("he ran", "he run", 1 / 2, 0, 1 / 2),
    # The base from the list is not stemmed, the base itself is: "goose" and "goos" do not match.
    "an irregular form is replaced, its base stemmed": ("the geese", "the goose", 1 / 2, 0, 1 / 2),
    "a later list wins": ("broken", "brokenness", 0, 0, 0),
    # -ment and then -ion go in one step there: apportionment becomes apport.
    "step 4 goes on where Porter's ends": ("apportionment", "apport", 1, 0, 1),
    "sentences in another order": ("Bob left\nAnn stayed", "Ann stayed\nBob left", 1, 2 / 3, 1),
    "nothing": ("", "the cat", 0, 0, 0),
}


@pytest.mark.parametrize("case", BY_HAND.values(), ids=BY_HAND.keys())
def test_values_by_hand(rouge: Rouge, case: tuple[str, str, float, float, float]):
    prediction, reference, *expected = case
    scores = rouge.pair(prediction, reference)
    assert [scores[kind].fmeasure for kind in ("rouge1", "rouge2", "rougeLsum")] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("agreement", "agreem"),  # -ement needs more than one syllable before it, -ent takes what is left
        ("agreements", "agreem"),
        ("argument", "argum"),
        ("accidental", "accid"),
        ("affectionate", "affect"),
        ("analogy", "analog"),
        ("possibly", "possibl"),
        ("parties", "parti"),
        ("management", "manag"),
    ],
)
def test_stems_of_the_perl_script(word: str, stem: str):
    assert PerlPorterStemmer().stem(word) == stem


@pytest.mark.slow
def test_all_pairs_agree_with_the_perl_script():
    if not PAIRS.exists():
        pytest.skip("shared/data/rouge155 is not beside this checkout")
    rouge = Rouge("rouge155", wordnet=pull(WORDNET))
    kinds = {"rouge1": "rouge-1", "rouge2": "rouge-2", "rougeLsum": "rouge-l"}
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 300
    for row in rows:
        scores = rouge.pair("\n".join(row["prediction"]), "\n".join(row["reference"]))
        for ours, theirs in kinds.items():
            found = (scores[ours].recall, scores[ours].precision, scores[ours].fmeasure)
            assert found == pytest.approx(tuple(row[theirs][part] for part in "rpf"), abs=1e-5), row["id"]
