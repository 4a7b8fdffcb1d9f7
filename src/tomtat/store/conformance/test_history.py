"""Order, ranges, what history was as of a turn; conversations, users and stats."""

import time

import pytest

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, messages, says
from tomtat.store.conformance.subject import Subject
from tomtat.store.values import UnknownConversation

LONG = 330
"""More than a store keeps uncompressed, whatever that is."""


def test_turns_come_back_in_the_order_they_were_appended_and_count_from_1(store: Store) -> None:
    said = chat(7)

    first = store.append("chat", said[:1])
    rest = store.append("chat", said[1:])

    assert (first.branch, first.first, first.last, first.new) == (0, 1, 1, 1)
    assert (rest.branch, rest.first, rest.last, rest.new) == (0, 2, 7, 6)
    assert messages(store.history("chat")) == said
    assert [turn.seq for turn in store.history("chat")] == list(range(1, 8))
    assert {turn.branch for turn in store.history("chat")} == {0}


@pytest.mark.parametrize(
    ("first", "last"), [(1, 330), (1, 1), (330, 330), (60, 70), (64, 65), (128, 129), (1, 64), (200, 330), (65, 320)]
)
def test_any_range_is_cut_out_exactly_of_a_long_history(subject: Subject, place: str, first: int, last: int) -> None:
    with subject.open(place) as store:
        store.append("chat", chat(LONG))
        store.tidy()

        assert [turn.seq for turn in store.history("chat", first=first, last=last)] == list(range(first, last + 1))
        assert messages(store.history("chat", first=first, last=last)) == chat(LONG)[first - 1 : last]


def test_the_newest_are_the_last_ones_also_as_of_an_older_turn_and_also_more_than_there_are(store: Store) -> None:
    store.append("chat", chat(LONG))

    assert [turn.seq for turn in store.history("chat", newest=3)] == [328, 329, 330]
    assert [turn.seq for turn in store.history("chat", newest=3, last=100)] == [98, 99, 100]
    assert [turn.seq for turn in store.history("chat", newest=9, first=98, last=100)] == [98, 99, 100]
    assert len(store.history("chat", newest=1000)) == LONG
    assert store.history("chat", newest=0) == []
    assert len(store.history("chat", last=1000)) == LONG
    assert store.history("chat", first=331) == []
    assert store.history("chat", first=9, last=8) == []


def test_a_negative_newest_is_refused(store: Store) -> None:
    store.append("chat", chat(2))

    with pytest.raises(StoreError, match="-1"):
        store.history("chat", newest=-1)


def test_history_as_of_a_turn_stays_what_it_was_whatever_is_appended_later(store: Store) -> None:
    store.append("chat", chat(20))
    then = store.history("chat", last=10)

    store.append("chat", chat(LONG, "later"))
    store.tidy()

    assert store.history("chat", last=10) == then


def test_a_turn_carries_the_time_it_was_stored(store: Store) -> None:
    before = time.time()
    store.append("chat", chat(3))
    after = time.time()

    assert all(before - 0.002 <= turn.at <= after + 0.002 for turn in store.history("chat"))


def test_what_was_appended_is_there_after_closing_and_opening_again(subject: Subject, place: str) -> None:
    with subject.open(place) as store:
        store.append("chat", chat(LONG))
        kept = store.history("chat")

    with subject.open(place) as store:
        assert store.history("chat") == kept


def test_what_one_handle_appends_another_reads_at_once(subject: Subject, place: str) -> None:
    with subject.open(place) as writer, subject.open(place) as reader:
        for n in range(5):
            writer.append("chat", [says(f"{n}")])
            assert contents(reader.history("chat"))[-1] == f"{n}"


def test_appending_nothing_makes_an_empty_conversation(store: Store) -> None:
    done = store.append("chat", [])

    assert (done.first, done.last, done.new) == (1, 0, 0)
    assert store.history("chat") == []
    assert [branch.last for branch in store.branches("chat")] == [0]


