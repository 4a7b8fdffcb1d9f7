"""Finding the conversation that a client's history is the beginning of, without being told its name."""

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, says
from tomtat.store.values import Located, Span


def test_a_history_that_a_conversation_ends_with_is_located_with_what_is_new_left_over(store: Store) -> None:
    store.append("a", chat(6))
    store.append("b", chat(6, "other"))

    assert store.locate(chat(6)) == Located("a", 0, 6)
    assert store.locate([*chat(6, "other"), says("new"), says("newer")]) == Located("b", 0, 6)


def test_what_nobody_said_is_not_located(store: Store) -> None:
    store.append("a", chat(6))

    assert store.locate([]) is None
    assert store.locate(chat(3, "unheard")) is None
    assert store.locate([says("first"), *chat(6)]) is None, "what matches must be the beginning"


def test_the_longest_beginning_wins(store: Store) -> None:
    store.append("short", chat(2))
    store.append("long", chat(8))
    store.append("middle", chat(5))

    found = store.locate(chat(12))

    assert found == Located("long", 0, 8)


def test_a_history_is_located_among_conversations_whose_names_begin_as_asked(store: Store) -> None:
    for name in ("~found", "named", "Đặt vé", "订票"):
        store.append(name, chat(4))
    store.append("Đặt vé", chat(8)[4:])

    assert store.locate(chat(8), prefix="~") == Located("~found", 0, 4)
    assert store.locate(chat(4), prefix="na") == Located("named", 0, 4)
    assert store.locate(chat(4), prefix="%") is None
    assert store.locate(chat(8)) == Located("Đặt vé", 0, 8)


def test_a_branch_is_located_by_its_own_end(store: Store) -> None:
    store.append("a", chat(6))
    edited = [*chat(3), says("edited"), says("then")]
    store.append("a", edited, after=0, fork=True)

    assert store.locate([*chat(6), says("new")]) == Located("a", 0, 6)
    assert store.locate([*edited, says("new")]) == Located("a", 1, 5)


def test_a_history_is_located_by_what_was_derived_from_its_beginning(store: Store) -> None:
    store.append("a", chat(10))
    store.attach("a", Span(1, 6), "summary", "six messages")

    assert store.locate([*chat(8), says("edited")]) == Located("a", 0, 6)


def test_long_histories_are_located_also_where_they_are_compressed(store: Store) -> None:
    store.append("a", chat(1100))
    store.tidy()

    assert store.locate(chat(1400)) == Located("a", 0, 1100)


def test_fields_count_and_ids_do_not(store: Store) -> None:
    store.append("a", [says("Hello", name="Ann")])

    assert store.locate([says("Hello", name="Ben")]) is None
    assert store.locate([says("Hello", name="Ann", id="m-1")]) == Located("a", 0, 1)


def test_nothing_is_located_in_another_tenant_or_after_it_was_erased(store: Store) -> None:
    store.append("a", chat(4))

    assert store.for_tenant("other").locate(chat(4)) is None
    store.erase(conversation="a")
    assert store.locate(chat(4)) is None
