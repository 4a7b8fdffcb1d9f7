"""Export and import: a store in rows of JSON, and back into this or another."""

import json
from pathlib import Path
from typing import Any

import pytest

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, messages, says
from tomtat.store.conformance.subject import Subject
from tomtat.store.conformance.test_messages import SHAPES
from tomtat.store.values import Span, UnknownConversation

Rows = list[dict[str, Any]]


def fill(store: Store) -> None:
    """Every kind of thing a store can hold."""
    store.append("branchy", chat(200), user="ann")
    second = [*chat(100), says("edited"), *chat(80, "second")]
    third = [*second[:150], says("edited again"), *chat(5, "third")]
    fourth = [*chat(20), says("edited early")]
    for history in (second, third, fourth):
        store.append("branchy", history, after=0, fork=True)
    store.append("branchy", [says("another beginning")], after=0, fork=True)
    store.append("shapes", list(SHAPES.values()), user="ben")
    store.append("empty", [])
    store.append("short", [says("yes"), says("yes")])
    store.attach("branchy", Span(1, 50), "summary", "shared", branch=0)
    store.attach("branchy", Span(1, 50), "summary", "shared, better", branch=0, expected=1)
    store.attach("branchy", Span(1, 190), "summary", "first", branch=0)
    store.attach("branchy", Span(90, 160), "ledger", {"orders": ["LM-48213"]}, branch=1)
    store.attach("branchy", Span(140, 152), "ledger", None, branch=2)
    store.tidy()


def through_json(store: Store, **what: str) -> Rows:
    return [json.loads(json.dumps(row)) for row in store.export(**what)]


def without_tenant(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key not in ("tenant", "created")} for row in rows]


def test_everything_comes_back_in_another_store(subject: Subject, store: Store, tmp_path: Path) -> None:
    fill(store)
    rows = through_json(store)
    (tmp_path / "other").mkdir()
    with subject.open(subject.new_place(tmp_path / "other")) as other:
        done = other.import_(rows)

        assert (done.conversations, done.turns, done.derived, done.known) == (4, store.stats().turns, 4, 0)
        assert without_tenant(through_json(other)) == without_tenant(rows)
        for branch in store.branches("branchy"):
            assert other.history("branchy", branch=branch.branch) == store.history("branchy", branch=branch.branch)
        assert other.check().is_sound


def test_what_is_imported_again_adds_nothing(subject: Subject, store: Store, tmp_path: Path) -> None:
    fill(store)
    rows = through_json(store)
    (tmp_path / "other").mkdir()
    with subject.open(subject.new_place(tmp_path / "other")) as other:
        other.import_(rows)
        for into in (other, store):
            before = through_json(into)
            again = into.import_(rows)

            assert (again.turns, again.derived, again.known) == (0, 0, store.stats().turns)
            assert through_json(into) == before


def test_an_export_comes_into_another_kind_of_store_and_back(store: Store, tmp_path: Path) -> None:
    from tomtat.store import open_store

    fill(store)
    with open_store(tmp_path / "sqlite.db", key=bytes(32)) as other:
        other.import_(through_json(store))
        back = store.for_tenant("back")
        back.import_(through_json(other))

    assert without_tenant(through_json(back)) == without_tenant(through_json(store))


def test_an_import_goes_on_where_the_conversation_has_grown(store: Store) -> None:
    store.append("chat", chat(10))
    store.attach("chat", Span(1, 5), "summary", "old")
    rows = through_json(store)
    store.append("chat", chat(5, "later"))
    store.attach("chat", Span(1, 5), "summary", "new", expected=1)

    done = store.import_(rows)

    assert (done.turns, done.known) == (0, 10)
    assert messages(store.history("chat")) == [*chat(10), *chat(5, "later")]
    assert [one.value for one in store.derived("chat")] == ["new"], "what is there stays"


def test_a_conversation_of_the_same_name_that_says_something_else_stays_beside_the_imported_one(
    subject: Subject, store: Store, tmp_path: Path
) -> None:
    store.append("chat", chat(4))
    rows = through_json(store)
    (tmp_path / "other").mkdir()
    with subject.open(subject.new_place(tmp_path / "other")) as other:
        other.append("chat", chat(3, "different"))
        other.import_(rows)

        assert messages(other.history("chat", branch=0)) == chat(3, "different")
        assert messages(other.history("chat", branch=1)) == chat(4)


