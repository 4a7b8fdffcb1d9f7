"""A run as other tools take it: exported in their formats and checked, or pushed to the hub."""

from tomtat.exporting.export import TARGETS, Export, export
from tomtat.exporting.push import Pushed, push

__all__ = ["TARGETS", "Export", "Pushed", "export", "push"]
