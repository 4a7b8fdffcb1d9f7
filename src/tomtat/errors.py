"""Errors that a user can fix.

The message is shown as it is, in one line: what is wrong, where, and what to do. The command line prints it and ends
with exit code 2. Anything else that is raised is a bug of ours and keeps its traceback.
"""


class TomtatError(Exception):
    """Something the user can fix."""


class ConfigError(TomtatError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class DataError(TomtatError):
    """A file or data set can't be read, or a row in it can't be used."""


class ModelError(TomtatError):
    """A model can't be found, fetched or used as asked."""


class RunError(TomtatError):
    """A run folder is missing, incomplete, damaged or of another run."""


class Interrupted(TomtatError):
    """Work stopped on request, with what was done kept; the message says how to go on."""


class StoreError(TomtatError):
    """A store can't be opened, read or written as asked."""


class BudgetError(TomtatError):
    """A budget of tokens is too small for what must be sent in any case."""

    def __init__(self, message: str, smallest: int) -> None:
        super().__init__(message)
        self.smallest = smallest
        """The smallest budget that works, in tokens."""
