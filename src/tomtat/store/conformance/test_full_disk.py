"""A disk that is full: what does not fit is refused whole, what was there stays, and later all goes on."""

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import Messages, messages, noise, says
from tomtat.store.conformance.subject import FillsDisk, Subject, needs
from tomtat.store.values import Span

BATCHES = 400
"""Far more than any full disk takes."""


def append_until_full(store: Store, name: str) -> Messages:
    """What was acknowledged before the disk was full."""
    acknowledged: Messages = []
    for n in range(BATCHES):
        batch = [says(f"small {n}", id=f"{n}"), says(noise(50_000, seed=n)), says(noise(50_000, seed=n + BATCHES))]
        try:
            store.append(name, batch)
        except StoreError:
            return acknowledged
        acknowledged += batch
    raise AssertionError("the disk was never full")


def attach_until_full(store: Store, name: str) -> int:
    """How many were acknowledged."""
    for n in range(BATCHES):
        try:
            store.attach(name, Span(1, 1), f"kind {n}", noise(300_000, seed=n))
        except StoreError:
            return n
    raise AssertionError("the disk was never full")


def test_a_full_disk_refuses_an_append_whole_and_keeps_all_that_was_acknowledged(subject: Subject, place: str) -> None:
    fill_disk = needs(subject, FillsDisk).fill_disk
    with subject.open(place) as store:
        store.append("before", [says("here before")])
        with fill_disk(place):
            acknowledged = append_until_full(store, "chat")
            assert messages(store.history("chat")) == acknowledged
            assert messages(store.history("before")) == [says("here before")]
            other = append_until_full(store, "other")

        with subject.open(place) as another:
            assert messages(another.history("chat")) == acknowledged
            names = [branch.conversation for branch in another.conversations()]
            assert names == ["before", "chat", *(["other"] if other else [])], "no conversation without its turns"
        assert store.append("chat", [says("there is room again")]).new == 1
        assert messages(store.history("chat")) == [*acknowledged, says("there is room again")]
        assert store.check().is_sound
    with subject.open(place) as store:
        assert messages(store.history("chat"))[:-1] == acknowledged


def test_a_full_disk_refuses_to_attach_and_the_old_version_stays(subject: Subject, place: str) -> None:
    fill_disk = needs(subject, FillsDisk).fill_disk
    with subject.open(place) as store:
        store.append("chat", [says("Hello")])
        store.attach("chat", Span(1, 1), "summary", "first")
        with fill_disk(place):
            count = attach_until_full(store, "chat")

        assert len(store.derived("chat")) == 1 + count
        assert [(one.value, one.version) for one in store.derived("chat", kind="summary")] == [("first", 1)]
        assert store.attach("chat", Span(1, 1), "summary", "second", expected=1).version == 2
        assert store.check().is_sound
