"""The bundled conversations keep their promises. Their schema is described in src/tomtat/data/chats/README.md."""

import json
import re
from importlib.resources import files
from itertools import combinations
from typing import Any

import pytest

from tomtat.data import load_examples

SIZES = {"train": 42, "validation": 6, "test": 12}
NUMBER = re.compile(r"\d[\d.,:/]*\d|\d")
NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z]\w+")
WORD = re.compile(r"\w+")


def conversations(split: str) -> list[dict[str, Any]]:
    text = (files("tomtat.data") / "chats" / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


ALL = [row for split in SIZES for row in conversations(split)]
each = pytest.mark.parametrize("row", ALL, ids=lambda row: row["id"])


def said(message: dict[str, Any]) -> str:
    calls = [f"{call['function']['name']} {call['function']['arguments']}" for call in message.get("tool_calls", [])]
    return " ".join([message["content"] or "", *calls])


def whole(row: dict[str, Any]) -> str:
    return " ".join(f"{message.get('name', '')} {said(message)}" for message in row["messages"])


@pytest.mark.parametrize(("split", "size"), SIZES.items())
def test_splits_have_their_size_and_load_as_examples(split: str, size: int):
    examples = load_examples(f"chats@{split}")
    assert len(examples) == size
    assert all(example.facts for example in examples)
    assert all(len(example.references) == (2 if split == "test" else 1) for example in examples)


def test_ids_are_unique_and_no_conversation_begins_like_another():
    assert len({row["id"] for row in ALL}) == len(ALL)
    assert len({row["messages"][0]["content"] for row in ALL}) == len(ALL)
    assert len({row["topic"] for row in ALL}) == len(ALL)


@each
def test_turns_words_and_summaries_are_within_bounds(row: dict[str, Any]):
    assert set(row) == {"id", "language", "topic", "messages", "summary", "summaries", "facts"}
    assert [message["id"] for message in row["messages"]] == [f"t{n}" for n in range(1, len(row["messages"]) + 1)]
    assert 8 <= len(row["messages"]) <= 30
    assert 100 <= sum(len(said(message).split()) for message in row["messages"]) <= 600
    assert row["summaries"][0] == row["summary"]
    assert all(15 <= len(summary.split()) <= 75 for summary in row["summaries"])
    assert 3 <= len(row["facts"]) <= 8


@each
def test_each_fact_stands_in_its_turn_and_not_in_its_question(row: dict[str, Any]):
    turns = {message["id"]: said(message) for message in row["messages"]}
    for fact in row["facts"]:
        assert fact["text"] in turns[fact["turn"]]
        assert fact["text"].lower() not in fact["question"].lower()
    assert len({fact["text"] for fact in row["facts"]}) == len(row["facts"])


@each
def test_a_summarys_numbers_and_names_stand_in_the_conversation(row: dict[str, Any]):
    text = whole(row)
    words = {word.lower() for word in WORD.findall(text)}
    for summary in row["summaries"]:
        assert [number for number in NUMBER.findall(summary) if number not in text] == []
        assert [
            name for name in NAME.findall(summary) if not {name.lower(), name.lower().removesuffix("s")} & words
        ] == []


@each
def test_tool_results_answer_a_call(row: dict[str, Any]):
    calls = {call["id"] for message in row["messages"] for call in message.get("tool_calls", [])}
    assert calls == {message["tool_call_id"] for message in row["messages"] if message["role"] == "tool"}


def test_no_two_conversations_share_more_than_a_fifth_of_their_5_grams():
    def grams(row: dict[str, Any]) -> set[tuple[str, ...]]:
        words = WORD.findall(whole(row).lower())
        return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}

    sets = [(row["id"], grams(row)) for row in ALL]
    assert [(a, b) for (a, x), (b, y) in combinations(sets, 2) if len(x & y) > min(len(x), len(y)) / 5] == []
