"""What may be sent twice is stored once; what only looks the same is stored twice."""

import pytest

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, messages, says
from tomtat.store.values import Conflict


def with_ids(count: int, prefix: str = "m") -> list[dict[str, object]]:
    return [{**message, "id": f"{prefix}-{n}"} for n, message in enumerate(chat(count), start=1)]


def test_the_same_text_twice_is_two_turns(store: Store) -> None:
    store.append("chat", [says("yes")])
    store.append("chat", [says("yes"), says("yes")])

    assert contents(store.history("chat")) == ["yes"] * 3


def test_a_message_with_a_known_id_is_not_stored_again_and_its_place_is_told(store: Store) -> None:
    store.append("chat", with_ids(5))

    again = store.append("chat", with_ids(5)[1:3])

    assert (again.first, again.last, again.new) == (2, 5, 0)
    assert messages(store.history("chat")) == with_ids(5)


def test_of_a_batch_that_was_stored_in_part_the_rest_is_added(store: Store) -> None:
    store.append("chat", with_ids(3))

    done = store.append("chat", with_ids(6))

    assert (done.first, done.last, done.new) == (1, 6, 3)
    assert messages(store.history("chat")) == with_ids(6)


def test_known_ids_are_known_after_they_were_compressed(store: Store) -> None:
    store.append("chat", with_ids(330))
    store.tidy()

    done = store.append("chat", [*with_ids(330)[:100], *with_ids(1, "new")])

    assert (done.first, done.last, done.new) == (1, 331, 1)


def test_an_id_twice_in_a_batch_is_one_message(store: Store) -> None:
    done = store.append("chat", [says("a", id="1"), says("b", id="2"), says("a", id="1")])

    assert done.new == 2
    assert contents(store.history("chat")) == ["a", "b"]


def test_an_id_used_again_for_another_message_is_a_conflict_and_nothing_is_stored(store: Store) -> None:
    store.append("chat", with_ids(330))

    for batch in (
        [says("new", id="n"), says("something else", id="m-3")],
        [says("something else", id="m-330")],
        [says("one", id="x"), says("two", id="x")],
    ):
        with pytest.raises(Conflict):
            store.append("chat", batch)
        with pytest.raises(Conflict):
            store.append("chat", batch, after=330)

    assert messages(store.history("chat")) == with_ids(330)
    assert store.append("chat", [says("new", id="n")]).new == 1


def test_the_same_id_in_another_conversation_is_another_message(store: Store) -> None:
    store.append("a", [says("one", id="1")])
    store.append("b", [says("two", id="1")])

    assert contents(store.history("a") + store.history("b")) == ["one", "two"]


@pytest.mark.parametrize("client_id", ["", "x" * 10_000, "a\0b", "🙂", "1"])
def test_any_text_is_an_id(store: Store, client_id: str) -> None:
    for _ in range(2):
        store.append("chat", [says("Hello", id=client_id)])

    assert messages(store.history("chat")) == [says("Hello", id=client_id)]


def test_a_null_id_is_none(store: Store) -> None:
    for _ in range(2):
        store.append("chat", [says("Hello", id=None)])

    assert len(store.history("chat")) == 2


def test_what_stands_after_a_place_already_is_not_stored_again(store: Store) -> None:
    said = chat(10)
    store.append("chat", said[:6])

    again = store.append("chat", said[4:8], after=4)
    once_more = store.append("chat", said[4:8], after=4)
    whole = store.append("chat", said, after=0)

    assert (again.first, again.last, again.new) == (5, 8, 2)
    assert (once_more.first, once_more.last, once_more.new) == (5, 8, 0)
    assert (whole.first, whole.last, whole.new) == (1, 10, 2)
    assert messages(store.history("chat")) == said


def test_a_retry_is_told_from_the_same_text_said_again(store: Store) -> None:
    store.append("chat", [says("yes")], after=0)
    store.append("chat", [says("yes")], after=0)
    store.append("chat", [says("yes")], after=1)
    store.append("chat", [says("yes")], after=1)

    assert contents(store.history("chat")) == ["yes", "yes"]


def test_a_part_of_what_stands_there_adds_nothing_and_takes_nothing_away(store: Store) -> None:
    store.append("chat", chat(330), after=0)
    store.tidy()

    done = store.append("chat", chat(330)[:100], after=0)

    assert (done.first, done.last, done.new) == (1, 100, 0)
    assert len(store.history("chat")) == 330


@pytest.mark.parametrize("after", [0, 3, 64, 100, 200, 329])
def test_other_turns_behind_the_place_are_a_conflict_that_stores_nothing(store: Store, after: int) -> None:
    store.append("chat", chat(330))
    store.tidy()

    with pytest.raises(Conflict):
        store.append("chat", [says("something else")], after=after)

    assert messages(store.history("chat")) == chat(330)
    assert len(store.branches("chat")) == 1


@pytest.mark.parametrize("after", [-1, 6, 1000])
@pytest.mark.parametrize("fork", [False, True])
def test_nothing_stands_after_a_place_that_is_not_there(store: Store, after: int, fork: bool) -> None:
    store.append("chat", chat(5))

    with pytest.raises(Conflict):
        store.append("chat", chat(1), after=after, fork=fork)

    assert len(store.history("chat")) == 5


def test_nothing_stands_after_a_turn_of_a_conversation_that_has_none(store: Store) -> None:
    with pytest.raises(Conflict):
        store.append("chat", chat(1), after=1)

    assert list(store.conversations()) == []


def test_messages_that_differ_only_in_the_order_of_their_fields_are_the_same(store: Store) -> None:
    store.append("chat", [{"role": "user", "content": "Hello", "name": "Ann"}], after=0)

    assert store.append("chat", [{"name": "Ann", "content": "Hello", "role": "user"}], after=0).new == 0


@pytest.mark.parametrize(
    "other",
    [
        says("Hello", "assistant"),
        says("Hello", name="Ann"),
        says("hello"),
        says("Hello "),
        says([{"type": "text", "text": "Hello"}]),
    ],
)
def test_messages_that_differ_in_anything_are_not_the_same(store: Store, other: dict[str, object]) -> None:
    store.append("chat", [says("Hello")], after=0)

    with pytest.raises(Conflict):
        store.append("chat", [other], after=0)


def test_a_history_that_comes_back_with_ids_is_the_same_history(store: Store) -> None:
    """A client that learned ids, or lost them, has said nothing else."""
    store.append("chat", chat(5), after=0)

    assert store.append("chat", with_ids(5), after=0).new == 0


def test_a_failed_append_leaves_an_empty_store_empty(store: Store) -> None:
    with pytest.raises(StoreError):
        store.append("chat", [says("a", id="1"), says("b", id="1")])

    assert list(store.conversations()) == []
    assert store.stats().conversations == 0
