from pathlib import Path

import pytest

import tomtat
from conftest import byte_tokenizer, rows, small_settings, write_jsonl
from tiny_tokenizers import t5_tokenizer
from tomtat.models.lossy import lost_characters, warnings_of
from tomtat.progress import Progress

VIETNAMESE = ["Họp dời sang thứ sáu {phòng 4}.\nNina ốm", "Họp ngắn"]


def test_characters_without_a_token_are_counted_with_words_and_texts():
    lost = lost_characters(t5_tokenizer(), [*VIETNAMESE, "They meet on Friday."])

    assert lost.characters["ọ"] == 2
    assert lost.characters["{"] == lost.characters["}"] == 1
    assert not set("Ninasumhgf4.") & set(lost.characters)
    assert (lost.texts_hit, lost.texts, lost.line_breaks) == (2, 3, 1)
    assert lost.words["Họp"] == "Hp"
    assert lost_characters(t5_tokenizer(), ["They½"]).characters == {
        "½": 1
    }  # as it stands there, not as three characters
    assert lost.seen == sum(len("".join(text.split())) for text in [*VIETNAMESE, "They meet on Friday."])
    assert lost.share == pytest.approx(lost.characters.total() / lost.seen)
    assert '"Họp" is read "Hp"' in lost.told()


def test_bytes_lose_nothing_and_another_form_of_a_character_is_no_loss():
    texts = ["中文 và tiếng Việt {1}\n\u200bnê\u0302t 😀", "e\u0302"]  # accents joined and apart

    lost = lost_characters(byte_tokenizer({"eos_token": "</s>"}, None, "</s>"), texts)
    english = lost_characters(t5_tokenizer(), ["\u200bThey meet </s> on  Friday\t."])

    assert not lost
    assert (lost.line_breaks, lost.share) == (0, 0)
    assert not english.characters


def test_nothing_is_lost_of_nothing():
    lost = lost_characters(t5_tokenizer(), [])
    assert (lost.share, lost.texts, bool(lost)) == (0.0, 0, False)


def test_a_sample_is_spread_over_all_texts():
    texts = ["They meet."] * 99 + ["họp"]
    assert lost_characters(t5_tokenizer(), texts[::-1], rows=10).texts == 10
    assert lost_characters(t5_tokenizer(), texts[::-1], rows=10).texts_hit == 1
    assert lost_characters(t5_tokenizer(), texts, rows=100).texts_hit == 1


def test_chats_are_told_of_line_breaks_and_summaries_of_what_can_never_be_written():
    lines = warnings_of(t5_tokenizer(), ["They meet\non Friday"], ["Họp"], "tiny")

    assert len(lines) == 3
    assert "loses characters of the summaries, 33.3 % of characters, in 1 of 1 texts: ọ (1)" in lines[0]
    assert "Take a model made for this language" in lines[1]
    assert "line breaks as spaces (1 in 1 texts)" in lines[2]
    [one_line] = warnings_of(t5_tokenizer(), ["They meet"], ["They meet\non Friday"], "tiny")
    assert "come as one line" in one_line


def test_training_says_before_it_starts_what_the_tokenizer_loses(tiny_t5: Path, tmp_path: Path):
    import shutil

    notes: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    model = shutil.copytree(tiny_t5, tmp_path / "model")
    t5_tokenizer().save_pretrained(model)
    values = [row | {"dialogue": row["dialogue"].replace("four", "số 4")} for row in rows(6)]
    data = write_jsonl(tmp_path / "data.jsonl", values)

    tomtat.finetune(settings=small_settings(model, data) | {"train.epochs": 1}, out=tmp_path / "run", progress=Notes())

    [said] = [line for line in notes if "loses characters" in line]
    assert "ố (6)" in said
    assert "6 of 6 texts" in said
    assert notes.index(said) < next(n for n, line in enumerate(notes) if "training" in line and "weights" in line)
