"""Where examples come from: files, the hub, the bundled conversations. Only this package knows file formats."""

from tomtat.data.loading import DataOptions, Loaded, Reject, load, load_examples, scan, scan_rows

__all__ = ["DataOptions", "Loaded", "Reject", "load", "load_examples", "scan", "scan_rows"]
