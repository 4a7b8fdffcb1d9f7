"""Folding ahead of need: a thread that folds conversations as they grow, so that no answer waits for a summary."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("tomtat.memory")

Work = Callable[[str, int], bool]
"""Folds some of what is closed in one branch of a conversation; whether there may be more."""

GIVES_WAY_SECONDS, LOOKS_AGAIN_SECONDS = 0.25, 0.005
"""A piece waits so long at most while others are busy; how often it looks."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds before a failed conversation is tried again: doubled with every failure."""


class Worker:
    """Does a piece of one conversation after the other; one with more to do goes to the end of the queue.

    A failure is logged without any content and tried again later: turns are safe without their summaries.
    """

    def __init__(self, work: Work, others_are_busy: Callable[[], bool] | None = None) -> None:
        """others_are_busy: whether somebody waits for this process at the moment, who then goes first."""
        self._work = work
        self._others_are_busy = others_are_busy
        self._waiting: dict[tuple[str, int], float] = {}
        """What is to be done, and from when on, by the monotonic clock."""
        self._failures: dict[tuple[str, int], int] = {}
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def ask(self, conversation: str, branch: int) -> None:
        """Fold this one soon."""
        with self._changed:
            if self._closed:
                return
            self._waiting.setdefault((conversation, branch), 0.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tomtat-memory", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing is to be done but what failed; whether that came within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self._due(), timeout)

    def close(self) -> None:
        """Let the piece at hand end, and do no more: the rest is done by whoever opens the store next."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _due(self) -> list[tuple[str, int]]:
        now = time.monotonic()
        return [key for key, since in self._waiting.items() if since <= now]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._due():
                    self._changed.wait(timeout=self._until_next())
                if self._closed:
                    return
                key = self._due()[0]
                del self._waiting[key]
                self._busy = True
            self._give_way()
            self._do(key)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _give_way(self) -> None:
        # Not for long: where somebody is always busy, chats must be folded all the same.
        deadline = time.monotonic() + GIVES_WAY_SECONDS
        while self._others_are_busy and self._others_are_busy() and time.monotonic() < deadline and not self._closed:
            time.sleep(LOOKS_AGAIN_SECONDS)

    def _do(self, key: tuple[str, int]) -> None:
        try:
            has_more = self._work(*key)
        except Exception as error:  # whatever it is, the worker must live: the next turn may be folded
            if self._closed:
                return
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
            log.warning("Folding failed %d times, again in %.0f s: %s", failures, pause, type(error).__name__)
            log.debug("Folding failed.", exc_info=True)
            with self._changed:
                self._waiting[key] = time.monotonic() + pause
        else:
            self._failures.pop(key, None)
            if has_more:
                with self._changed:
                    self._waiting.setdefault(key, 0.0)

    def _until_next(self) -> float | None:
        return max(0.0, min(self._waiting.values()) - time.monotonic()) if self._waiting else None
