"""Erasing: all of it goes, nothing else does, and what is gone is gone from the files too."""

import pytest

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import Messages, chat, messages, says
from tomtat.store.conformance.subject import LooksForRemains, Subject, needs
from tomtat.store.values import Conflict, Span, UnknownConversation

NEEDLE = "q7zx93kw41mv08"
"""A word that stands nowhere else, with digits in it, so that an index has it whole."""
OTHER = "j5ty62hb70np19"


def secret(count: int, word: str = NEEDLE) -> Messages:
    """A chat whose every turn has the word somewhere: text, name, tool call, field."""
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": f'{{"word": "{word}"}}'}}
    shapes = [
        lambda n: says(f"message {n} says {word}"),
        lambda n: says(f"message {n}", name=word),
        lambda n: says(None, "assistant", tool_calls=[call]),
        lambda n: says(f"message {n}", metadata={"note": word}),
        lambda n: says([{"type": "text", "text": f"part {n} {word}"}]),
    ]
    return [shapes[n % len(shapes)](n) for n in range(count)]


def test_an_erased_conversation_is_gone_with_all_that_was_made_from_it_and_the_others_stay(store: Store) -> None:
    store.append("gone", secret(330), user="ann")
    store.append("gone", [*secret(100), says("edited")], after=0, fork=True)
    store.append("kept", secret(100, OTHER), user="ann")
    for name in ("gone", "kept"):
        store.attach(name, Span(1, 90), "summary", f"about {NEEDLE if name == 'gone' else OTHER}", branch=0)
    store.attach("gone", Span(1, 101), "summary", "of the branch")
    store.tidy()

    receipt = store.erase(conversation="gone")

    assert (receipt.what, receipt.conversations, receipt.turns, receipt.derived) == ("conversation", 1, 331, 2)
    assert "gone" not in str(receipt)
    for ask in (store.history, store.branches, store.derived):
        with pytest.raises(UnknownConversation):
            ask("gone")
    assert [branch.conversation for branch in store.conversations()] == ["kept"]
    assert messages(store.history("kept")) == secret(100, OTHER)
    assert len(store.derived("kept")) == 1
    assert NEEDLE not in str(list(store.export()))
    stats = store.stats()
    assert (stats.conversations, stats.turns, stats.derived, stats.branches) == (1, 100, 1, 1)
    assert store.check().is_sound


def test_an_erased_user_is_gone_with_all_conversations_and_others_stay(store: Store) -> None:
    for n in range(4):
        store.append(f"chat-{n}", secret(80), user="ann" if n % 2 else "ben")
    store.append("nobody's", chat(3))

    receipt = store.erase(user="ann")

    assert (receipt.what, receipt.conversations, receipt.turns) == ("user", 2, 160)
    assert [branch.conversation for branch in store.conversations()] == ["chat-0", "chat-2", "nobody's"]
    assert list(store.conversations(user="ann")) == []
    assert store.stats().users == 1
    assert store.check().is_sound


@pytest.mark.parametrize("by", ["conversation", "user"])
@pytest.mark.parametrize("age", ["new", "indexed", "compressed"])
def test_nothing_of_what_was_erased_remains_in_any_file(subject: Subject, place: str, by: str, age: str) -> None:
    remains = needs(subject, LooksForRemains).remains
    with subject.open(place) as store:
        for n in range(3):
            store.append("kept", secret(60, OTHER))
            store.append(
                "gone",
                [
                    {**message, "id": f"{NEEDLE}-{n}-{m}"}
                    for m, message in enumerate(secret(110 if age == "compressed" else 30))
                ],
                user="ann",
            )
        store.append("gone", [*secret(1), says(f"edited {NEEDLE}")], after=0, fork=True)
        store.attach("gone", Span(1, 2), "summary", {"about": NEEDLE})
        store.attach("gone", Span(1, 20), "summary", f"again {NEEDLE}", branch=0)
        if age != "new":
            store.tidy()

        receipt = store.erase(conversation="gone") if by == "conversation" else store.erase(user="ann")

        assert receipt.files_rewritten
        assert remains(place, NEEDLE.encode()) == []
        assert remains(place, NEEDLE.encode()[3:]) == [], "not even where its beginning is shared with a neighbour"
    assert remains(place, NEEDLE.encode()) == []
    with subject.open(place) as store:
        assert messages(store.history("kept"))[-60:] == secret(60, OTHER)
        assert store.check().is_sound


def test_the_search_for_remains_would_find_them(subject: Subject, place: str) -> None:
    """Else the test above says nothing."""
    remains = needs(subject, LooksForRemains).remains
    if getattr(subject, "seals", False):
        pytest.skip("what is sealed stands nowhere in plain")
    with subject.open(place) as store:
        store.append("chat", [says("", id="x"), *secret(200)])
        assert remains(place, NEEDLE.encode())
        store.tidy()
    assert len(remains(place, NEEDLE.encode())) >= 2, "in what is compressed, and in the index"


