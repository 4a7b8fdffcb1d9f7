"""Many tenants' memories: those that nobody asked for longest are closed, and what all keep is bounded together."""

import asyncio
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import anyio
import pytest

from memory_fakes import FakeSummarizer, talk
from server_fakes import FakeModels
from server_subjects import anyio_backend  # noqa: F401
from tomtat.server import ServerSettings
from tomtat.server.memories import QUICK_THREADS, Memories
from tomtat.server.metrics import Metrics
from tomtat.store import SqlStore, open_store

pytestmark = pytest.mark.anyio


def all_closed() -> None:
    for thread in threading.enumerate():
        if thread.name == "tomtat-close":
            thread.join(60)


async def test_whoever_makes_room_is_closed_and_the_store_is_tidied_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomtat.server.memories.TENANTS", 2)
    tidied: list[str] = []
    monkeypatch.setattr(SqlStore, "tidy", lambda store: tidied.append(store.tenant))
    with open_store(tmp_path / "store.db") as store:
        memories = Memories(ServerSettings(), store, FakeModels(), Metrics())
        for number in range(5):
            memory = memories.of(f"tenant-{number}")
            memory.append("chat", talk(60, seed=number))
            memory.report("chat")
        all_closed()
        assert tidied == []
        assert len(memories._trees) == 2
        assert len(memories.of("tenant-0").history("chat")) == 60
        all_closed()
        await memories.close()
        assert len(tidied) == 1
        assert len(memories._trees) == 0
    assert len(tidied) == 1


async def test_what_tenants_that_are_no_longer_open_said_is_tidied_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied: list[Any] = []
    monkeypatch.setattr(SqlStore, "tidy", lambda store: tidied.append(store.tenant))
    with open_store(tmp_path / "store.db") as store:
        store.for_tenant("gone").append("chat", talk(4))
    assert tidied == ["default"]


async def test_a_model_that_is_slow_at_its_span_keeps_no_server_from_ending(tmp_path: Path) -> None:
    began, ended = threading.Event(), threading.Event()

    class Slow(FakeModels):
        def end_folding(self) -> None:
            ended.set()

    def write(source: str) -> str:
        began.set()
        assert ended.wait(60)
        raise CancelledError

    models = Slow()
    models.folder = FakeSummarizer(write)
    settings = ServerSettings.model_validate({"limits": {"stop_seconds": 0.1}})
    with open_store(tmp_path / "store.db") as store:
        memories = Memories(settings, store, models, Metrics())
        memories.of("anna").append("chat", talk(60))
        assert began.wait(30)
        with anyio.fail_after(30):
            await memories.close()
        assert store.for_tenant("anna").derived("chat") == []


@pytest.fixture
def memories(tmp_path: Path) -> Any:
    with open_store(tmp_path / "store.db") as store:
        yield Memories(ServerSettings(), store, FakeModels(), Metrics())


class Held:
    """Work that fills all threads for quick work until it is let go."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.count = 0

    def __call__(self, memory: Any) -> None:
        self.count += 1
        assert self.released.wait(60)


async def hold(memories: Memories, held: Held, many: int, **how: Any) -> "asyncio.Future[Any]":
    """Once all of it is under way."""
    under_way = asyncio.gather(*(memories.run("anna", held, **how) for _ in range(many)))
    with anyio.fail_after(30):
        while held.count < many:
            await asyncio.sleep(0.01)
    return under_way


async def test_what_nobody_waits_for_before_it_began_is_not_done_but_for_answers(memories: Memories) -> None:
    done: list[str] = []
    held = Held()
    under_way = await hold(memories, held, QUICK_THREADS, quick=True)
    for name, even_late in (("question", False), ("answer", True)):
        with pytest.raises(TimeoutError):
            await memories.run(
                "anna", lambda _, name=name: done.append(name), 0.01, quick=True, even_late=even_late
            )  # fmt: skip
    assert done == []

    held.released.set()
    await under_way
    await memories.close()
    assert done == ["answer"]


async def test_quick_work_waits_for_nothing_that_takes_its_time(memories: Memories) -> None:
    held = Held()
    under_way = await hold(memories, held, QUICK_THREADS + 1)
    with anyio.fail_after(30):
        assert await memories.run("anna", lambda _: "done", quick=True) == "done"
    held.released.set()
    await under_way


async def test_work_is_done_first_come_first_served(memories: Memories) -> None:
    done: list[int] = []
    held = Held()
    under_way = await hold(memories, held, QUICK_THREADS, quick=True)
    one_by_one = threading.Lock()

    def work(number: int) -> None:
        with one_by_one:
            done.append(number)

    waiting = asyncio.gather(*(memories.run("anna", lambda _, n=n: work(n), quick=True) for n in range(20)))
    await asyncio.sleep(0)
    held.released.set()
    await asyncio.gather(under_way, waiting)
    # As many as there are threads may overtake each other between being called and getting the lock.
    assert all(abs(place - number) <= QUICK_THREADS for place, number in enumerate(done))
