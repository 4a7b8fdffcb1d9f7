"""How many weights a network has, and how many of them are trained."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomtat.models.selection import fold_layer

_ADAPTER_PARTS = (".lora_", ".base_layer", ".modules_to_save", ".original_module", ".lora_magnitude_vector")


@dataclass(frozen=True)
class ModuleCount:
    """Parameters of the modules of one name, over all layers."""

    module: str
    base: int
    """Weights of the base model, trained or not."""
    trainable: int
    """Weights that training changes: the adapter's, and the base's where those are trained."""


@dataclass(frozen=True)
class ParameterCount:
    modules: list[ModuleCount]
    base: int
    trainable: int
    total: int
    disk_bytes: int | None = None
    """Size of the saved adapter (or model); None before there is one."""

    @property
    def added(self) -> int:
        """Weights that stand beside the base's."""
        return self.total - self.base

    @property
    def bytes_once_saved(self) -> int:
        """Adapters are saved in fp32 without their base; after full fine-tuning the whole model is."""
        return 4 * (self.trainable if self.added else self.total)

    @property
    def share(self) -> float:
        """Trainable weights over all weights, adapters included; between 0 and 1."""
        return self.trainable / self.total


def count_parameters(network: Any, saved: Path | None = None) -> ParameterCount:
    """Count each weight once, tied ones too. Copies that `modules_to_save` makes count as added."""
    rows: dict[str, list[int]] = {}
    total = base = trainable = 0
    for name, parameter in network.named_parameters():
        size = parameter.numel()
        is_added = ".lora_" in name or ".modules_to_save." in name
        row = rows.setdefault(fold_layer(_module_name(name)), [0, 0])
        row[0] += 0 if is_added else size
        row[1] += size if parameter.requires_grad else 0
        total += size
        base += 0 if is_added else size
        trainable += size if parameter.requires_grad else 0
    modules = [ModuleCount(name, *counts) for name, counts in rows.items()]
    return ParameterCount(modules, base, trainable, total, _size_on_disk(saved) if saved else None)


def _module_name(parameter: str) -> str:
    """The module that a parameter belongs to, by its name in the model without adapters."""
    name = parameter
    for part in _ADAPTER_PARTS:
        name = name.partition(part)[0]
    return name if name != parameter else parameter.rpartition(".")[0]


def _size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in _weights(folder))


def _weights(folder: Path) -> Iterable[Path]:
    return folder.glob("*.safetensors")
