"""Where examples come from: files, the hub, the bundled conversations. Only this package knows file formats.

Formats are loaded when something is read: a server and a summarizer only want to know what a message is.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomtat.data.loading import DataOptions, Loaded, Reject, load, load_examples, scan, scan_rows

__all__ = ["DataOptions", "Loaded", "Reject", "load", "load_examples", "scan", "scan_rows"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tomtat.data' has no attribute {name!r}")
    from tomtat.data import loading

    return getattr(loading, name)
