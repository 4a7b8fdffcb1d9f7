"""Searches of short chats from memory find what the index finds, with the same scores."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tomtat.store import bags, open_store, searching
from tomtat.store.conformance.fixtures import chat

WORDS = "lamp order cracked refund garden bike rain train ticket Friday".split()
NAMES = ("Ann", "Omar", None)


def said(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Turns of few different words, some several times, by people with names and without."""
    draw = np.random.default_rng(seed)
    turns = []
    for number in range(count):
        name = NAMES[draw.integers(len(NAMES))]
        text = " ".join(draw.choice(WORDS, size=draw.integers(1, 9)))
        turns.append({"role": "user", "content": f"{text} {number % 7}"} | ({"name": name} if name else {}))
    return turns


def found(store, query, **where):
    return [(hit.turn.seq, pytest.approx(hit.score)) for hit in store.search(query, limit=40, **where)]


def turns_kept(store):
    return sum(len(one.keys) for one in store._bags._known.values())


def bytes_of(turns):
    """About what that many of `said` take."""
    return turns * 700


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store.db") as opened:
        turns = said(150)
        opened.append("chat", turns)
        opened.append("chat", [*turns[:60], *said(40, seed=1)], after=0, fork=True)
        opened.append("other", said(30, seed=2))
        yield opened


@pytest.mark.parametrize("where", [{}, {"branch": 0}, {"last": 75}, {"branch": 0, "last": 20}])
@pytest.mark.parametrize("query", ["Ann's cracked lamp", "refund of the train ticket 3", "bike"])
def test_memory_and_index_find_the_same(store, monkeypatch, query, where):
    from_memory = [found(store, query, conversation="chat", **where) for _ in range(3)]
    monkeypatch.setattr(bags, "MOST_TURNS", 0)
    from_index = found(store, query, conversation="chat", **where)

    assert from_index
    assert all(one == from_index for one in from_memory)


def test_a_chat_that_is_known_is_searched_without_the_index_and_new_turns_are_read_alone(store, monkeypatch):
    read = []
    rows_of = bags.rows_of
    monkeypatch.setattr(
        bags,
        "rows_of",
        lambda tenant, connection, stretch: read.append(stretch[1:]) or rows_of(tenant, connection, stretch),
    )
    for _ in range(3):
        store.search("lamp", conversation="other")
    store.append("other", chat(2))
    monkeypatch.setattr("tomtat.store.sqlite.Sqlite.postings", lambda *_: pytest.fail("the index was asked"))
    store.search("lamp", conversation="other")

    assert read == [(1, 30), (31, 32)]


def test_turns_that_were_read_for_their_terms_are_not_read_again_as_hits(store, monkeypatch):
    large = {"role": "user", "content": [{"type": "text", "text": "the lamp " * bags.LARGEST}]}
    called = {"role": "user", "content": [{"type": "text", "text": "which lamp?"}]}
    store.append("other", [large, called])
    first = store.search("lamp", conversation="other", limit=40)
    read = []
    rows_at = searching.rows_at
    monkeypatch.setattr(
        searching, "rows_at", lambda *where: read.append(list(where[-1])) or rows_at(*where)
    )  # fmt: skip

    assert store.search("lamp", conversation="other", limit=40) == first
    assert read == [[31]]
    assert {31, 32} <= {hit.turn.seq for hit in first}


def test_what_a_caller_does_with_a_hit_changes_no_later_one(store):
    first = store.search("lamp", conversation="other")
    said = [dict(hit.turn.message) for hit in first]
    for hit in first:
        hit.turn.message["content"] = "else"

    assert [hit.turn.message for hit in store.search("lamp", conversation="other")] == said


def test_what_was_erased_is_not_kept(store):
    store.search("lamp", conversation="other")
    store.erase(conversation="other")

    assert not store._bags._known


def test_turns_of_all_chats_together_are_bounded(store, monkeypatch):
    monkeypatch.setattr(bags, "KEPT_BYTES", bytes_of(100))
    for name in ("other", "chat", "other", "chat"):
        for _ in range(2):
            store.search("lamp", conversation=name)

    assert len(store._bags._known) <= 2
    assert store._bags._bytes == sum(bag.bytes for one in store._bags._known.values() for bag in one.bags)


def test_a_longer_chat_is_left_to_the_index(tmp_path):
    with open_store(tmp_path / "long.db") as store:
        store.append("long", said(bags.MOST_TURNS + 1))

        assert store.search("lamp", conversation="long")
        assert not store._bags._known


def test_a_chat_that_comes_from_elsewhere_is_taken_in_step_by_step(tmp_path):
    with open_store(tmp_path / "store.db") as store:
        store.append("chat", said(bags.READ_AT_ONCE * 2 + 10))
        first = found(store, "Ann's cracked lamp", conversation="chat")
        sizes = []
        for _ in range(3):
            sizes.append(turns_kept(store))
            assert found(store, "Ann's cracked lamp", conversation="chat") == first

    assert sizes == [bags.READ_AT_ONCE, bags.READ_AT_ONCE * 2, bags.READ_AT_ONCE * 2 + 10]


def test_turns_are_bounded_where_no_chat_is_known_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(bags, "KEPT_BYTES", bytes_of(200))
    with open_store(tmp_path / "store.db") as store:
        for name in "abcd":
            store.append(name, said(bags.READ_AT_ONCE * 2))
            store.search("lamp", conversation=name)

        assert store._bags._bytes <= bytes_of(200)


def test_all_tenants_of_a_store_share_what_is_kept(store, monkeypatch):
    monkeypatch.setattr(bags, "KEPT_BYTES", bytes_of(100))
    for name in ("anna", "ben", "cleo", "dan"):
        tenant = store.for_tenant(name)
        tenant.append("chat", said(60))
        tenant.search("lamp", conversation="chat")

    assert turns_kept(store) == 60
    tenant.erase(conversation="chat")
    assert not store._bags._known


def while_reading(monkeypatch, act):
    """Have something done in the middle of the next read, once."""
    rows_of, acts = bags.rows_of, [act]

    def interrupted(*what):
        rows = rows_of(*what)
        if acts:
            acts.pop()()
        return rows

    monkeypatch.setattr(bags, "rows_of", interrupted)


def test_a_search_waits_for_no_other_ones_read_and_both_take_in_the_same_turns_once(store, monkeypatch):
    def search_elsewhere():
        with ThreadPoolExecutor(1) as pool:
            others.append(pool.submit(found, store, "lamp", conversation="other").result(60))

    others = []
    while_reading(monkeypatch, search_elsewhere)
    assert [found(store, "lamp", conversation="other")] == others
    assert turns_kept(store) == 30
    [known] = store._bags._known.values()
    assert len(known.keys) == len(known.bags) == 30


def test_what_had_to_make_room_while_more_of_it_was_read_leaves_no_gap(store, monkeypatch):
    store.append("long", said(bags.READ_AT_ONCE + 40))
    first = found(store, "lamp", conversation="long")
    while_reading(monkeypatch, store._bags.clear)

    assert found(store, "lamp", conversation="long") == first
    assert not store._bags._known
    for _ in range(2):
        assert found(store, "lamp", conversation="long") == first


def test_what_is_erased_while_it_is_read_is_not_kept(store, monkeypatch):
    def erase_elsewhere():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(store.erase, conversation="other").result(60)

    while_reading(monkeypatch, erase_elsewhere)
    found(store, "lamp", conversation="other")

    assert not store._bags._known
