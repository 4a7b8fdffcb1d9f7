"""`tomtat init`: what it writes is a recipe that trains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import rows, write_jsonl
from tomtat.checking.drafting import MULTILINGUAL, recipe_name
from tomtat.checking.fields import guess_fields
from tomtat.config import load_config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_training_starts_with_the_recipe_written(tomtat: Callable[..., Any], here: Path, tiny_t5: Path):
    write_jsonl(here / "mine.jsonl", rows(30))
    written = tomtat("init", "mine.jsonl", "--model", tiny_t5)

    assert written.code == 0, written.err
    assert "Next: tomtat train mine.toml" in written.out
    trained = tomtat("train", "mine.toml", "--epochs", 1, "--device", "cpu")
    assert trained.code == 0, trained.err
    data = load_config(here / "runs" / "mine" / "config.toml").data
    assert (data.train, data.validation, data.test) == ("mine.jsonl[12:]", "mine.jsonl[6:12]", "mine.jsonl[:6]")


def test_the_header_says_the_command_and_what_was_found(tomtat: Callable[..., Any], here: Path, tiny_t5: Path):
    write_jsonl(here / "my chats.jsonl", [*rows(20), *[row | {"id": row["id"] + "-again"} for row in rows(2)]])
    tomtat("init", "my chats.jsonl", "--model", tiny_t5)

    recipe = (here / "my-chats.toml").read_text()
    header = recipe[: recipe.index("seed = 0")]
    assert f"tomtat init 'my chats.jsonl' --model {tiny_t5} --out my-chats.toml" in header
    assert "#   tomtat train my-chats.toml\n#   tomtat evaluate runs/my-chats\n" in header
    assert "# Score: not yet measured" in header
    assert "22 rows" in header
    assert "2 rows repeat an earlier text" in header
    assert "training rows repeat a text of the slices" in header


def test_a_recipe_is_never_overwritten(tomtat: Callable[..., Any], here: Path, data: Path):
    (here / "data.toml").write_text("seed = 7\n")
    result = tomtat("init", "data.jsonl")

    assert result.code == 2
    assert "data.toml exists already" in result.err
    assert (here / "data.toml").read_text() == "seed = 7\n"


def test_standard_input_has_no_recipe(tomtat: Callable[..., Any], here: Path):
    result = tomtat("init", "-")

    assert result.code == 2
    assert "save the data as a file" in result.err


def test_columns_of_a_table_are_found_too(tomtat: Callable[..., Any], here: Path, tiny_t5: Path):
    lines = [f'{n},{row["summary"]},"{row["dialogue"]}"' for n, row in enumerate(rows(12))]
    (here / "talks.csv").write_text("\n".join(["nr,what_happened,talk", *lines]))
    tomtat("init", "talks.csv", "--model", tiny_t5)

    data = load_config(here / "talks.toml").data
    assert (data.source_field, data.summary_field) == ("talk", "what_happened")


def test_columns_are_found_by_what_stands_in_them(tomtat: Callable[..., Any], here: Path, tiny_t5: Path):
    talks = [
        {"key": row["id"], "day": "a monday", "talk": row["dialogue"], "what_happened": row["summary"]}
        for row in rows(12)
    ]
    write_jsonl(here / "talks.jsonl", talks)
    result = tomtat("init", "talks.jsonl", "--model", tiny_t5)

    data = load_config(here / "talks.toml").data
    assert (data.source_field, data.summary_field) == ("talk", "what_happened")
    assert "see that this is right" in result.out


def test_of_two_short_columns_the_one_that_is_named_so_is_the_summary():
    table = [{"t": "one two three four five six seven eight nine", "first": "one two three", "Abstract": "a b c"}] * 3

    assert guess_fields(table) == ("t", "Abstract")
    assert guess_fields([{"t": "one two three", "name": "Ann"}]) is None


def test_columns_that_cant_be_told_are_asked_for(tomtat: Callable[..., Any], here: Path):
    write_jsonl(here / "a.jsonl", [{"number": 1, "name": "x"}] * 3)
    result = tomtat("init", "a.jsonl")

    assert result.code == 2
    assert "--source-field" in result.err
    assert not (here / "a.toml").exists()


@pytest.mark.parametrize(
    ("text", "summary", "model"),
    [
        ("The cat sat on the mat and then it went away.", "A cat sat.", "smollm2-135m-instruct"),
        ("Người đàn ông chạy ôtô trên đường hướng về cầu.", "Một người đàn ông gặp nạn.", MULTILINGUAL),
    ],
)
def test_the_model_goes_by_the_language(
    tomtat: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch, text: str, summary: str, model: str
):
    monkeypatch.setenv("TOMTAT_CACHE", str(here / "cache"))
    write_jsonl(here / "a.jsonl", [{"text": f"{n} {text}", "summary": summary} for n in range(12)])
    result = tomtat("init", "a.jsonl")

    assert result.code == 0, result.err
    assert load_config(here / "a.toml").model.name == model
    assert "estimated at 1.5 a word" in result.out


def test_given_splits_are_used_and_only_the_others_cut(tomtat: Callable[..., Any], here: Path, tiny_t5: Path):
    for name, count in (("train", 40), ("dev", 12)):
        write_jsonl(here / f"{name}.jsonl", rows(count))
    tomtat("init", "train.jsonl", "--validation", "dev.jsonl", "--model", tiny_t5, "--out", "a.toml")

    data = load_config(here / "a.toml").data
    assert (data.train, data.validation, data.test) == ("train.jsonl[8:]", "dev.jsonl", "train.jsonl[:8]")


def test_bad_rows_are_left_out_by_the_recipe_and_cant_break_its_comments(
    tomtat: Callable[..., Any], here: Path, tiny_t5: Path
):
    bad = {'x\n[train]\nepochs = 99 # "\x1b': "no usual field"}
    write_jsonl(here / "a.jsonl", [*rows(12), bad])
    result = tomtat("init", "a.jsonl", "--model", tiny_t5)

    assert result.code == 0, result.err
    config = load_config(here / "a.toml")
    assert config.data.on_bad_row == "skip"
    assert config.train.epochs == 4
    assert "1 of them bad" in result.out


@pytest.mark.parametrize(("count", "epochs"), [(12, 4), (300, 3), (1500, 2), (100_000, 1)])
def test_few_rows_are_read_more_often(count: int, epochs: int):
    from tomtat.checking.suggest import training

    assert next(one.value for one in training(count) if one.setting == "train.epochs") == epochs


def test_an_empty_file_makes_no_recipe(tomtat: Callable[..., Any], here: Path):
    (here / "a.jsonl").write_text("\n")
    result = tomtat("init", "a.jsonl")

    assert result.code == 2
    assert not (here / "a.toml").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/mine.jsonl.gz", "mine.toml"),
        ("chats:vi@train", "chats-vi-train.toml"),
        ("a b/", "a-b.toml"),
        ("-", "mine.toml"),
    ],
)
def test_recipes_are_named_after_the_data(source: str, name: str):
    assert recipe_name(source) == name


def test_the_written_recipe_is_checked_as_a_source(tomtat: Callable[..., Any], here: Path, tiny_t5: Path):
    write_jsonl(here / "mine.jsonl", rows(30))
    tomtat("init", "mine.jsonl", "--model", tiny_t5)

    found = json.loads(tomtat("data", "check", "mine.toml", "--json").out)

    assert {label: split["rows"] for label, split in found["splits"].items()} == {
        "train": 18,
        "validation": 6,
        "test": 6,
    }
