"""The conformance suite on our stores: SQLite in a moment, PostgreSQL and what needs several processes with `make test`."""

from importlib import import_module

import pytest

from store_subjects import PostgresSubject, SealedSqliteSubject, SqliteSubject
from tomtat.store.conformance.fixtures import place, store  # noqa: F401
from tomtat.store.conformance.test_search import talked  # noqa: F401

SUITE = [
    "history", "messages", "idempotence", "branches", "locate", "search", "derived", "erase", "exchange", "tenants", "check",
    "sealed", "full_disk", "threads", "model", "processes",
]  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[SqliteSubject, SealedSqliteSubject, pytest.param(PostgresSubject, marks=pytest.mark.slow)],
)
def subject(request):
    if request.param is PostgresSubject:
        request.getfixturevalue("postgres")
    return request.param()


@pytest.fixture(autouse=True)
def drop(subject, tmp_path):
    yield
    if isinstance(subject, PostgresSubject):
        subject.drop(tmp_path)


def take_tests() -> None:
    for name in SUITE:
        for test_name, test in vars(import_module(f"tomtat.store.conformance.test_{name}")).items():
            if test_name.startswith("test_"):
                assert test_name not in globals(), f"two tests are called {test_name}"
                globals()[test_name] = pytest.mark.slow(test) if name == "processes" else test


take_tests()
