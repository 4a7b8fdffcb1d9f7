"""A process of its own that writes to a store, for tests to race and to kill.

    python -m tomtat.store.conformance.worker package.module:Subject PLACE JOB ARGUMENT...

It says `ready` when the store is open, begins when it reads a line, and says `done N` after each step that returned.
"""

import sys
from itertools import count

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import says
from tomtat.store.conformance.subject import load
from tomtat.store.values import Conflict, Span

BATCH = 7
"""Messages in an append of `append_batches`: half of one would show."""


def append_each(store: Store, name: str, writer: str, times: str) -> None:
    """Messages with ids, one an append."""
    for n in range(int(times)):
        store.append(name, [says(f"{writer}-{n}", id=f"{writer}-{n}")])
        tell(n)


def append_batches(store: Store, name: str) -> None:
    """As long as it is let: batches behind one another, beginning with the last that may be there already."""
    at = 0 if name not in {branch.conversation for branch in store.conversations()} else len(store.history(name))
    for n in count(max(at // BATCH - 1, 0)):
        store.append(name, batch(n), after=n * BATCH)
        tell(n)


def batch(n: int) -> list[dict[str, object]]:
    return [says(f"batch {n}, message {m}. " + "Some more words. " * (n % 60)) for m in range(BATCH)]


def attach_once(store: Store, name: str, writer: str) -> None:
    try:
        store.attach(name, Span(1, 3), "summary", writer)
    except Conflict:
        return
    tell(1)


def attach_again_and_again(store: Store, name: str) -> None:
    """As long as it is let: each version replaces the one before it."""
    while True:
        known = store.derived(name, kind="summary")
        expected = known[0].version if known else None
        version = (expected or 0) + 1
        tell(store.attach(name, Span(1, 3), "summary", summary(version), expected=expected).version)


def summary(version: int) -> dict[str, object]:
    return {"version": version, "text": f"Version {version}. " * 2000}


def count_up(store: Store, name: str, times: str) -> None:
    """So many replacements of a number by the next, whoever else does the same."""
    for n in range(int(times)):
        while True:
            [known] = store.derived(name, kind="counter")
            try:
                store.attach(name, Span(1, 1), "counter", known.value + 1, expected=known.version)
                break
            except Conflict:
                pass
        tell(n)


def erase_and_append(store: Store, name: str) -> None:
    """As long as it is let."""
    for n in count():
        store.erase(conversation=name)
        store.append(name, [says(f"round {n}, message {m}") for m in range(400)])
        tell(n)


def open_only(store: Store) -> None:
    tell(len(list(store.conversations())))


def tell(step: int) -> None:
    print("done", step, flush=True)


if __name__ == "__main__":
    subject, place, job, *arguments = sys.argv[1:]
    with load(subject).open(place) as opened:
        print("ready", flush=True)
        sys.stdin.readline()
        globals()[job](opened, *arguments)
