"""The command line: parse, call, print. Heavy imports stay inside the commands, so that `tomtat --help` is quick."""

from tomtat.cli.app import main

__all__ = ["main"]
