"""What is made from spans of turns: attached by compare-and-swap, found from the turns and from itself, seen from forks."""

from typing import Any

import pytest

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, says
from tomtat.store.conformance.subject import Subject
from tomtat.store.values import Conflict, Derived, Span, UnknownConversation


def kinds(found: list[Derived]) -> list[tuple[str, int, int]]:
    return [(one.kind, one.span.first, one.span.last) for one in found]


def test_what_is_attached_is_found_by_its_conversation_kind_and_turns(store: Store) -> None:
    store.append("chat", chat(20))
    summary = store.attach("chat", Span(1, 10), "summary", "ten messages")
    store.attach("chat", Span(5, 12), "ledger", {"orders": ["LM-48213"]})

    assert (summary.version, summary.branch, summary.span, summary.value) == (1, 0, Span(1, 10), "ten messages")
    assert kinds(store.derived("chat")) == [("summary", 1, 10), ("ledger", 5, 12)]
    assert store.derived("chat", kind="summary") == [summary]
    assert store.derived("chat", kind="verdict") == []
    assert kinds(store.derived("chat", covering=4)) == [("summary", 1, 10)]
    assert kinds(store.derived("chat", covering=5)) == [("summary", 1, 10), ("ledger", 5, 12)]
    assert kinds(store.derived("chat", covering=11)) == [("ledger", 5, 12)]
    assert store.derived("chat", covering=13) == []


def test_derived_rows_name_the_turns_they_were_made_from_and_turns_find_them(store: Store) -> None:
    """Both links: from each turn of a span to what covers it, and from that to its turns."""
    store.append("chat", chat(200))
    store.attach("chat", Span(60, 140), "summary", "the middle")
    store.tidy()

    [one] = store.derived("chat")
    turns = store.history("chat", first=one.span.first, last=one.span.last)

    assert len(turns) == 81
    assert all(store.derived("chat", covering=turn.seq) == [one] for turn in turns)


@pytest.mark.parametrize(
    "value",
    ["text", "", None, 0, 1.5, True, [], {}, {"a": [1, {"b": None}]}, "a\0b", "🙂 Đơn hàng", "x" * 300_000, 2**70],
)
def test_a_value_is_whatever_json_can_hold(store: Store, value: Any) -> None:
    store.append("chat", chat(2))

    store.attach("chat", Span(1, 2), "summary", value)

    assert [one.value for one in store.derived("chat")] == [value]


@pytest.mark.parametrize("value", [{1, 2}, float("inf"), "\ud800", b"bytes"])
def test_a_value_that_json_cannot_hold_is_refused(store: Store, value: Any) -> None:
    store.append("chat", chat(2))

    with pytest.raises(StoreError):
        store.attach("chat", Span(1, 2), "summary", value)

    assert store.derived("chat") == []


def test_only_who_knows_the_version_replaces_it(store: Store) -> None:
    store.append("chat", chat(4))
    store.attach("chat", Span(1, 4), "summary", "first")

    for expected in (None, 2, 0):
        with pytest.raises(Conflict):
            store.attach("chat", Span(1, 4), "summary", "lost", expected=expected)
    second = store.attach("chat", Span(1, 4), "summary", "second", expected=1)
    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 4), "summary", "late", expected=1)

    assert second.version == 2
    assert [(one.value, one.version) for one in store.derived("chat")] == [("second", 2)]


def test_what_is_not_there_can_not_be_replaced(store: Store) -> None:
    store.append("chat", chat(4))

    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 4), "summary", "x", expected=1)

    assert store.derived("chat") == []


def test_each_span_and_kind_has_a_version_of_its_own(store: Store) -> None:
    store.append("chat", chat(9))
    for span in (Span(1, 3), Span(2, 3), Span(1, 4)):
        for kind in ("summary", "ledger"):
            assert store.attach("chat", span, kind, "x").version == 1

    assert len(store.derived("chat")) == 6


@pytest.mark.parametrize(("first", "last"), [(0, 3), (3, 2), (-1, 1)])
def test_a_span_runs_forward_from_turn_1(first: int, last: int) -> None:
    with pytest.raises(StoreError):
        Span(first, last)


def test_nothing_is_made_from_turns_that_are_not_there(store: Store) -> None:
    store.append("chat", chat(4))

    with pytest.raises(StoreError):
        store.attach("chat", Span(1, 5), "summary", "x")
    with pytest.raises(UnknownConversation):
        store.attach("none", Span(1, 1), "summary", "x")
    with pytest.raises(UnknownConversation):
        store.attach("chat", Span(1, 1), "summary", "x", branch=1)

    assert store.derived("chat") == []


