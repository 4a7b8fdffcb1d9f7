"""The report and the card: what they promise, and that text from data stays text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tomtat
from conftest import rows, small_settings, write_jsonl
from tomtat.evaluation import evaluate_predictions
from tomtat.evaluation.card import update_card
from tomtat.evaluation.leakage import find_leakage
from tomtat.evaluation.marks import mark
from tomtat.evaluation.yardsticks import oracle, others, speakers
from tomtat.progress import Progress
from tomtat.types import Message

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & </pre>'


class Tags(HTMLParser):
    """Tags with their attributes, and which stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "input", "path", "use", "g", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def parse(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


@pytest.fixture
def report(tmp_path: Path) -> str:
    data = [row | {"dialogue": f"{EVIL} {row['dialogue']}", "references": [EVIL, row["summary"]]} for row in rows(8)]
    references = write_jsonl(tmp_path / "test.jsonl", data)
    file = write_jsonl(tmp_path / "p.jsonl", [{"id": row["id"], "prediction": f"{EVIL} they meet"} for row in data])
    settings = {"evaluate.metrics": ["rouge", "bleu", "faithfulness", "form"]}
    return (
        evaluate_predictions([file], str(references), tmp_path / "out", settings=settings).path / "report.html"
    ).read_text()  # type: ignore[operator]


def test_text_from_data_stays_text(report: str):
    tags = parse(report)
    assert not [tag for tag, _ in tags.found if tag in ("script", "img", "iframe", "link")]
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(" in report
    assert "{{ 7 * 7 }}" in report


def test_the_report_opens_without_a_network_and_on_a_phone(report: str):
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)([^"')\s>]+)""", report)
    outside = [address for address in addresses if not address.startswith(("#", "&#34;#", "x"))]
    assert outside == []
    assert "default-src 'none'" in report
    assert 'name="viewport"' in report
    assert "prefers-color-scheme: dark" in report


def test_pictures_follow_the_pages_colours_and_speak(report: str):
    pictures = [attributes for tag, attributes in parse(report).found if tag == "svg"]
    assert len(pictures) >= 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert "var(--accent)" in report
    assert "#070809" not in report


def test_tables_are_whole(report: str):
    assert parse(report).open == []
    for name in ("rouge1", "bleu", "coverage", "repetition", "human", "oracle", "other-row"):
        assert name in report


def test_marks_are_copies_and_what_the_source_does_not_say():
    pieces = mark("The meeting on Monday is off, says Bob.", "Nina: the meeting on Monday is off.")
    assert "".join(piece.text for piece in pieces) == "The meeting on Monday is off, says Bob."
    assert [(piece.text, piece.kind) for piece in pieces if piece.kind != "plain"] == [
        ("The meeting on Monday is off", "copied"),
        ("Bob", "unsupported"),
    ]
    assert mark("", "x") == []


def test_a_run_gets_curves_parameters_and_a_card(tmp_path: Path, tiny_llama: Path):
    from huggingface_hub import ModelCard

    data = write_jsonl(tmp_path / "data.jsonl", rows(12))
    run = tomtat.finetune(settings=small_settings(tiny_llama, data), out=tmp_path / "run")
    tomtat.evaluate(run, device="cpu")
    html = (run.path / "report.html").read_text()
    assert "Loss over 6 steps" in html
    assert "Module by module" in html
    assert "4 of the 4 rows stand in the training data" in html  # the test rows of this run are training rows
    assert "seen in training" in html

    card = ModelCard.load(run.adapter_path / "README.md", ignore_metadata_errors=False)
    assert card.data.pipeline_tag == "summarization"
    assert card.data.library_name == "peft"
    assert card.data.license is None
    assert {result.metric_type for result in card.data.eval_results} >= {"rouge1", "bleu"}
    assert str(tmp_path) not in card.content
    assert "## Limits" in card.text


def test_an_edited_card_is_left_alone(tmp_path: Path, tiny_llama: Path):
    data = write_jsonl(tmp_path / "data.jsonl", rows(12))
    run = tomtat.finetune(settings=small_settings(tiny_llama, data), out=tmp_path / "run")
    update_card(run, Progress())
    card = run.adapter_path / "README.md"
    first = card.read_text()
    update_card(run, Progress())
    assert card.read_text() == first
    card.write_text(first.replace("# license: fill in", "license: mit # fill in"))
    edited = card.read_text()
    tomtat.evaluate(run, device="cpu", settings={"evaluate.metrics": ["rouge"]}, yardsticks=False)
    assert card.read_text() == edited


# Yardsticks and leakage


def test_the_oracle_copies_what_comes_nearest_to_the_references():
    source = "The weather was fine. Nina is ill and stays home. Nobody cared. The meeting moves to Friday."
    assert oracle(source, ["Nina is ill. The meeting moves to Friday."]) == (
        "Nina is ill and stays home.\nThe meeting moves to Friday."
    )
    assert oracle("Nothing shared.", ["xyz"]) == ""


def test_the_floor_never_takes_a_rows_own_reference():
    references = [(f"r{n}",) for n in range(20)]
    floor = others(references)
    assert sorted(floor) == sorted(text for (text,) in references)
    assert all(text != own for text, (own,) in zip(floor, references, strict=True))


def test_speakers_are_counted():
    assert speakers("#Person1#: a\n#Person2#: b\n#Person1#: c") == 2
    assert speakers("An article. It says: nothing.") == 0
    assert speakers((Message("system", "s"), Message("user", "a"), Message("user", "b", name="Al"))) == 2


def test_leakage_is_found_whole_and_by_runs_of_eight_words():
    text = " ".join(f"word{n}" for n in range(40))
    near = " ".join(f"word{n}" for n in range(30)) + " and then something else entirely was said"
    test = [text.upper() + "!", near, "quite another text about nothing in particular at all"]
    found = find_leakage(test, [text], "train.jsonl")
    assert (found.exact, found.near) == ((0,), (1,))
    assert "1 of the 3 rows stand in the training data word for word, 1 more" in found.sentence(3)


@pytest.mark.parametrize("broken", ["missing.jsonl", "chats@nosuch"])
def test_training_data_that_is_gone_is_a_note(tmp_path: Path, tiny_llama: Path, broken: str, data: Path):
    settings: dict[str, Any] = small_settings(tiny_llama, data)
    run = tomtat.finetune(settings=settings, out=tmp_path / "run")
    config = run.config_path.read_text()
    run.config_path.write_text(config.replace(f'train = "{data}"', f'train = "{broken}"'))
    evaluation = tomtat.evaluate(run, device="cpu", settings={"evaluate.metrics": ["rouge"]})
    assert any("Not checked whether test rows stood in the training data" in note for note in evaluation.notes)
