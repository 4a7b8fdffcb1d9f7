import json
from pathlib import Path
from typing import Any

import pytest

import tomtat
from conftest import rows, write_jsonl
from tomtat.errors import ConfigError, DataError, RunError
from tomtat.evaluation import lead3
from tomtat.evaluation.evaluate import _folder_name
from tomtat.summarizer import Summarizer
from tomtat.types import Message


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> tomtat.RunFolder:
    return tomtat.finetune(settings=settings, out=tmp_path / "run")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_test_split_is_scored_at_the_top_of_the_run_folder(run: tomtat.RunFolder):
    evaluation = tomtat.evaluate(run, device="cpu")

    predictions = read(run.path / "predictions.jsonl")
    assert [row["id"] for row in predictions] == ["row-8", "row-9", "row-10", "row-11"]
    assert all(set(row) == {"id", "prediction"} for row in predictions)
    scores = json.loads((run.path / "scores.json").read_text())
    assert list(scores["systems"]) == ["other-row", "lead-3", "oracle", "untuned", "tuned"]
    assert scores["systems"]["tuned"]["scores"]["rouge1"]["value"] == evaluation.score("rouge1").value
    assert "rouge1" in evaluation.table()


def test_other_data_goes_to_a_folder_of_its_own(run: tomtat.RunFolder, tmp_path: Path):
    other = write_jsonl(tmp_path / "other set.jsonl", [row | {"references": ["a b", "c d"]} for row in rows(3)])
    evaluation = tomtat.evaluate(run, f"{other}[:2]", device="cpu", yardsticks=False)

    assert evaluation.path.parent == run.path / "evaluations"
    assert evaluation.path.name.startswith("other-set-2-")
    assert len({_folder_name(spec) for spec in ("a.jsonl[:2]", "a.jsonl[2:]", "b/a.jsonl[2:]")}) == 3
    assert len(read(evaluation.path / "predictions.jsonl")) == 2
    assert not (run.path / "scores.json").exists()
    assert evaluation.score("rouge1-best").value >= evaluation.score("rouge1").value


def test_the_untuned_model_is_the_base_without_its_adapter(run: tomtat.RunFolder, settings: dict[str, Any]):
    evaluation = tomtat.evaluate(run, device="cpu")
    tuned = Summarizer.load(run, device="cpu", precision="fp32")
    base = Summarizer.load(settings["model.name"], device="cpu", precision="fp32")
    base.decoding, base.max_source_tokens = tuned.decoding, tuned.max_source_tokens
    sources = [example.source for example in evaluation.examples]

    assert evaluation.predictions["untuned"] == [g.text for g in base.generate(sources)]
    assert evaluation.predictions["tuned"] == [g.text for g in tuned.generate(sources)]
    assert evaluation.predictions["untuned"] != evaluation.predictions["tuned"]


def test_a_fully_trained_model_is_compared_with_its_base(settings: dict[str, Any], tmp_path: Path):
    run = tomtat.finetune(settings=settings | {"train.method": "full"}, out=tmp_path / "full")
    evaluation = tomtat.evaluate(run, device="cpu")
    assert evaluation.predictions["untuned"] != evaluation.predictions["tuned"]


def test_the_length_limit_comes_from_the_data_and_travels_with_the_adapter(settings: dict[str, Any], tmp_path: Path):
    del settings["generate.max_new_tokens"]
    run = tomtat.finetune(settings=settings, out=tmp_path / "lengths")
    summarizer = Summarizer.load(run.adapter_path, device="cpu")
    longest = max(len(summarizer.model._target_ids(row["summary"])) for row in rows(12))

    assert longest < summarizer.decoding.max_new_tokens <= 1.25 * longest + 1


def test_summaries_come_in_the_order_of_the_texts(run: tomtat.RunFolder):
    summarizer = Summarizer.load(run, device="cpu")
    texts = ["short one", "a much longer text " * 20, "middle of the road " * 4]
    assert [g.text for g in summarizer.generate(texts)] == [summarizer(text) for text in texts]


def test_a_chat_is_summarized_from_messages_or_dictionaries(run: tomtat.RunFolder):
    summarizer = Summarizer.load(run, device="cpu")
    as_messages = summarizer((Message("user", "hi"), Message("user", "hello", name="Ines")))
    assert as_messages == summarizer(
        [{"role": "user", "content": "hi"}, {"role": "user", "name": "Ines", "content": "hello"}]
    )
    assert as_messages == summarizer("User: hi\nInes: hello")


@pytest.mark.parametrize("source", ["", "  ", [], [{"content": "x"}]])
def test_nothing_to_summarize_is_refused(run: tomtat.RunFolder, source: Any):
    with pytest.raises(DataError):
        Summarizer.load(run, device="cpu")(source)


def test_a_run_without_a_test_split_asks_for_data(settings: dict[str, Any], tmp_path: Path):
    del settings["data.test"]
    run = tomtat.finetune(settings=settings, out=tmp_path / "none")
    with pytest.raises(DataError, match="--data FILE"):
        tomtat.evaluate(run)


def test_a_run_that_never_finished_an_epoch_says_how_to_go_on(run: tomtat.RunFolder):
    import shutil

    shutil.rmtree(run.adapter_path)
    with pytest.raises(RunError, match="--resume"):
        tomtat.evaluate(run)


def test_lead_3_takes_sentences_of_articles_and_turns_of_chats():
    assert lead3("One. Two. Three. Four.") == "One.\nTwo.\nThree."
    dialogue = "#Person1#: Hi. How are you?\n#Person2#: Fine.\n#Person1#: Good.\n#Person2#: Bye."
    assert lead3(dialogue) == dialogue.rpartition("\n")[0]
    messages = (Message("system", "be kind"), *(Message("user", f"turn {n}", name="Al") for n in range(4)))
    assert lead3(messages) == "Al: turn 0\nAl: turn 1\nAl: turn 2"


@pytest.mark.parametrize("engine", ["torch-int8", "ctranslate2"])
def test_another_engine_is_scored_beside_torch(run: tomtat.RunFolder, engine: str):
    """What 8 bits cost is the difference, with its verdict; the run's own evaluation stays."""
    if engine == "ctranslate2":
        pytest.importorskip("ctranslate2")
    own = tomtat.evaluate(run, leakage=False)
    before = (run.path / "scores.json").read_bytes()

    found = tomtat.evaluate(run, engine=engine, leakage=False, settings={"evaluate.metrics": ["rouge"]})

    assert found.path == run.path / "evaluations" / engine
    assert found.settings["engine"].startswith(engine)
    assert "untuned" not in found.systems
    assert list(found.comparisons) == ["exact", "lead-3"]
    assert found.predictions["exact"] == own.predictions["tuned"]
    assert (run.path / "scores.json").read_bytes() == before
    assert (found.path / "predictions.exact.jsonl").is_file()


def test_other_ways_of_generating_are_scored_in_a_folder_of_their_own(run: tomtat.RunFolder):
    found = tomtat.evaluate(
        run, "chats@test[:2]", yardsticks=False, leakage=False, settings=["generate.num_beams=3", "evaluate.metrics=['rouge']"]
    )  # fmt: skip

    assert found.path.name.endswith("-num_beams-3")
    assert found.settings["num_beams"] == 3
    assert not (run.path / "scores.json").exists()
    with pytest.raises(ConfigError, match=r"lora\.rank"):
        tomtat.evaluate(run, settings=["lora.rank=4"])