def test_a_search_finds_nothing_of_what_was_erased(store: Store) -> None:
    store.append("chat", secret(150))
    store.search(NEEDLE, conversation="chat")
    store.tidy()
    store.erase(conversation="chat")
    store.append("chat", chat(150))

    assert all(NEEDLE not in str(hit.turn.message) for hit in store.search(NEEDLE, conversation="chat"))
    assert store.search(NEEDLE, conversation="chat") == []


def test_a_late_worker_attaches_nothing_to_an_erased_conversation(subject: Subject, place: str) -> None:
    with subject.open(place) as store, subject.open(place) as worker:
        store.append("chat", chat(6))
        [first] = worker.history("chat", newest=1)
        store.erase(conversation="chat")

        with pytest.raises(UnknownConversation):
            worker.attach("chat", Span(1, first.seq), "summary", "too late")

        assert list(store.conversations()) == []
        assert store.stats().derived == 0


def test_what_was_made_from_an_erased_conversation_does_not_come_to_one_of_its_name(store: Store) -> None:
    store.append("chat", chat(10))
    [read] = store.branches("chat")
    store.erase(conversation="chat")
    store.append("chat", [says("Something else entirely.")] * 12)

    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 10), "summary", "of what was erased", number=read.number)

    assert store.derived("chat") == []
    [now] = store.branches("chat")
    store.attach("chat", Span(1, 10), "summary", "of what is there", number=now.number)
    assert [one.value for one in store.derived("chat")] == ["of what is there"]


def test_a_shorter_conversation_of_the_same_name_is_a_conflict_and_no_wrong_span(store: Store) -> None:
    store.append("chat", chat(10))
    [read] = store.branches("chat")
    store.erase(conversation="chat")
    store.append("chat", chat(3))

    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 10), "summary", "of what was erased", number=read.number)


def test_a_conversation_imported_again_is_another_one_though_its_times_are_the_same(store: Store) -> None:
    store.append("chat", chat(10))
    rows, [before] = list(store.export(conversation="chat")), store.branches("chat")
    store.erase(conversation="chat")
    rows[2] = {**rows[2], "message": says("Something else entirely.")}
    store.import_(rows)

    [after] = store.branches("chat")
    assert (after.created, store.history("chat", newest=1)[0].at) == (before.created, rows[-1]["at"])
    assert after.number != before.number
    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 10), "summary", "of what was erased", number=before.number)


def test_the_name_can_be_used_anew_and_knows_nothing_of_what_was(store: Store) -> None:
    store.append("chat", [says("Hello", id="1"), *chat(200)], user="ann")
    store.append("chat", [says("edited")], after=0, fork=True)
    store.attach("chat", Span(1, 1), "summary", "old")
    store.erase(conversation="chat")

    done = store.append("chat", [says("Goodbye", id="1")], user="ben")

    assert (done.branch, done.first, done.new) == (0, 1, 1)
    assert [branch.user for branch in store.branches("chat")] == ["ben"]
    assert store.derived("chat") == []
    assert store.locate([says("Hello")]) is None
    assert store.check().is_sound


def test_erasing_what_is_not_there_is_a_receipt_of_zeros(store: Store) -> None:
    store.append("chat", chat(2), user="ann")

    for receipt in (store.erase(conversation="none"), store.erase(user="nobody")):
        assert (receipt.conversations, receipt.turns, receipt.derived) == (0, 0, 0)
    assert len(store.history("chat")) == 2


def test_what_to_erase_must_be_said_once(store: Store) -> None:
    store.append("chat", chat(2), user="ann")

    with pytest.raises(StoreError):
        store.erase()
    with pytest.raises(StoreError):
        store.erase(conversation="chat", user="ann")
    assert len(store.history("chat")) == 2


def test_erasing_twice_is_erasing_once(store: Store) -> None:
    store.append("chat", chat(100))

    assert store.erase(conversation="chat").turns == 100
    assert store.erase(conversation="chat").turns == 0


def test_a_user_is_erased_from_every_branch_of_a_conversation_that_got_its_user_late(store: Store) -> None:
    store.append("chat", secret(4))
    store.append("chat", [*secret(2), says("edited")], after=0, fork=True, user="ann")

    assert store.erase(user="ann").conversations == 1
    assert list(store.conversations()) == []


def test_another_handle_that_had_read_it_gives_nothing_of_it_back(subject: Subject, place: str) -> None:
    with subject.open(place) as store, subject.open(place) as reader:
        store.append("chat", secret(330))
        store.tidy()
        assert len(reader.history("chat")) == 330
        reader.search(NEEDLE, conversation="chat")
        store.erase(conversation="chat")
        store.append("chat", chat(330))
        store.tidy()

        assert messages(reader.history("chat")) == chat(330)
        assert reader.search(NEEDLE, conversation="chat") == []
