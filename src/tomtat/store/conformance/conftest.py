"""Fixtures, for pytest to find beside the tests."""

import pytest

pytest.register_assert_rewrite("tomtat.store.conformance.fixtures", "tomtat.store.conformance.processes")

from tomtat.store.conformance.fixtures import place, store, subject  # noqa: E402

__all__ = ["place", "store", "subject"]
