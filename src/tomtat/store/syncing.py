"""A write-ahead log brought to the disk a moment after its commits, many of them at once: nobody waits for the disk,
and a power cut costs that moment at most."""

import logging
import os
import threading
from pathlib import Path

log = logging.getLogger("tomtat.store")

SECONDS = 0.05
"""From a commit to the sync that brings it to the disk, with all that came meanwhile."""


class LogSyncer:
    def __init__(self, path: Path) -> None:
        """path: of the log, which need not be there."""
        self._path = path
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._committed, self._closed = threading.Event(), threading.Event()

    def committed(self) -> None:
        """Something was; from any thread."""
        if not self._committed.is_set():  # else a sync is to come already, and whoever waits for it need not wake
            self._committed.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._run, name="tomtat-sync", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Sync what is left."""
        with self._lock:
            self._closed.set()
            self._committed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._committed.wait()
            self._closed.wait(SECONDS)
            self._committed.clear()  # before, so that what is committed during a sync has one of its own
            self._sync()

    def _sync(self) -> None:
        # A log that is gone was moved into the database, and synced for that.
        try:
            handle = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("the store's log can't be synced: %s", error.strerror)
            return
        try:
            os.fsync(handle)
        except OSError as error:
            log.error("the store's log can't be synced: %s", error.strerror)
        finally:
            os.close(handle)
