"""Two tenants with the same names never see one another, whatever is called."""

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, messages, says
from tomtat.store.conformance.subject import Subject, needs_wide_search
from tomtat.store.values import Span, UnknownConversation

import pytest  # isort: skip


def test_each_tenant_has_its_own_conversation_of_the_same_name(store: Store) -> None:
    other = store.for_tenant("other")
    store.append("chat", chat(3, "mine"))
    other.append("chat", chat(2, "theirs"))

    assert messages(store.history("chat")) == chat(3, "mine")
    assert messages(other.history("chat")) == chat(2, "theirs")
    assert len(store.branches("chat")) == len(other.branches("chat")) == 1


def test_a_tenant_sees_nothing_of_another_by_any_method(subject: Subject, store: Store) -> None:
    other = store.for_tenant("other")
    store.append("chat", [says("the parrot", id="1"), *chat(200)], user="ann")
    store.attach("chat", Span(1, 1), "summary", "of a parrot")
    store.tidy()

    for ask in (
        lambda: other.history("chat"),
        lambda: other.branches("chat"),
        lambda: other.derived("chat"),
        lambda: other.search("parrot", conversation="chat"),
        lambda: other.attach("chat", Span(1, 1), "summary", "x"),
        lambda: other.attach("chat", Span(1, 1), "summary", "x", expected=1),
        lambda: list(other.export(conversation="chat")),
        lambda: other.append("chat", chat(1), branch=1),
    ):
        with pytest.raises(UnknownConversation):
            ask()
    assert list(other.conversations()) == list(other.conversations(user="ann")) == []
    assert other.locate([says("the parrot"), *chat(200)]) is None
    assert [row for row in other.export() if "tomtat_store" not in row] == []
    assert [row for row in other.export(user="ann") if "tomtat_store" not in row] == []
    assert other.erase(conversation="chat").turns == other.erase(user="ann").turns == 0
    stats = other.stats()
    assert (stats.conversations, stats.branches, stats.turns, stats.packed_turns, stats.derived, stats.users) == (
        0,
    ) * 6
    assert len(store.history("chat")) == 201
    needs_wide_search(subject)
    assert other.search("parrot") == other.search("parrot", user="ann") == []


def test_a_tenant_searches_its_own_only(subject: Subject, store: Store) -> None:
    needs_wide_search(subject)
    tenants = [store.for_tenant(f"tenant-{n}") for n in range(3)]
    for n, tenant in enumerate(tenants):
        for m in range(40):
            tenant.append(f"chat-{m}", [says(f"parrot {m} of tenant {n}")], user="ann")
    store.tidy()

    for n, tenant in enumerate(tenants):
        for hits in (tenant.search("parrot", limit=200), tenant.search("parrot", user="ann", limit=200)):
            assert len(hits) == 40
            assert all(str(hit.turn.message["content"]).endswith(f"tenant {n}") for hit in hits)


def test_erasing_in_one_tenant_leaves_the_same_names_in_another(store: Store) -> None:
    other = store.for_tenant("other")
    for tenant in (store, other):
        tenant.append("chat", [says("Hello", id="1"), *chat(200)], user="ann")
        tenant.attach("chat", Span(1, 1), "summary", "x")

    store.erase(user="ann")
    store.erase(conversation="chat")

    assert len(other.history("chat")) == 201
    assert len(other.derived("chat")) == 1
    assert other.search("number 7", conversation="chat")
    assert store.check().is_sound


def test_a_tenant_seen_through_another_handle_is_the_same(subject: Subject, place: str) -> None:
    with subject.open(place) as one:
        one.for_tenant("other").append("chat", [says("Hello")])
    with subject.open(place) as two:
        assert contents(two.for_tenant("other").history("chat")) == ["Hello"]
        two.for_tenant("other").close()
        assert list(two.conversations()) == [], "closing a tenant's view leaves the store open"


def test_names_do_not_run_into_one_another(store: Store) -> None:
    store.for_tenant("a").append("b c", [says("one")])
    store.for_tenant("a b").append("c", [says("two")])

    assert contents(store.for_tenant("a").history("b c")) == ["one"]
    assert contents(store.for_tenant("a b").history("c")) == ["two"]
    with pytest.raises(UnknownConversation):
        store.for_tenant("a").history("c")
