"""Edits and regenerations: what was said stays, and what is said instead shares all that is equal."""

import pytest

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import Messages, chat, contents, messages, says
from tomtat.store.conformance.subject import Subject
from tomtat.store.values import Conflict, UnknownConversation


def edited(history: Messages, place: int, text: str = "edited") -> Messages:
    """The history up to `place`, where something else is said."""
    return [*history[: place - 1], says(text)]


def test_an_edit_opens_a_branch_that_shares_what_is_before_it(store: Store) -> None:
    store.append("chat", chat(6), after=0, fork=True)

    done = store.append("chat", edited(chat(6), 5), after=0, fork=True)

    assert (done.branch, done.first, done.last, done.new) == (1, 1, 5, 1)
    assert messages(store.history("chat")) == edited(chat(6), 5)
    assert messages(store.history("chat", branch=0)) == chat(6)
    assert [turn.branch for turn in store.history("chat")] == [0, 0, 0, 0, 1]


def test_branches_tell_where_they_were_forked(store: Store) -> None:
    store.append("chat", chat(6), user="ann")
    store.append("chat", edited(chat(6), 5), after=0, fork=True)

    first, second = store.branches("chat")

    assert (first.branch, first.last, first.forked_from, first.forked_after, first.user) == (0, 6, None, None, "ann")
    assert (second.branch, second.last, second.forked_from, second.forked_after, second.user) == (1, 5, 0, 4, "ann")


def test_an_edit_of_the_very_first_message_shares_nothing_and_is_a_branch_of_the_same_conversation(
    store: Store,
) -> None:
    store.append("chat", chat(4), after=0)

    done = store.append("chat", [says("Something else altogether")], after=0, fork=True)

    assert (done.branch, done.new) == (1, 1)
    assert contents(store.history("chat")) == ["Something else altogether"]
    assert messages(store.history("chat", branch=0)) == chat(4)


def test_where_nothing_differs_fork_opens_no_branch(store: Store) -> None:
    store.append("chat", chat(4), after=0, fork=True)

    done = store.append("chat", chat(6), after=0, fork=True)

    assert (done.branch, done.new) == (0, 2)
    assert len(store.branches("chat")) == 1


def test_a_client_that_resends_its_whole_history_again_and_again_adds_only_what_is_new(store: Store) -> None:
    history: Messages = []
    for n in range(12):
        history += [says(f"question {n}")]
        for _ in range(2):
            store.append("chat", history, after=0, fork=True)
        history += [says(f"answer {n}", "assistant")]
        store.append("chat", history, after=0, fork=True)

    assert messages(store.history("chat")) == history
    assert len(store.branches("chat")) == 1
    assert store.stats().turns == 24


@pytest.mark.parametrize("at", [1, 2, 40, 64, 65, 66, 128, 129, 200, 299, 330])
def test_forks_anywhere_in_a_long_history_share_what_lies_compressed(subject: Subject, place: str, at: int) -> None:
    said = edited(chat(330), at)
    with subject.open(place) as store:
        store.append("chat", chat(330))
        store.tidy()
        done = store.append("chat", said, after=0, fork=True)
        again = store.append("chat", said, after=0, fork=True)

        assert (done.branch, done.last, done.new) == (1, at, 1)
        assert (again.branch, again.last, again.new) == (1, at, 0)
        assert messages(store.history("chat")) == said
        assert messages(store.history("chat", branch=0)) == chat(330)
        assert store.stats().turns == 331
        assert store.check().is_sound


def test_resending_either_of_two_branches_finds_it_again(store: Store) -> None:
    one, other = chat(10), [*edited(chat(10), 7), *chat(3, "then")]
    for _ in range(3):
        assert store.append("chat", one, after=0, fork=True).branch == 0
        assert store.append("chat", other, after=0, fork=True).branch == 1

    assert store.stats().turns == 10 + 4
    assert len(store.branches("chat")) == 2


def test_a_branch_goes_on_where_its_own_history_is_resent_though_it_is_not_the_newest(store: Store) -> None:
    one, other = chat(10), edited(chat(10), 7)
    store.append("chat", one, after=0, fork=True)
    store.append("chat", other, after=0, fork=True)

    done = store.append("chat", [*one, says("more")], after=0, fork=True)

    assert (done.branch, done.last, done.new) == (0, 11, 1)
    assert messages(store.history("chat", branch=0)) == [*one, says("more")]
    assert messages(store.history("chat", branch=1)) == other


def test_a_regeneration_behind_the_newest_user_message_is_a_branch_and_so_is_each_further_one(store: Store) -> None:
    asked = chat(9)
    store.append("chat", [*asked, says("answer 0", "assistant")])
    for n in range(1, 5):
        for _ in range(2):
            done = store.append("chat", [says(f"answer {n}", "assistant")], after=9, fork=True)
            assert (done.branch, done.first, done.last) == (n, 10, 10)

    assert [contents(store.history("chat", branch=n))[-1] for n in range(5)] == [f"answer {n}" for n in range(5)]
    assert [branch.forked_after for branch in store.branches("chat")] == [None, 9, 9, 9, 9]
    assert store.stats().turns == 14