def test_what_is_derived_before_a_fork_is_seen_from_all_branches_and_after_it_from_its_own(store: Store) -> None:
    store.append("chat", chat(10))
    store.attach("chat", Span(1, 4), "summary", "shared")
    store.attach("chat", Span(1, 8), "summary", "old way")
    store.append("chat", [*chat(6), says("edited"), *chat(3, "then")], after=0, fork=True)

    store.attach("chat", Span(1, 8), "summary", "new way")
    store.attach("chat", Span(2, 5), "ledger", "from the new branch, of what both have")

    assert [one.value for one in store.derived("chat", kind="summary")] == ["shared", "new way"]
    assert [one.value for one in store.derived("chat", kind="summary", branch=0)] == ["shared", "old way"]
    assert [one.value for one in store.derived("chat", kind="ledger", branch=0)] == [
        "from the new branch, of what both have"
    ]
    assert [one.branch for one in store.derived("chat", kind="summary")] == [0, 1]


def test_a_summary_shared_by_branches_is_replaced_for_both(store: Store) -> None:
    store.append("chat", chat(6))
    store.attach("chat", Span(1, 4), "summary", "first")
    store.append("chat", [*chat(5), says("edited")], after=0, fork=True)

    store.attach("chat", Span(1, 4), "summary", "second", branch=1, expected=1)

    assert [one.value for one in store.derived("chat", branch=0)] == ["second"]
    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 4), "summary", "late", branch=0, expected=1)


def test_what_is_derived_as_of_a_turn_has_no_turn_after_it(store: Store) -> None:
    store.append("chat", chat(30))
    for last in (5, 10, 20):
        store.attach("chat", Span(1, last), "summary", last)

    assert [one.value for one in store.derived("chat", last=10)] == [5, 10]
    assert [one.value for one in store.derived("chat", last=9)] == [5]
    assert [one.value for one in store.derived("chat", covering=3, last=19)] == [5, 10]
    assert store.derived("chat", last=0) == []


def test_turns_appended_later_leave_what_is_derived_alone(subject: Subject, place: str) -> None:
    with subject.open(place) as store:
        store.append("chat", chat(10))
        kept = store.attach("chat", Span(1, 10), "summary", "ten")
        store.append("chat", chat(330, "later"))
        store.tidy()
    with subject.open(place) as store:
        assert store.derived("chat") == [kept]
        assert store.stats().derived == 1
        assert store.check().is_sound


def test_of_things_that_follow_one_another_only_one_begins_at_a_turn(store: Store) -> None:
    store.append("chat", chat(10))
    store.attach("chat", Span(1, 4), "fold", "first", alone=True)

    for last in (3, 4, 9):
        with pytest.raises(Conflict):
            store.attach("chat", Span(1, last), "fold", "late", alone=True)
    store.attach("chat", Span(5, 9), "fold", "next", alone=True)
    store.attach("chat", Span(1, 9), "other", "of another kind", alone=True)
    store.attach("chat", Span(1, 9), "fold", "not asked to be alone")

    assert kinds(store.derived("chat", kind="fold")) == [("fold", 1, 4), ("fold", 5, 9), ("fold", 1, 9)]


def test_what_began_before_a_fork_is_alone_on_both_branches_and_after_it_on_its_own(store: Store) -> None:
    store.append("chat", chat(10))
    store.attach("chat", Span(1, 4), "fold", "shared", alone=True)
    store.attach("chat", Span(5, 9), "fold", "old way", alone=True)
    store.append("chat", [*chat(6), says("edited"), *chat(3, "then")], after=0, fork=True)

    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 7), "fold", "late", alone=True)
    store.attach("chat", Span(5, 8), "fold", "new way", alone=True)

    assert [one.value for one in store.derived("chat", kind="fold")] == ["shared", "new way"]


@pytest.mark.parametrize("kind", ["", "a\0b", "x" * 513, None])
def test_a_kind_that_is_none_is_refused(store: Store, kind: str) -> None:
    store.append("chat", chat(2))

    with pytest.raises(StoreError):
        store.attach("chat", Span(1, 2), kind, "x")


def test_what_is_said_of_a_whole_conversation_needs_no_turn_and_is_seen_from_all_branches(store: Store) -> None:
    store.append("chat", [])
    store.attach("chat", Span(0, 0), "metadata", {"topic": "demo"})
    store.append("chat", chat(8))
    store.append("chat", chat(3)[1:], after=0, fork=True)
    second = store.attach("chat", Span(0, 0), "metadata", {"topic": "other"}, expected=1)
    with pytest.raises(Conflict):
        store.attach("chat", Span(0, 0), "metadata", "late", expected=1)

    assert [line.branch for line in store.branches("chat")] == [0, 1]
    assert store.derived("chat", covering=0) == store.derived("chat", branch=0, covering=0) == [second]
    assert store.derived("chat", kind="summary", covering=0) == []
    assert store.derived("chat") == store.derived("chat", covering=1) == []
    assert store.erase(conversation="chat").derived == 1


def test_what_is_said_of_a_whole_conversation_moves_with_it(store: Store) -> None:
    store.append("chat", [])
    store.attach("chat", Span(0, 0), "metadata", {"topic": "demo"})
    other = store.for_tenant("other")
    other.import_(list(store.export()))
    assert [one.value for one in other.derived("chat", covering=0)] == [{"topic": "demo"}]
