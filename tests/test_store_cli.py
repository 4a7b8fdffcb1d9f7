"""`tomtat store`: what a person types, and what she sees."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from tomtat.store import Span, open_store

CHAT = [
    {"role": "user", "content": "My order LM-48213 came cracked."},
    {"role": "assistant", "content": "Sorry! Was the box damaged?"},
    {"role": "user", "content": "Không, hộp vẫn tốt."},
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "data" / "store.db"
    monkeypatch.setenv("TOMTAT_STORE", str(place))
    return place


@pytest.fixture
def filled(place: Path) -> Path:
    with open_store(place) as store:
        store.append("chat-1", CHAT, user="ann")
        store.attach("chat-1", Span(1, 2), "summary", "A cracked order.")
        store.append("chat-2", [{"role": "user", "content": "Where is the station?"}], user="bo")
    return place


def test_a_store_is_made_where_there_is_none(tomtat: Callable[..., Any], place: Path):
    result = tomtat("store", "stats")
    assert result.code == 0, result.err
    assert place.exists()
    assert "turns" in result.out


def test_list_history_and_search_show_turns(tomtat: Callable[..., Any], filled: Path):
    assert "chat-1" in tomtat("store", "list").out
    assert "chat-2" not in tomtat("store", "list", "--user", "ann").out
    history = tomtat("store", "history", "chat-1", "--newest", 2).out
    assert "Was the box damaged?" in history
    assert "LM-48213" not in history
    found = tomtat("store", "search", "hộp tốt", "--limit", 1)
    assert "chat-1, 3  user" in found.out
    assert "LM-48213" in tomtat("store", "search", "order 48213", "--in", "chat-1", "--limit", 1).out
    nothing = tomtat("store", "search", "zebra")
    assert nothing.code == 0
    assert "Nothing found." in nothing.err


def test_what_a_terminal_would_obey_is_shown_instead(tomtat: Callable[..., Any], filled: Path):
    with open_store(filled) as store:
        store.append("chat-3", [{"role": "user", "name": "A\x1b[7m", "content": "red \x1b[31mkettle\u202e :key:"}])
    for told in (tomtat("store", "history", "chat-3"), tomtat("store", "search", "red")):
        assert told.code == 0, told.err
        assert "A␛[7m" in told.out
        assert "red ␛[31mkettle<U+202E> :key:" in told.out
        assert "\x1b" not in told.out


def test_history_as_json_is_what_was_appended(tomtat: Callable[..., Any], filled: Path):
    rows = [json.loads(line) for line in tomtat("store", "history", "chat-1", "--json").out.splitlines()]
    assert [row["message"] for row in rows] == CHAT
    as_of = tomtat("store", "history", "chat-1", "--json", "--as-of", 1).out
    assert [json.loads(as_of)["message"]] == CHAT[:1]


def test_an_export_can_be_imported_elsewhere_and_again(
    tomtat: Callable[..., Any], filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "backup.jsonl"
    assert tomtat("store", "export", "--out", out).code == 0
    monkeypatch.setenv("TOMTAT_STORE", str(tmp_path / "other.db"))
    first, second = tomtat("store", "import", out), tomtat("store", "import", out)
    assert "2 conversations: 4 new turns, 0 known ones, 1 new derived rows." in first.out
    assert "2 conversations: 0 new turns, 4 known ones, 0 new derived rows." in second.out
    assert tomtat("store", "export").out == out.read_text(encoding="utf-8")


def test_chats_are_imported_once(tomtat: Callable[..., Any], place: Path, tmp_path: Path):
    chats = write_jsonl(tmp_path / "chats.jsonl", [{"id": "a", "messages": CHAT}, {"id": "b", "messages": CHAT[:1]}])
    assert "2 conversations: 4 new turns" in tomtat("store", "import", chats, "--user", "ann").out
    assert "0 new turns, 4 known" in tomtat("store", "import", chats).out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not json\n", "line 1: not JSON"),
        ('["a"]\n', "line 1: an object is wanted"),
        ('{"id": "a", "messages": [{"role": "king", "content": "x"}]}\n', "Row 1: A message's role is one of"),
        ('{"id": "a", "messages": "x"}\n', "Row 1: a chat has an id and a list of messages"),
        ('{"id": "a", "messages": ["x"]}\n', "Row 1: A message is an object"),
        ('{"turn": 1}\n', "Row 1: An export begins with"),
        ('{"tomtat_store": 1}\n{"conversation": "a"}\n', "Row 2 is not a row of a store"),
        ('{"tomtat_store": 9}\n', "Row 1: This is an export of format 9"),
        ("", "There is nothing to import"),
    ],
)
def test_bad_files_are_told_by_row(
    tomtat: Callable[..., Any], place: Path, tmp_path: Path, content: str, expected: str
):
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    result = tomtat("store", "import", path)
    assert result.code == 2
    assert expected in result.err
    assert "Traceback" not in result.err


def test_erasing_asks_unless_told_and_gives_a_receipt(tomtat: Callable[..., Any], filled: Path):
    refused = tomtat("store", "erase", "--user", "ann")
    assert refused.code == 2
    assert "--yes" in refused.err
    done = tomtat("store", "erase", "--user", "ann", "--yes")
    assert done.code == 0, done.err
    assert "Out of reach: copies of the file" in done.out
    gone = tomtat("store", "history", "chat-1")
    assert gone.code == 2
    assert "There is no conversation 'chat-1'" in gone.err
    assert tomtat("store", "erase", "--yes").code == 2


def test_check_ends_with_1_until_repaired(tomtat: Callable[..., Any], filled: Path):
    assert "4 turns, all sound." in tomtat("store", "check").out
    with sqlite3.connect(filled) as connection:
        connection.execute(
            "UPDATE turns SET content = 'My order LM-48214 came cracked.' WHERE content LIKE '%LM-48213%'"
        )
    connection.close()
    damaged = tomtat("store", "check")
    assert damaged.code == 1
    assert "chat-1" in damaged.out
    assert tomtat("store", "check", "--repair").code == 0
    assert tomtat("store", "check").code == 0
    assert "Was the box damaged?" in tomtat("store", "history", "chat-1").out


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("mysql://somewhere/x", "SQLite or PostgreSQL, not on mysql"),
        ("sqlite://", "would lose every turn"),
        ("postgresql://tomtat@127.0.0.1:1/none", "does not answer"),
        ("/proc/nowhere/store.db", "can't be opened"),
    ],
)
def test_a_place_that_is_none_is_one_line(tomtat: Callable[..., Any], place: str, expected: str):
    result = tomtat("store", "stats", "--store", place)
    assert result.code == 2
    assert expected in result.err
    assert "Traceback" not in result.err


def test_an_address_with_a_password_is_not_printed(tomtat: Callable[..., Any]):
    result = tomtat("store", "stats", "--store", "postgresql://tomtat:geheim@127.0.0.1:1/none")
    assert result.code == 2
    assert "geheim" not in result.err
