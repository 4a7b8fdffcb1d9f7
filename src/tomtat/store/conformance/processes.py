"""Starting workers, and killing them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tomtat.store.conformance.subject import Subject, name_of

Worker = subprocess.Popen[str]


def start(subject: Subject, place: str, job: str, *arguments: str) -> Worker:
    """A worker, which may not be ready yet."""
    command = [sys.executable, "-m", "tomtat.store.conformance.worker", name_of(subject), place, job, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def begin(worker: Worker) -> None:
    """Wait until it is ready, and let it go."""
    assert worker.stdout is not None
    assert worker.stdin is not None
    if worker.stdout.readline() != "ready\n":
        raise AssertionError(f"a worker could not open the store:\n{worker.communicate()[1]}")
    worker.stdin.write("go\n")
    worker.stdin.flush()


def steps(worker: Worker) -> list[int]:
    """What it said it has done, once it has ended."""
    out, errors = worker.communicate(timeout=120)
    assert worker.returncode in (0, -9), f"a worker failed:\n{errors}"
    return [int(line.split()[1]) for line in out.splitlines() if line.endswith(tuple("0123456789"))]


def killed_after(worker: Worker, seconds: float) -> list[int]:
    """Let it work so long, kill it without warning; what it had said it has done."""
    begin(worker)
    time.sleep(seconds)
    worker.kill()
    return steps(worker)


@contextmanager
def racing(subject: Subject, place: str, jobs: Sequence[tuple[str, ...]]) -> Iterator[list[Worker]]:
    """Workers that begin together, when all are ready."""
    with ExitStack() as stack:
        workers = [stack.enter_context(start(subject, place, *job)) for job in jobs]
        try:
            for worker in workers:
                begin(worker)
            yield workers
        finally:
            for worker in workers:
                worker.kill()
