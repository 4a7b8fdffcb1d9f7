"""What a stranger's review of the evaluation found: each of these went wrong once."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Finished, rows, write_jsonl
from tomtat.config import EvaluateSettings
from tomtat.errors import ConfigError
from tomtat.evaluation import compare, evaluate_predictions
from tomtat.evaluation.plots import loss_plot
from tomtat.evaluation.yardsticks import lead3, oracle, speakers
from tomtat.metrics import Rows, Scorer
from tomtat.metrics.significance import Difference
from tomtat.text import Details, details, language_of, share_beyond_ascii, stands_in

ROUGE = {"evaluate.metrics": ["rouge"]}


@pytest.fixture
def references(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "test.jsonl", rows(8))


def predictions(path: Path, text: str = "they meet") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jsonl(path, [{"id": row["id"], "prediction": text} for row in rows(8)])


# Nothing of the user's is replaced


@pytest.mark.parametrize("place", ["out", "out.old", "out.new"])
def test_a_run_or_a_folder_beside_is_never_replaced(tmp_path: Path, references: Path, place: str):
    folder = tmp_path / place
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / "scores.json").write_text("{}")
    with pytest.raises(ConfigError, match="Choose another --out"):
        evaluate_predictions([predictions(tmp_path / "p.jsonl")], str(references), tmp_path / "out", settings=ROUGE)
    assert (folder / "config.toml").exists()


def test_two_files_of_one_name_are_told_apart_or_refused(tmp_path: Path, references: Path):
    one, two = predictions(tmp_path / "a" / "p.jsonl"), predictions(tmp_path / "b" / "p.jsonl")
    found = evaluate_predictions([one, two], str(references), tmp_path / "out", settings=ROUGE)
    assert found.judged == ("a-p", "b-p")
    same = predictions(tmp_path / "x" / "a" / "p.jsonl")
    with pytest.raises(ConfigError, match="both be called 'a-p'"):
        evaluate_predictions([one, same], str(references), tmp_path / "other", settings=ROUGE)


def test_a_second_evaluation_of_files_gets_a_folder_of_its_own(
    tomtat: Callable[..., Finished], tmp_path: Path, references: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ("evaluate", "--predictions", predictions(tmp_path / "p.jsonl"), "--references", references, "--set", 'evaluate.metrics=["rouge"]')  # fmt: skip
    assert tomtat(*arguments).code == tomtat(*arguments).code == 0
    assert sorted(path.name for path in (tmp_path / "evaluations").iterdir()) == ["p", "p-2"]
    [pair] = compare(["evaluations/p", "evaluations/p-2"]).pairs
    assert (pair.a, pair.b) == ("p", "p-2")


def test_a_reference_left_out_takes_its_prediction_along(tmp_path: Path):
    data = [*rows(4), {"id": "broken", "dialogue": "", "summary": "x"}]
    references = write_jsonl(tmp_path / "t.jsonl", data)
    file = write_jsonl(tmp_path / "p.jsonl", [{"id": row["id"], "prediction": "x"} for row in data])
    from tomtat.data import DataOptions

    found = evaluate_predictions(
        [file], str(references), tmp_path / "out", settings=ROUGE, options=DataOptions(on_bad_row="skip")
    )
    assert len(found.examples) == 4
    assert (tmp_path / "out" / "rejects.evaluation.jsonl").exists()


def test_an_id_with_a_line_separator_can_be_read_back(tmp_path: Path):
    data = [row | {"id": f"a\u2028{row['id']}\x85"} for row in rows(6)]
    references = write_jsonl(tmp_path / "t.jsonl", data)
    for name in ("a", "b"):
        file = write_jsonl(tmp_path / f"{name}.jsonl", [{"id": row["id"], "prediction": name} for row in data])
        evaluate_predictions([file], str(references), tmp_path / name, settings=ROUGE)
    assert compare([tmp_path / "a", tmp_path / "b"]).rows == 6


# Statements that hold


def test_few_rows_show_nothing_and_say_so(tmp_path: Path):
    references = write_jsonl(tmp_path / "t.jsonl", rows(1))
    file = write_jsonl(tmp_path / "p.jsonl", [{"id": "row-0", "prediction": "They meet"}])
    evaluate_predictions([file], str(references), tmp_path / "out", settings=ROUGE)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert "1 row with these summaries can't show any difference" in scores["comparisons"]["lead-3"]["verdict"]
    assert scores["comparisons"]["lead-3"]["differences"][0]["detectable"] is None


def test_what_is_visible_grows_with_the_correction():
    alone, together = (Difference("rouge1", 0, 1, 0, 1, 0.1, 0.1, 1.0, 100, together) for together in (1, 7))
    assert alone.detectable == pytest.approx(2.80, abs=0.01)
    assert together.detectable == pytest.approx(2.69 + 0.84, abs=0.01)


def test_the_human_line_takes_every_reference_of_every_row():
    # Row 1: 50 both ways. Row 2: pairs 100, 0, 0: means 50, 50, 0; best of the others 100, 100, 0.
    human = Scorer(
        Rows([("red fox", "red whale"), ("a b", "a b", "c d")]), EvaluateSettings(metrics=["rouge"])
    ).score_humans()
    assert human is not None
    names = [score.name for score in human.scores]
    assert len(names) == len(set(names))
    values = {score.name: score.value for score in human.scores}
    assert values["rouge1"] == pytest.approx((50 + 100 / 3) / 2)
    assert values["rouge1-jackknife"] == pytest.approx((50 + 200 / 3) / 2)


def test_verdicts_fall_back_to_what_was_measured(tmp_path: Path, references: Path):
    settings = {"evaluate.metrics": ["bleu-nltk"]}
    found = evaluate_predictions(
        [predictions(tmp_path / "p.jsonl")], str(references), tmp_path / "out", settings=settings
    )
    assert found.headline == ["bleu-nltk"]
    assert [item.metric for item in found.comparisons["lead-3"]] == ["bleu-nltk"]


# Other scripts


def test_decomposed_letters_are_letters_too():
    text = unicodedata.normalize("NFD", "Élève déçu à l'école, créée près de là")
    assert share_beyond_ascii([text]) > 0.1
    assert language_of([unicodedata.normalize("NFD", "Ông ấy bán nhà ở Huế")]) == "vi"
    assert language_of(["Această măsură a fost luată în luna mai"]) == "en"


def test_chinese_is_counted_by_its_own_words(tmp_path: Path):
    data = [
        {"id": n, "text": "小明：你好，1999年见。\n小红：好。\n小明：再见", "summary": "他们1999年见面。"}
        for n in range(6)
    ]
    references = write_jsonl(tmp_path / "t.jsonl", data)
    file = write_jsonl(tmp_path / "p.jsonl", [{"id": n, "prediction": "他们2001年见面了77次。"} for n in range(6)])
    settings = {"evaluate.metrics": ["rouge", "bleu-nltk", "faithfulness"]}
    found = evaluate_predictions([file], str(references), tmp_path / "out", settings=settings)
    assert found.words["p"] > 5
    assert found.score("numbers-in-source").value == 0
    assert "blanks" in found.not_run["bleu-nltk"]
    assert speakers(data[0]["text"]) == 2
    assert lead3(data[0]["text"] + "\n小红：嗯") == data[0]["text"]
    assert any("names-in-source" in note for note in found.notes)


# Details


@pytest.mark.parametrize(
    ("summary", "source", "unsupported"),
    [
        ("They meet at 2:30.", "at 2:30pm then", []),
        ("He is 35.", "he is thirty-five", []),
        ("He is thirty-five.", "he is 35", []),
        ("He is 30.", "he is thirty-five", ["30"]),
        ("Sat down at last.", "he sat down", []),
        ("Sun is hot.", "the sun", []),
        ("They meet on Sat.", "on saturday", []),
        ("Bob has 1,000.", "Bob: 1000", []),
    ],
)
def test_details_on_ordinary_text(summary: str, source: str, unsupported: list[str]):
    index = Details(source)
    assert [detail.text for detail in details(summary, index) if not index.has(detail)] == unsupported


def test_a_fact_is_not_kept_by_a_longer_number():
    assert not stands_in("12", "it costs 112 dollars")
    assert stands_in("12 May", "on  12\nmay, they said")
    assert stands_in("/etc/hosts", "see /etc/hosts.")
    assert stands_in("1999年", "他们1999年见面")


# Names and pictures


def test_a_files_name_may_look_like_mathematics_or_markup(
    tomtat: Callable[..., Finished], tmp_path: Path, references: Path
):
    file = predictions(tmp_path / "a$x^$[bold]<b>.jsonl")
    done = tomtat(
        "evaluate", "--predictions", file, "--references", references, "--out", tmp_path / "out[draft]", "--set", 'evaluate.metrics=["rouge"]'
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "[bold]" in done.out
    assert "out[draft]" in done.out
    html = (tmp_path / "out[draft]" / "report.html").read_text()
    assert "&lt;b&gt;" in html
    assert "[bold]<b>" not in html


def test_an_epochs_loss_stands_where_the_epoch_ended():
    from tomtat.evaluation.plots import _steps_before

    metrics = [{"kind": "step", "step": n, "loss": 1.0} for n in range(1, 101)]
    metrics.append({"kind": "epoch", "epoch": 1, "train_loss": 1.0, "validation_loss": None})
    metrics += [{"kind": "step", "step": n, "loss": 1.0} for n in range(101, 151)]
    assert _steps_before(metrics, metrics[100]) == 100
    assert "Loss over 150 steps" in str(loss_plot(metrics))


def test_a_long_source_has_its_oracle_in_time():
    source = "\n".join(f"P{n % 2}: some words about thing{n} and more of it" for n in range(3000))
    found = oracle(source, ["some words about thing7 and more of it, some words about thing2999 and more of it"])
    assert [line.split()[4] for line in found.splitlines()] == ["thing7", "thing2999"]


def test_an_evaluation_at_the_top_replaces_its_own_files_and_no_others(tmp_path: Path, tiny_llama: Path, data: Path):
    import tomtat
    from conftest import small_settings

    run = tomtat.finetune(settings=small_settings(tiny_llama, data), out=tmp_path / "run")
    (run.path / "predictions.mine.jsonl").write_text("kept")
    (run.path / ".evaluation.new").mkdir()  # what a kill leaves
    tomtat.evaluate(run, device="cpu", settings=ROUGE)
    assert (run.path / "predictions.untuned.jsonl").exists()
    tomtat.evaluate(run, device="cpu", settings=ROUGE, yardsticks=False)
    assert not (run.path / "predictions.untuned.jsonl").exists()
    assert (run.path / "predictions.mine.jsonl").read_text() == "kept"
    assert not (run.path / ".evaluation.new").exists()


def test_a_full_disk_leaves_the_earlier_evaluation(
    tmp_path: Path, tiny_llama: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    import tomtat
    from conftest import small_settings
    from tomtat.evaluation import store

    run = tomtat.finetune(settings=small_settings(tiny_llama, data), out=tmp_path / "run")
    tomtat.evaluate(run, device="cpu", settings=ROUGE)
    before = {path.name: path.read_bytes() for path in run.path.glob("*.json*")}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        tomtat.evaluate(run, device="cpu", settings=ROUGE, yardsticks=False)
    assert {path.name: path.read_bytes() for path in run.path.glob("*.json*")} == before
    assert not (run.path / ".evaluation.new").exists()
