"""Servers in processes of their own, for the server's benchmarks."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx2
import numpy as np
import psutil

READY_SECONDS = 120
FAKE_UPSTREAM = Path(__file__).with_name("fake_upstream.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """One server, started with the same command as often as it is killed. What it writes goes to `log`."""

    def __init__(self, command: Sequence[str], port: int, ready: str, log: Path) -> None:
        self.command, self.url, self.ready, self.log = command, f"http://127.0.0.1:{port}", ready, log
        self.process: subprocess.Popen[bytes] | None = None
        self.lives: list[list[float]] = []
        """Resident bytes, once a second, of each process."""
        self.cpu_seconds = 0.0
        """Of the processor, of all processes so far, as of the last second."""

    def start(self) -> None:
        """Returns when it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx2.get(self.url + self.ready, timeout=5).status_code == 200:
                    threading.Thread(target=self._watch, args=(self.process.pid,), daemon=True).start()
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        self.kill(signal.SIGKILL)
        raise RuntimeError(f"{' '.join(self.command)} did not become ready:\n{tail}")

    def kill(self, signal_: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process
        self.process.send_signal(signal_)
        return self.process.wait(60)

    def growth(self) -> float | None:
        """Memory in the last quarter of a life over that in the second: in the first it warms up. Of the worst life."""
        whole = [life for life in self.lives if len(life) >= 8]
        return max((round(quarter(life, 3) / quarter(life, 1), 3) for life in whole), default=None)

    def _watch(self, pid: int) -> None:
        life: list[float] = []
        self.lives.append(life)
        before, spent = self.cpu_seconds, 0.0
        try:
            process = psutil.Process(pid)
            while True:
                life.append(process.memory_info().rss)
                times = process.cpu_times()
                spent = times.user + times.system
                self.cpu_seconds = before + spent
                time.sleep(1)
        except psutil.NoSuchProcess:
            pass

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self.process and self.process.poll() is None:
            self.kill()


def quarter(life: Sequence[float], number: int) -> float:
    part = len(life) // 4
    return float(np.median(life[number * part : (number + 1) * part]))


@contextmanager
def fake_upstream(folder: Path) -> Iterator[ServerProcess]:
    port = free_port()
    command = [sys.executable, str(FAKE_UPSTREAM), "--port", str(port)]
    with ServerProcess(command, port, "/ready", folder / "upstream.log") as process:
        yield process
