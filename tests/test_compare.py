"""Evaluations on disk, compared: and refused where the numbers were made differently."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Finished, rows, write_jsonl
from tomtat.errors import ConfigError, DataError, RunError
from tomtat.evaluation import compare, evaluate_predictions

SETTINGS = {"evaluate.metrics": ["rouge", "bleu", "form"]}


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "test.jsonl", rows(30))


def predictions(path: Path, make: Callable[[dict[str, Any]], str], ids: Callable[[str], Any] = str) -> Path:
    return write_jsonl(path, [{"id": ids(row["id"]), "prediction": make(row)} for row in rows(30)])


@pytest.fixture
def good(tmp_path: Path, references: Path) -> Path:
    file = predictions(tmp_path / "good.jsonl", lambda row: row["summary"])
    return evaluate_predictions([file], str(references), tmp_path / "good", settings=SETTINGS).path


@pytest.fixture
def bad(tmp_path: Path, references: Path) -> Path:
    file = predictions(tmp_path / "bad.jsonl", lambda row: "they meet on the moon")
    return evaluate_predictions([file], str(references), tmp_path / "bad", settings=SETTINGS).path


def test_a_better_system_is_called_better_in_words(good: Path, bad: Path):
    found = compare([bad, good])
    [pair] = found.pairs
    assert pair.verdict.startswith("good is better than bad: rouge1")
    assert found.rows == 30
    assert {item.metric for item in pair.differences} == {"rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"}
    stored = json.loads((good / "scores.json").read_text())["systems"]["good"]["scores"]["rouge1"]["value"]
    assert next(item for item in pair.differences if item.metric == "rouge1").b == pytest.approx(stored, abs=1e-4)


def test_three_systems_are_corrected_together(good: Path, bad: Path, tmp_path: Path, references: Path):
    file = predictions(tmp_path / "third.jsonl", lambda row: row["dialogue"][:60])
    third = evaluate_predictions([file], str(references), tmp_path / "third", settings=SETTINGS).path
    found = compare([good, bad, third], metrics=["rouge1"])
    assert [(pair.a, pair.b) for pair in found.pairs] == [("good", "bad"), ("good", "third"), ("bad", "third")]
    smallest = min(pair.differences[0].p for pair in found.pairs)
    assert min(pair.differences[0].p_corrected for pair in found.pairs) == pytest.approx(3 * smallest)


def test_other_rows_are_refused(good: Path, tmp_path: Path):
    other = write_jsonl(tmp_path / "other.jsonl", [row | {"summary": "Changed."} for row in rows(30)])
    file = predictions(tmp_path / "p.jsonl", lambda row: "x y")
    elsewhere = evaluate_predictions([file], str(other), tmp_path / "elsewhere", settings=SETTINGS).path
    with pytest.raises(RunError, match="different rows"):
        compare([good, elsewhere])


def test_another_protocol_is_refused(good: Path, tmp_path: Path, references: Path):
    file = predictions(tmp_path / "p.jsonl", lambda row: "x y")
    settings = SETTINGS | {"evaluate.rouge_words": "unicode"}
    other = evaluate_predictions([file], str(references), tmp_path / "unicode", settings=settings).path
    with pytest.raises(RunError, match=r"rouge1 was measured differently.*google.*unicode"):
        compare([good, other])
    assert compare([good, other], metrics=["bleu"]).pairs  # what was measured alike can be compared


def test_other_limits_are_refused_unless_asked_for(good: Path, bad: Path):
    for path, limit in ((good, 40), (bad, 80)):
        scores = json.loads((path / "scores.json").read_text())
        scores["generation"] = {"max_new_tokens": limit, "max_source_tokens": 512}
        (path / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(RunError, match=r"max_new_tokens 40 and 80.*--across-limits"):
        compare([good, bad])
    assert "40 and 80" in str(compare([good, bad], across_limits=True).limits_differ)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "values.jsonl").unlink(), "no whole evaluation"),
        (lambda path: (path / "values.jsonl").write_text("{"), "no whole evaluation"),
        (lambda path: (path / "scores.json").write_text("{}"), "no whole evaluation"),
        (lambda path: (path / "values.jsonl").write_text('{"id": 1, "systems": {}}\n'), "stopped half-way"),
        (lambda path: (path / "scores.json").unlink(), "no evaluation yet"),
    ],
)
def test_a_damaged_evaluation_is_one_line(good: Path, bad: Path, damage: Callable[[Path], Any], message: str):
    damage(good)
    with pytest.raises(RunError, match=message):
        compare([bad, good])


def test_what_can_not_be_compared_says_so(good: Path, bad: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="at least two"):
        compare([good])
    with pytest.raises(ConfigError, match="named twice"):
        compare([good, good])
    with pytest.raises(RunError, match="There is no"):
        compare([good, tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="has not measured it"):
        compare([good, bad], metrics=["meteor"])
    with pytest.raises(RunError, match="no system 'tuned'"):
        compare([good, f"{bad}:tuned"])


def test_a_yardstick_of_the_same_evaluation_can_be_named(good: Path):
    [pair] = compare([good, f"{good}:lead-3"]).pairs
    assert (pair.a, pair.b) == ("good", "lead-3")


def test_the_command_prints_a_table_and_a_verdict(
    tomtat: Callable[..., Finished], good: Path, bad: Path, tmp_path: Path
):
    done = tomtat("compare", bad, good, "--out", tmp_path / "comparison.json")
    assert done.code == 0
    assert "good is better than bad" in done.out
    assert "Holm" in done.out
    assert json.loads((tmp_path / "comparison.json").read_text())["pairs"][0]["b"] == "good"
    assert tomtat("compare", good).code == 2


# Predictions made elsewhere


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], r"no prediction for 1 id \(row-0\)"),
        (lambda lines: [*lines, {"id": "row-99", "prediction": "x"}], r"no reference for 1 id \(row-99\)"),
        (lambda lines: [*lines, lines[0]], "line 31: the id 'row-0' stands in the file already"),
        (lambda lines: [{"prediction": "x"}, *lines[1:]], "line 1: no 'id'"),
        (lambda lines: [{"id": "row-0", "text": "x"}, *lines[1:]], "no field with the prediction"),
        (lambda lines: [{"id": "row-0", "prediction": None}, *lines[1:]], "must be a text"),
        (lambda lines: [[1], *lines[1:]], "not an object"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path: Path, references: Path, change: Any, message: str):
    lines = [{"id": row["id"], "prediction": "x"} for row in rows(30)]
    file = write_jsonl(tmp_path / "p.jsonl", change(lines))
    with pytest.raises(DataError, match=message):
        evaluate_predictions([file], str(references), tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out").exists()


def test_ids_are_joined_whatever_their_order_and_kind(tmp_path: Path):
    data = write_jsonl(
        tmp_path / "t.jsonl", [{"id": n, "text": f"text {n}", "summary": f"word{n} here"} for n in range(4)]
    )
    file = write_jsonl(tmp_path / "p.jsonl", [{"id": str(n), "summary": f"word{n} here"} for n in reversed(range(4))])
    evaluation = evaluate_predictions([file], str(data), tmp_path / "out", settings=SETTINGS)
    assert evaluation.score("rouge1").value == 100


def test_a_folder_with_other_things_in_it_is_not_replaced(tmp_path: Path, references: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    file = predictions(tmp_path / "p.jsonl", lambda row: "x")
    with pytest.raises(ConfigError, match="Choose another --out"):
        evaluate_predictions([file], str(references), tmp_path / "out", settings=SETTINGS)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_the_command_scores_files(tomtat: Callable[..., Finished], tmp_path: Path, references: Path):
    one = predictions(tmp_path / "one.jsonl", lambda row: row["summary"])
    two = predictions(tmp_path / "two.jsonl", lambda row: "nothing at all")
    done = tomtat(
        "evaluate", "--predictions", one, "--predictions", two, "--references", references, "--out", tmp_path / "out",
        "--set", 'evaluate.metrics=["rouge"]',
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "one is better than two" in done.out
    assert (tmp_path / "out" / "report.html").is_file()
    assert tomtat("evaluate", "--predictions", one).code == 2
    assert tomtat("evaluate").code == 2
    assert tomtat("evaluate", "run", "--predictions", one, "--references", references).code == 2
