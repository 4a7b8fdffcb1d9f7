"""Threads that take work off an event loop's hands, first come, first served."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Job(Generic[T]):
    """A piece of work on its way through a crew."""

    def __init__(self, work: Callable[["Job[T]"], T]) -> None:
        self.work = work
        self.has_begun = self.is_running = False
        self.is_given_up = False
        """Nobody waits for it any more: if it hasn't begun, it never will."""
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = self.loop.create_future()


class Crew:
    """So many threads at most; one whose work nobody waits for any more is replaced until that work ends."""

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._waiting: deque[Job[Any]] = deque()
        self._changed = threading.Condition()
        self._threads = self._idle = self._stuck = 0
        self._is_closed = False

    @property
    def stuck(self) -> int:
        """Pieces of work under way that nobody waits for any more."""
        return self._stuck

    async def run(self, job: Job[T]) -> T:
        """What its work returns or raises. Cancelled, it is given up: it is not begun any more, and goes on if it was.

        Raises: whatever the work raises.
        """
        with self._changed:
            self._waiting.append(job)
            if self._idle:
                self._idle -= 1  # here, for it may take a moment until it wakes, and another piece may come first
                self._changed.notify()
            else:
                self._grow()
        try:
            return await job.result
        except asyncio.CancelledError:
            with self._changed:
                job.is_given_up = True
                if job.is_running:
                    self._stuck += 1
                    self._grow()
            raise

    def close(self) -> None:
        """Threads end when what was given to them is done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _grow(self) -> None:
        if self._waiting and self._threads < self._size + self._stuck:
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            result, error = None, None
            try:
                result = job.work(job)
            except BaseException as raised:  # whatever it is, whoever waits is to get it
                error = raised
            with self._changed:
                job.is_running = False
                self._stuck -= job.is_given_up
            if not job.is_given_up:
                _tell(job, result, error)
            del job, result, error  # or it would live on until the next one comes

    def _next(self) -> Job[Any] | None:
        """Waits for it; None where this thread is to end."""
        with self._changed:
            while True:
                if self._threads > self._size + self._stuck:
                    self._threads -= 1
                    return None
                while self._waiting:
                    job = self._waiting.popleft()
                    if not job.is_given_up:
                        job.has_begun = job.is_running = True
                        return job
                if self._is_closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._changed.wait()


def _tell(job: Job[Any], result: Any, error: BaseException | None) -> None:
    def settle() -> None:
        if job.result.done():
            return
        if error is None:
            job.result.set_result(result)
        else:
            job.result.set_exception(error)

    with suppress(RuntimeError):  # the loop has ended, and nobody waits
        job.loop.call_soon_threadsafe(settle)
