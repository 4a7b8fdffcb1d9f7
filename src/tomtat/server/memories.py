"""The tenants' memories, and the threads in which they work: the store never keeps the event loop waiting."""

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from tomtat.memory import ChatMemory
from tomtat.memory.chat_memory import Trees
from tomtat.memory.folding import NoSummarizer, SpanSummarizer
from tomtat.server.counting import Counters
from tomtat.server.crew import Crew, Job
from tomtat.server.metrics import Metrics
from tomtat.server.prefixes import Prefixes
from tomtat.server.recent import Recent
from tomtat.server.services import Models
from tomtat.server.settings import ServerSettings
from tomtat.server.totals import Totals
from tomtat.server.which import Answered, Message, Place
from tomtat.store import Store
from tomtat.types import Generation

log = logging.getLogger(__name__)

T = TypeVar("T")

RESPONSES = 1024
TENANTS = 64
"""Memories that are kept open. What they keep of folds is bounded for all together."""
QUICK_THREADS = max(2, os.cpu_count() or 1)
"""For what each chat request does: they take turns at computing anyway, so more would only make all of them late."""
PATIENT_THREADS = 32
"""For everything else, such as waiting for a model, which keeps no chat waiting."""
MOST_STUCK = 32
"""Pieces of work that nobody waits for any more and that don't end: beyond, no new one is begun."""


class Responses:
    """Where responses stand that went through here, by their ids: of those of late, in this process."""

    def __init__(self) -> None:
        self._places: Recent[tuple[str, str], tuple[Place, list[Message]]] = Recent(RESPONSES)

    def note(self, tenant: str, response: str, place: Place, answered: list[Message]) -> None:
        self._places.put((tenant, response), (place, answered))

    def forget(self, tenant: str, conversation: str) -> None:
        self._places.drop(lambda key, value: key[0] == tenant and value[0].conversation == conversation)

    def find(self, tenant: str, response: Any) -> tuple[Place, list[Message]] | None:
        """The place of the last message it answers, and what it answered."""
        return self._places.get((tenant, response)) if isinstance(response, str) else None


class GivenUp(Exception):
    """Nobody waits for this work any more, so it must not write what its client may have sent again."""


class TooManyStuck(Exception):
    """So much work on memories does not come to an end that no more is begun."""


class Memories:
    def __init__(self, settings: ServerSettings, store: Store, models: Models, metrics: Metrics) -> None:
        self.settings, self.store, self.models, self.metrics = settings, store, models, metrics
        self.counters = Counters()
        self.answered = Answered()
        self.totals = Totals()
        self.prefixes = Prefixes()
        self.responses = Responses()
        self._open: OrderedDict[str, ChatMemory] = OrderedDict()
        self._trees = Trees()
        self._lock = threading.Lock()
        self._quick = Crew(QUICK_THREADS, "tomtat-quick")
        self._patient = Crew(PATIENT_THREADS, "tomtat-patient")
        self._current = threading.local()
        """The job of a thread."""
        self._running = 0
        """Pieces of work that are being done."""
        self._later: set[Any] = set()

    def of(self, tenant: str) -> ChatMemory:
        """From any thread."""
        with self._lock:
            memory = self._open.pop(tenant, None)
            if memory is None:
                memory = self._new(tenant)
            self._open[tenant] = memory
            old = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - TENANTS)]
        for one in old:
            # It ends the span it is folding first, and nobody should wait for that. Its store stays: closing one would
            # tidy the whole database, which is for the server's end.
            threading.Thread(target=one.close, name="tomtat-close", daemon=True).start()
        return memory

    def _new(self, tenant: str) -> ChatMemory:
        store = self.store.for_tenant(tenant)
        return ChatMemory(
            CurrentSummarizer(self.models), store, self.settings.memory, trees=self._trees,
            others_are_busy=lambda: self._running > self._stuck,
        )  # fmt: skip

    async def run(
        self, tenant: str, work: Callable[[ChatMemory], T], seconds: float | None = None, *, quick: bool = False,
        even_late: bool = False,
    ) -> T:  # fmt: skip
        """Work on a tenant's memory, in a thread. Where it takes longer than `seconds` it is left to itself.

        quick: what takes milliseconds and every chat waits for: done first come, first served, a few at a time.
        even_late: to be done all the same where nobody waits any more before it has begun.

        Raises: TimeoutError; TooManyStuck; whatever the work raises.
        """
        if self._stuck >= MOST_STUCK:
            raise TooManyStuck
        job = Job(partial(self._do, tenant, work))
        try:
            async with asyncio.timeout(seconds):
                return await (self._quick if quick else self._patient).run(job)
        except (TimeoutError, asyncio.CancelledError):
            if even_late and not job.has_begun:
                self.later(self._late(tenant, work))
            raise

    @property
    def _stuck(self) -> int:
        """Pieces of work that nobody waits for any more and that don't end."""
        return self._quick.stuck + self._patient.stuck

    async def _late(self, tenant: str, work: Callable[[ChatMemory], Any]) -> None:
        try:
            await self.run(tenant, work, self.settings.limits.stop_seconds, quick=True)
        except Exception as error:
            log.error("work on a memory that came late failed: %s", type(error).__name__)

    def _do(self, tenant: str, work: Callable[[ChatMemory], T], job: Job[T]) -> T:
        self._current.job = job
        with self._lock:
            self._running += 1
        try:
            return work(self.of(tenant))
        finally:
            self._current.job = None
            with self._lock:
                self._running -= 1

    def require_wanted(self) -> None:
        """In work that `run` does. Raises: GivenUp, where nobody waits for it any more."""
        if self._current.job.is_given_up:
            raise GivenUp

    def forget(self, tenant: str, conversation: str) -> None:
        """Keep nothing of it here: it was erased."""
        self.answered.forget(tenant, conversation)
        self.totals.forget(tenant, conversation)
        self.prefixes.forget(tenant, conversation)
        self.responses.forget(tenant, conversation)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Done soon, and before the server ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def close(self) -> None:
        """Keep the last answers, end the span that is being folded, tidy the store."""
        while self._later:
            await asyncio.wait(self._later)
        with self._lock:
            memories = list(self._open.values())
            self._open.clear()
        # A slow model may take minutes for its span, which is folded anew by whoever opens the store next.
        with anyio.move_on_after(self.settings.limits.stop_seconds):
            await anyio.to_thread.run_sync(_close, memories, abandon_on_cancel=True)
        self.models.end_folding()
        await anyio.to_thread.run_sync(_close, memories)
        for memory in memories:
            await anyio.to_thread.run_sync(memory.store.close)
        self._quick.close()
        self._patient.close()


def _close(memories: Sequence[ChatMemory]) -> None:
    for memory in memories:
        memory.close()


class CurrentSummarizer(SpanSummarizer):
    """Whoever folds chats at the moment: summarizers are loaded and swapped while memories live."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @property
    def _now(self) -> SpanSummarizer:
        return self._models.folding() or NoSummarizer()

    @property
    def name(self) -> str:
        return self._now.name

    @property
    def max_source_tokens(self) -> int:
        return self._now.max_source_tokens

    def count_tokens(self, text: str) -> int:
        return self._now.count_tokens(text)

    def generate(self, sources: Sequence[str]) -> Sequence[Generation]:
        return self._now.generate(sources)

    def draw(self, sources: Sequence[str], count: int) -> Sequence[Sequence[Generation]]:
        return self._now.draw(sources, count)