def test_what_is_not_there_is_an_unknown_conversation(store: Store) -> None:
    store.append("chat", chat(2))

    for ask in (
        lambda: store.history("none"),
        lambda: store.branches("none"),
        lambda: store.search("message", conversation="none"),
        lambda: store.derived("none"),
        lambda: list(store.export(conversation="none")),
        lambda: store.history("chat", branch=1),
        lambda: store.derived("chat", branch=1),
        lambda: store.search("message", conversation="chat", branch=1),
        lambda: store.append("chat", chat(1), branch=1),
        lambda: store.append("none", chat(1), branch=1),
    ):
        with pytest.raises(UnknownConversation):
            ask()
    assert [branch.conversation for branch in store.conversations()] == ["chat"]


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "x" * 513, None, 7, "\ud800"])
def test_a_name_that_is_none_is_refused_and_nothing_is_stored(store: Store, name: str) -> None:
    with pytest.raises(StoreError):
        store.append(name, chat(1))
    if name is not None:
        with pytest.raises(StoreError):
            store.append("chat", chat(1), user=name)

    assert list(store.conversations()) == []


@pytest.mark.parametrize(
    "name", ["x", "x" * 512, "Đơn hàng số 5", "聊天 🙂", "a'b\"c;--", "%_\\", "../../etc/passwd", "{}"]
)
def test_any_printable_text_names_a_conversation_and_a_user(store: Store, name: str) -> None:
    store.append("other", chat(1))
    store.append(name, chat(2), user=name)

    assert len(store.history(name)) == 2
    assert [branch.conversation for branch in store.conversations(user=name)] == [name]
    assert store.erase(user=name).conversations == 1
    assert [branch.conversation for branch in store.conversations()] == ["other"]


def test_conversations_come_by_name_each_with_its_newest_branch(store: Store) -> None:
    for name in ("b", "c", "a"):
        store.append(name, chat(3), user="ann" if name == "a" else None)
    store.append("b", [*chat(1), says("another way")], after=0, fork=True)

    found = list(store.conversations())

    assert [branch.conversation for branch in found] == ["a", "b", "c"]
    assert [branch.last for branch in found] == [3, 2, 3]
    assert [branch.branch for branch in found] == [0, 1, 0]
    assert [branch.user for branch in found] == ["ann", None, None]


def test_conversations_of_a_user_are_that_users_only(store: Store) -> None:
    for n in range(12):
        store.append(f"chat-{n:02}", chat(1), user="ann" if n % 3 == 0 else "ben")

    assert [branch.conversation for branch in store.conversations(user="ann")] == [
        "chat-00",
        "chat-03",
        "chat-06",
        "chat-09",
    ]
    assert list(store.conversations(user="nobody")) == []


def test_a_conversation_may_get_its_user_later_but_not_another(store: Store) -> None:
    store.append("chat", chat(1))
    store.append("chat", chat(1), user="ann")
    store.append("chat", chat(1))

    with pytest.raises(StoreError, match="another user"):
        store.append("chat", chat(1), user="ben")

    assert [branch.user for branch in store.conversations()] == ["ann"]
    assert len(store.history("chat")) == 3


def test_many_conversations_are_all_listed(store: Store) -> None:
    names = [f"chat-{n:04}" for n in range(1100)]
    for name in names[::-1]:
        store.append(name, [])

    assert [branch.conversation for branch in store.conversations()] == names


def test_stats_count_what_there_is(store: Store) -> None:
    store.append("long", chat(LONG), user="ann")
    store.append("long", [*chat(10), says("else")], after=0, fork=True)
    store.append("short", chat(2), user="ben")
    store.append("shorter", chat(1), user="ben")
    store.tidy()

    stats = store.stats()

    assert (stats.conversations, stats.branches, stats.turns, stats.users) == (3, 4, LONG + 1 + 3, 2)
    assert (stats.derived, stats.damaged) == (0, 0)
    assert 0 <= stats.packed_turns <= stats.turns
    assert stats.disk_bytes > 0


def test_a_closed_store_can_be_tidied_before_and_opened_after_without_losing_a_turn(
    subject: Subject, place: str
) -> None:
    expected = []
    for n in range(6):
        with subject.open(place) as store:
            store.append("chat", chat(70, f"round {n}"))
            store.tidy()
            expected += chat(70, f"round {n}")

    with subject.open(place) as store:
        assert messages(store.history("chat")) == expected
        assert store.check().is_sound
