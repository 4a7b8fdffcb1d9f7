"""Several processes at once, and processes killed in the middle."""

import random
import time

import pytest

from tomtat.store.conformance.fixtures import contents, messages, says
from tomtat.store.conformance.processes import killed_after, racing, start, steps
from tomtat.store.conformance.subject import Subject
from tomtat.store.conformance.worker import BATCH, batch, summary
from tomtat.store.values import Conflict, Span

KILLS = 8


def moment(dice: random.Random) -> float:
    """Seconds until a kill: most early, where each step is another."""
    return dice.choice([0.005, 0.02, 0.05, 0.1, 0.2]) * (0.5 + dice.random())


def test_processes_that_write_to_one_conversation_store_each_message_once_and_in_order(
    subject: Subject, place: str
) -> None:
    subject.open(place).close()
    jobs = [("append_each", "shared", f"writer{n // 2}", "100") for n in range(4)]  # two send the same messages each

    with racing(subject, place, jobs) as workers:
        for worker in workers:
            assert steps(worker) == list(range(100))

    with subject.open(place) as store:
        turns = store.history("shared")
        assert [turn.seq for turn in turns] == list(range(1, 201))
        for writer in ("writer0", "writer1"):
            said = [text for text in contents(turns) if text.startswith(writer)]
            assert said == [f"{writer}-{n}" for n in range(100)]
        assert store.check().is_sound


def test_processes_that_write_to_conversations_of_their_own_do_not_disturb_one_another(
    subject: Subject, place: str
) -> None:
    subject.open(place).close()
    jobs = [("append_each", f"chat-{n}", "writer", "250") for n in range(4)]

    with racing(subject, place, jobs) as workers:
        for worker in workers:
            steps(worker)

    with subject.open(place) as store:
        for n in range(4):
            assert contents(store.history(f"chat-{n}")) == [f"writer-{m}" for m in range(250)]
        assert store.check().is_sound


def test_processes_that_open_a_new_store_at_once_make_one(subject: Subject, place: str) -> None:
    workers = [start(subject, place, "open_only") for _ in range(4)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [steps(worker) for worker in workers] == [[0]] * 4

    with subject.open(place) as store:
        assert store.check().is_sound


def test_of_processes_that_attach_to_the_same_span_one_wins(subject: Subject, place: str) -> None:
    with subject.open(place) as store:
        store.append("chat", [says(f"message {n}") for n in range(3)])

        with racing(subject, place, [("attach_once", "chat", f"writer{n}") for n in range(3)]) as workers:
            won = [steps(worker) for worker in workers]

        assert sorted(won) == [[], [], [1]]
        assert [(one.value, one.version) for one in store.derived("chat")] == [(f"writer{won.index([1])}", 1)]
        with pytest.raises(Conflict):
            store.attach("chat", Span(1, 3), "summary", "late")


def test_processes_that_replace_one_another_s_values_lose_no_update(subject: Subject, place: str) -> None:
    with subject.open(place) as store:
        store.append("chat", [says("count")])
        store.attach("chat", Span(1, 1), "counter", 0)

        with racing(subject, place, [("count_up", "chat", "40")] * 3) as workers:
            for worker in workers:
                steps(worker)

        assert [(one.value, one.version) for one in store.derived("chat")] == [(120, 121)]


def test_a_process_killed_in_the_middle_of_an_append_leaves_all_it_acknowledged_once_and_no_half(
    subject: Subject, place: str
) -> None:
    dice = random.Random(1)
    acknowledged = -1
    with subject.open(place) as store:
        store.append("chat", [])
        for _ in range(KILLS):
            done = killed_after(start(subject, place, "append_batches", "chat"), moment(dice))
            acknowledged = max([acknowledged, *done])

            turns = store.history("chat")
            whole, half = divmod(len(turns), BATCH)
            assert half == 0
            assert acknowledged + 1 <= whole
            assert [turn.seq for turn in turns] == list(range(1, len(turns) + 1))
            assert messages(turns) == [message for n in range(whole) for message in batch(n)]
        assert acknowledged > 0, "else nothing was tried"
        assert store.check().is_sound
        assert store.search(f"batch {acknowledged}", conversation="chat")


def test_a_process_killed_in_the_middle_of_an_attach_leaves_the_old_version_or_the_new(
    subject: Subject, place: str
) -> None:
    dice = random.Random(2)
    acknowledged = 0
    with subject.open(place) as store:
        store.append("chat", [says(f"message {n}") for n in range(3)])
        for _ in range(KILLS):
            done = killed_after(start(subject, place, "attach_again_and_again", "chat"), moment(dice))
            acknowledged = max([acknowledged, *done])

            found = store.derived("chat")
            assert [one.version for one in found] in (
                [[acknowledged], [acknowledged + 1]] if acknowledged else [[], [1]]
            )
            assert all(one.value == summary(one.version) for one in found)
        assert acknowledged > 0, "else nothing was tried"
        assert store.check().is_sound


def test_a_process_killed_in_the_middle_of_erasing_leaves_all_or_nothing(subject: Subject, place: str) -> None:
    dice = random.Random(3)
    with subject.open(place) as store:
        store.append("kept", [says("kept")])
        for _ in range(KILLS // 2):
            killed_after(start(subject, place, "erase_and_append", "chat"), moment(dice))

            names = [branch.conversation for branch in store.conversations()]
            assert names in (["chat", "kept"], ["kept"])
            if "chat" in names:
                said = contents(store.history("chat"))
                assert len(said) == 400
                assert len({text.split(",")[0] for text in said}) == 1, "two rounds in one"
            assert store.check().is_sound
        store.erase(conversation="chat")
        assert contents(store.history("kept")) == ["kept"]


def test_killing_all_of_several_writers_at_once_loses_nothing_they_acknowledged(subject: Subject, place: str) -> None:
    subject.open(place).close()
    dice = random.Random(4)
    acknowledged: dict[int, set[int]] = {n: set() for n in range(3)}
    for _ in range(3):
        with racing(subject, place, [("append_each", "shared", f"writer{n}", "100000") for n in range(3)]) as workers:
            time.sleep(moment(dice))
            for worker in workers:
                worker.kill()
            for n, worker in enumerate(workers):
                acknowledged[n].update(steps(worker))

    with subject.open(place) as store:
        said = contents(store.history("shared"))
        assert len(said) == len(set(said))
        for n, done in acknowledged.items():
            own = [int(text.split("-")[1]) for text in said if text.startswith(f"writer{n}-")]
            assert own == list(range(len(own)))
            assert done <= set(own)
        assert any(acknowledged.values()), "else nothing was tried"
        assert store.check().is_sound
