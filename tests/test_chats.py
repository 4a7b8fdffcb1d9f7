"""The bundled conversations keep their promises. Their schema is described in src/tomtat/data/chats/README.md."""

import json
import re
from importlib.resources import files
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from tomtat.data import load_examples
from tomtat.errors import DataError
from tomtat.text import language_of

SIZES = {"train": 150, "validation": 20, "test": 30}
LONG = 10
NUMBER = re.compile(r"\d[\d.,:/]*\d|\d")
NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z]\w+")
WORD = re.compile(r"\w+")
CALENDAR = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december".split()
)


def conversations(split: str) -> list[dict[str, Any]]:
    text = (files("tomtat.data") / "chats" / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


BY_SPLIT = {split: conversations(split) for split in [*SIZES, "long"]}
SHORT = [row for split in SIZES for row in BY_SPLIT[split]]
ALL = SHORT + BY_SPLIT["long"]
each = pytest.mark.parametrize("row", ALL, ids=lambda row: row["id"])


class Bounds(NamedTuple):
    turns: tuple[int, int]
    words: tuple[int, int]
    summary_words: tuple[int, int]
    facts: tuple[int, int]


def bounds_of(row: dict[str, Any]) -> Bounds:
    if row["id"].startswith("long"):
        return Bounds((200, 300), (5000, 9000), (40, 200), (40, 60))
    # A Vietnamese word is a syllable: it takes half as many again to say the same.
    return Bounds(
        (8, 30), (100, 650 if row["language"] == "vi" else 600), (15, 110 if row["language"] == "vi" else 75), (3, 8)
    )


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
    turns, words, summary_words, facts = bounds_of(row)
    assert turns[0] <= len(row["messages"]) <= turns[1]
    assert words[0] <= sum(len(said(message).split()) for message in row["messages"]) <= words[1]
    assert row["summaries"][0] == row["summary"]
    assert len(set(row["summaries"])) == len(row["summaries"])
    assert all(summary_words[0] <= len(summary.split()) <= summary_words[1] for summary in row["summaries"])
    assert facts[0] <= len(row["facts"]) <= facts[1]


def test_their_distribution_is_what_the_card_says():
    """Printed with -s; the card has the same figures."""
    card = (files("tomtat.data") / "chats" / "README.md").read_text(encoding="utf-8")
    lines = distribution()
    print("\n".join(lines))
    assert all(line in card for line in lines)


def distribution() -> list[str]:
    lines = []
    for split, rows in BY_SPLIT.items():
        counts = {
            "turns": [len(row["messages"]) for row in rows],
            "words": [sum(len(said(message).split()) for message in row["messages"]) for row in rows],
            "summary": [len(row["summary"].split()) for row in rows],
            "facts": [len(row["facts"]) for row in rows],
        }
        cells = [f"{min(values)} / {sorted(values)[len(values) // 2]} / {max(values)}" for values in counts.values()]
        vietnamese = sum(row["language"] == "vi" for row in rows)
        lines.append(f"| `{split}` | {len(rows)} ({vietnamese} vi) | " + " | ".join(cells) + " |")
    return lines


def test_twenty_are_vietnamese_and_each_split_has_some():
    assert sum(row["language"] == "vi" for row in SHORT) == 20
    assert all(any(row["language"] == "vi" for row in rows) for rows in BY_SPLIT.values())
    assert all(language_of(m["content"] or "" for m in row["messages"]) == row["language"] for row in ALL)


def test_ten_are_long_and_told_by_their_name():
    assert len(load_examples("chats:long")) == LONG
    assert (
        len(load_examples("chats:vi")) + len(load_examples("chats:vi@test")) + len(load_examples("chats:vi@validation"))
        == 20
    )
    assert {type(example.facts[0].turn) for example in load_examples("chats:long")} == {str}
    for wrong, match in (
        ("chats:fr", "no part 'fr'. It has en, vi and long"),
        ("chats:long@train", "split test only"),
        ("chats:vi@dev", "no split 'dev'"),
    ):
        with pytest.raises(DataError, match=match):
            load_examples(wrong)


def test_no_fact_of_a_long_one_answers_another_question():
    for row in BY_SPLIT["long"]:
        questions = " ".join(fact["question"] for fact in row["facts"]).casefold()
        leaked = [
            fact["text"] for fact in row["facts"] if len(fact["text"]) > 12 and fact["text"].casefold() in questions
        ]
        assert leaked == []


def test_splits_share_no_pair_of_a_name_and_a_topic():
    def names(row: dict[str, Any]) -> set[str]:
        found = NAME.findall(" ".join([*row["summaries"], *(message.get("name", "") for message in row["messages"])]))
        return {name for name in found if len(name) > 3 and name.lower() not in CALENDAR}

    def topic(row: dict[str, Any]) -> set[str]:
        return {word for word in WORD.findall(row["topic"].lower()) if len(word) > 4}

    rows = [(split, row, names(row), topic(row)) for split, rows in BY_SPLIT.items() for row in rows]
    shared = [
        (a["id"], b["id"], own & other, subject & second)
        for (split, a, own, subject), (place, b, other, second) in combinations(rows, 2)
        if split != place and own & other and subject & second
    ]
    assert shared == []


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
