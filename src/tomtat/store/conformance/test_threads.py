"""Threads of one process that share a handle."""

import threading
from concurrent.futures import ThreadPoolExecutor

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, says
from tomtat.store.values import Conflict, Span

THREADS = 16


def test_threads_that_append_and_read_at_once_lose_nothing_and_double_nothing(store: Store) -> None:
    store.append("shared", [])

    def work(thread: int) -> None:
        for n in range(20):
            store.append("shared", [says(f"{thread}-{n}", id=f"{thread}-{n}")])
            store.append(f"own-{thread}", [says(f"{thread}-{n}")])
            seen = store.history("shared", newest=50)
            assert [turn.seq for turn in seen] == list(range(seen[0].seq, seen[0].seq + len(seen)))
            if n % 5 == 0:
                assert store.search(f"{thread}-{n}", conversation=f"own-{thread}")
                store.tidy()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))

    said = contents(store.history("shared"))
    assert sorted(said) == sorted(f"{thread}-{n}" for thread in range(THREADS) for n in range(20))
    for thread in range(THREADS):
        own = [text for text in said if text.startswith(f"{thread}-")]
        assert own == contents(store.history(f"own-{thread}")) == [f"{thread}-{n}" for n in range(20)]
    assert store.check().is_sound


def test_of_threads_that_attach_to_the_same_span_one_wins(store: Store) -> None:
    store.append("chat", chat(10))
    start = threading.Barrier(THREADS)

    def work(thread: int) -> bool:
        start.wait()
        try:
            store.attach("chat", Span(1, 10), "summary", thread)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        won = list(pool.map(work, range(THREADS)))

    assert sum(won) == 1
    assert [one.value for one in store.derived("chat")] == [won.index(True)]


def test_of_threads_that_append_after_the_same_turn_one_wins(store: Store) -> None:
    store.append("chat", chat(10))
    start = threading.Barrier(THREADS)

    def work(thread: int) -> bool:
        start.wait()
        try:
            store.append("chat", [says(f"thread {thread}")], after=10)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        won = list(pool.map(work, range(THREADS)))

    assert sum(won) == 1
    assert contents(store.history("chat"))[10:] == [f"thread {won.index(True)}"]


def test_a_reader_sees_whole_appends_only_while_the_history_is_compressed_under_it(store: Store) -> None:
    done = threading.Event()
    store.append("chat", chat(3))

    def read() -> int:
        count = 0
        while not done.is_set() or not count:
            said = contents(store.history("chat"))
            assert len(said) % 3 == 0
            assert said == [f"message number {n % 3 + 1}" for n in range(len(said))]
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            for _ in range(150):
                store.append("chat", chat(3))
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_a_conversation_erased_while_others_write_to_it_is_gone_or_begun_anew(store: Store) -> None:
    def work(thread: int) -> None:
        for n in range(10):
            if thread == 0:
                store.erase(conversation="chat")
            else:
                store.append("chat", [says(f"{thread}-{n}", id=f"{thread}-{n}")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    store.append("chat", [says("end")])
    assert [turn.seq for turn in store.history("chat")] == list(range(1, len(store.history("chat")) + 1))
    assert store.check().is_sound
    store.erase(conversation="chat")
    assert store.stats().turns == 0
