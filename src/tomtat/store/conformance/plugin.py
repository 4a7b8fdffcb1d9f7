"""The option `--store`, known to pytest before it has found the tests.

All else is in `conftest.py`, for these tests only: this is loaded by every pytest that runs where tomtat is installed.
"""

from contextlib import suppress

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    # Another plugin may have an option of this name; it is not for us to stop its tests.
    with suppress(ValueError):
        parser.getgroup("tomtat").addoption(
            "--store", metavar="MODULE:CLASS", help="The store to test with: pytest --pyargs tomtat.store.conformance"
        )