def test_forks_of_forks_see_all_before_them(store: Store) -> None:
    history = chat(12)
    store.append("chat", history)
    histories = [history]
    for n in range(1, 8):
        history = [*edited(histories[-1], 12 - n, f"edit {n}"), *chat(2, f"after edit {n}")]
        histories.append(history)
        assert store.append("chat", history, after=0, fork=True).branch == n

    for n, expected in enumerate(histories):
        assert messages(store.history("chat", branch=n)) == expected
        assert store.append("chat", expected, after=0, fork=True).new == 0
    assert len(store.branches("chat")) == 8


def test_branches_that_grow_long_after_forking_are_compressed_and_forked_again(store: Store) -> None:
    first = chat(150)
    second = [*first[:100], *chat(200, "second")]
    third = [*second[:250], *chat(120, "third")]
    for history in (first, second, third):
        store.append("chat", history, after=0, fork=True)
    store.tidy()

    for n, expected in enumerate((first, second, third)):
        assert messages(store.history("chat", branch=n)) == expected
        assert [turn.seq for turn in store.history("chat", branch=n, newest=30)] == list(
            range(len(expected) - 29, len(expected) + 1)
        )
        assert store.append("chat", expected, after=0, fork=True).branch == n
    assert messages(store.history("chat", branch=2, first=90, last=260)) == third[89:260]
    assert store.stats().turns == 150 + 200 + 120
    assert store.check().is_sound


def test_a_branch_can_be_named_in_every_call(store: Store) -> None:
    store.append("chat", chat(4))
    store.append("chat", edited(chat(4), 3), after=0, fork=True)

    done = store.append("chat", [says("on the old one")], branch=0)

    assert (done.branch, done.first, done.last) == (0, 5, 5)
    assert contents(store.history("chat", branch=0))[-1] == "on the old one"
    assert contents(store.history("chat"))[-1] == "edited"
    assert store.append("chat", [says("on the new one")]).branch == 1
    with pytest.raises(UnknownConversation):
        store.append("chat", chat(1), branch=2)
    with pytest.raises(Conflict):
        store.append("chat", [says("nor here")], branch=0, after=2)


def test_a_fork_of_a_named_branch_is_made_there_once_however_often_it_is_sent(store: Store) -> None:
    store.append("chat", chat(8))
    store.append("chat", edited(chat(8), 2), after=0, fork=True)

    for _ in range(3):
        done = store.append("chat", [says("said instead")], branch=0, after=6, fork=True)
        assert (done.branch, done.last) == (2, 7)

    assert messages(store.history("chat", branch=2)) == [*chat(6), says("said instead")]
    assert len(store.branches("chat")) == 3


def test_after_names_a_place_of_the_branch_that_was_named(store: Store) -> None:
    """Two branches that differ at the place are not taken for one another."""
    store.append("chat", chat(8))
    other = [*edited(chat(8), 2), *chat(5, "other")]
    store.append("chat", other, after=0, fork=True)

    on_old = store.append("chat", [says("same words")], branch=0, after=5, fork=True)
    on_new = store.append("chat", [says("same words")], branch=1, after=5, fork=True)

    assert messages(store.history("chat", branch=on_old.branch)) == [*chat(5), says("same words")]
    assert messages(store.history("chat", branch=on_new.branch)) == [*other[:5], says("same words")]


def test_a_shorter_history_that_ends_before_a_fork_adds_nothing(store: Store) -> None:
    store.append("chat", chat(6), after=0, fork=True)
    store.append("chat", edited(chat(6), 5), after=0, fork=True)

    done = store.append("chat", chat(3), after=0, fork=True)

    assert (done.last, done.new) == (3, 0)
    assert len(store.branches("chat")) == 2


def test_an_id_may_be_said_again_on_the_branch_that_edits_it(store: Store) -> None:
    """Clients that edit a message keep its id."""
    store.append("chat", [says("a", id="1"), says("b", id="2"), says("c", id="3")])

    store.append("chat", [says("a", id="1"), says("B", id="2")], after=0, fork=True)

    assert contents(store.history("chat")) == ["a", "B"]
    assert store.append("chat", [says("B", id="2")]).new == 0
    assert store.append("chat", [says("b", id="2")], branch=0).new == 0
    assert store.append("chat", [says("c", id="3")]).new == 1, "turn 3 of branch 0 is no turn of branch 1"


def test_an_append_goes_to_the_newest_branch_and_leaves_the_others(store: Store) -> None:
    store.append("chat", chat(4))
    store.append("chat", edited(chat(4), 2), after=0, fork=True)

    store.append("chat", [says("further")])

    assert contents(store.history("chat")) == ["message number 1", "edited", "further"]
    assert messages(store.history("chat", branch=0)) == chat(4)


def test_branches_of_unknown_conversations_are_not_there(store: Store) -> None:
    with pytest.raises(UnknownConversation):
        store.branches("chat")
