"""Stores that encrypt: without the key nothing is read, with another neither."""

from pathlib import Path

import pytest

from tomtat.errors import StoreError
from tomtat.store.conformance.fixtures import messages, says
from tomtat.store.conformance.subject import LooksForRemains, Seals, Subject, needs
from tomtat.store.conformance.test_erase import NEEDLE, secret
from tomtat.store.values import Span

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


def test_a_sealed_store_opens_with_its_key_only(subject: Subject, place: str) -> None:
    needs(subject, Seals)
    with subject.open(place, key=KEY) as store:
        store.append("chat", secret(3))

    for key in (OTHER_KEY, None):
        with pytest.raises(StoreError):
            subject.open(place, key=key)
    with subject.open(place, key=KEY) as store:
        assert messages(store.history("chat")) == secret(3)


def test_a_store_that_is_not_sealed_takes_no_key(subject: Subject, place: str) -> None:
    needs(subject, Seals)
    subject.open(place, key=None).close()

    with pytest.raises(StoreError):
        subject.open(place, key=KEY)


def test_nothing_that_was_said_or_derived_stands_in_the_files_of_a_sealed_store(subject: Subject, place: str) -> None:
    needs(subject, Seals)
    remains = needs(subject, LooksForRemains).remains
    with subject.open(place, key=KEY) as store:
        store.append("chat", [{**message, "id": f"{NEEDLE}-{n}"} for n, message in enumerate(secret(250))])
        store.attach("chat", Span(1, 10), "summary", NEEDLE)
        assert remains(place, NEEDLE.encode()) == []
        store.tidy()
    assert remains(place, NEEDLE.encode()) == []


def test_the_same_text_is_sealed_to_other_bytes_for_each_tenant_and_each_time(subject: Subject, place: str) -> None:
    needs(subject, Seals)
    with subject.open(place, key=KEY) as store:
        for name in ("a", "b"):
            store.append(name, [says("Hello")])
            store.for_tenant("other").append(name, [says("Hello")])

        assert store.locate([says("Hello")]) is not None
        assert messages(store.for_tenant("other").history("b")) == [says("Hello")]


def test_a_sealed_export_is_readable_and_comes_into_a_store_with_another_key(
    subject: Subject, place: str, tmp_path: Path
) -> None:
    needs(subject, Seals)
    (tmp_path / "other").mkdir()
    with (
        subject.open(place, key=KEY) as store,
        subject.open(subject.new_place(tmp_path / "other"), key=OTHER_KEY) as other,
    ):
        store.append("chat", secret(200))
        store.tidy()
        other.import_(store.export())

        assert messages(other.history("chat")) == secret(200)