def test_one_conversation_or_one_user_can_be_exported_alone(store: Store) -> None:
    for name, user in (("a", "ann"), ("b", "ben"), ("c", "ann")):
        store.append(name, [says(f"in {name}")], user=user)

    def named(rows: Rows) -> list[str]:
        return [row["conversation"] for row in rows if "conversation" in row]

    assert named(through_json(store)) == ["a", "b", "c"]
    assert named(through_json(store, conversation="b")) == ["b"]
    assert named(through_json(store, user="ann")) == ["a", "c"]
    assert named(through_json(store, user="nobody")) == []
    with pytest.raises(UnknownConversation):
        store.export(conversation="none")


def test_users_and_times_are_kept(subject: Subject, store: Store, tmp_path: Path) -> None:
    store.append("chat", chat(3), user="ann")
    (tmp_path / "other").mkdir()
    with subject.open(subject.new_place(tmp_path / "other")) as other:
        other.import_(through_json(store))

        assert other.history("chat") == store.history("chat")
        assert [branch.user for branch in other.branches("chat")] == ["ann"]


HEAD = {"tomtat_store": 1, "tenant": "default"}
CHAT = {"conversation": "chat", "branch": 0, "user": None, "created": 1764000000.0}
TURN = {"turn": 1, "at": 1764000000.0, "message": {"role": "user", "content": "Hello"}}
BAD: dict[str, tuple[list[Any], int]] = {
    "no head": ([CHAT, TURN], 1),
    "another format": ([{"tomtat_store": 99}], 1),
    "not a row": ([HEAD, {"what": "else"}], 2),
    "empty row": ([HEAD, {}], 2),
    "no message": ([HEAD, CHAT, {"turn": 1, "at": 1.0}], 3),
    "no time": ([HEAD, CHAT, {"turn": 1, "message": TURN["message"]}], 3),
    "bad role": ([HEAD, CHAT, TURN, {"turn": 2, "at": 1.0, "message": {"role": "x", "content": "y"}}], 4),
    "message is a text": ([HEAD, CHAT, {"turn": 1, "at": 1.0, "message": "Hello"}], 3),
    "turn before a conversation": ([HEAD, TURN], 2),
    "span before a conversation": ([HEAD, {"span": [1, 1], "kind": "summary", "version": 1, "value": "x"}], 2),
    "no branch": ([HEAD, {"conversation": "chat"}], 2),
    "no name": ([HEAD, {**CHAT, "conversation": ""}], 2),
    "fork from nowhere": ([HEAD, CHAT, TURN, {**CHAT, "branch": 1, "forked_from": 7, "forked_after": 1}], 4),
    "span is no span": ([HEAD, CHAT, TURN, {"span": 3, "kind": "summary", "version": 1, "value": "x"}], 4),
    "version is no number": ([HEAD, CHAT, TURN, {"span": [1, 1], "kind": "summary", "version": "x", "value": "x"}], 4),
    "time is no number": ([HEAD, CHAT, {**TURN, "at": "yesterday"}], 3),
    "row is a list": ([HEAD, ["turn"]], 2),
    "row is a text": ([HEAD, "turn"], 2),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_is_none_is_named_by_its_number(store: Store, name: str) -> None:
    rows, number = BAD[name]

    with pytest.raises(StoreError, match=f"(?i)row {number}\\b"):
        store.import_(rows)


def test_nothing_to_import_is_said(store: Store) -> None:
    with pytest.raises(StoreError):
        store.import_([])


def test_an_import_that_broke_off_is_simply_repeated(store: Store) -> None:
    turns = [{**TURN, "turn": n, "message": says(f"message {n}")} for n in range(1, 1301)]
    with pytest.raises(StoreError):
        store.import_([HEAD, CHAT, *turns, {"what": "else"}])

    store.import_([HEAD, CHAT, *turns])

    assert contents(store.history("chat")) == [f"message {n}" for n in range(1, 1301)]


def test_an_export_is_read_piece_by_piece_while_others_write(subject: Subject, place: str) -> None:
    with subject.open(place) as store, subject.open(place) as writer:
        for n in range(5):
            store.append(f"chat-{n}", chat(30))
        rows = []
        for row in store.export():
            rows.append(row)
            writer.append("chat-0", [says("meanwhile")])

    assert sum("turn" in row for row in rows if "turn" in row) >= 150
    assert all(row["message"] in chat(30) or row["message"] == says("meanwhile") for row in rows if "turn" in row)
