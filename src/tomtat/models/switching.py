"""Several adapters over one base in one process: added, chosen and dropped by name."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tomtat.errors import RunError
from tomtat.quiet import quiet_peft

DEFAULT = "default"
"""PEFT's name for the first adapter."""

_DAMAGED = (RuntimeError, ValueError, OSError, TypeError, KeyError, SafetensorError)
"""What PEFT raises for a folder that is broken or of another base."""


class Adapters:
    """Which of the adapters over a network is at work.

    Folded, an adapter's update is added to the weights it belongs to, and costs nothing per token; the base's own
    weights are kept beside and come back as they were, so that switching often does not let them drift.
    """

    def __init__(self, network: Any, peft: Any) -> None:
        self.network = network
        self.peft = peft
        self.active: str | None = DEFAULT if peft is not None else None
        self.loaded = 0
        """How many adapters were added since: a name may come to mean other weights."""
        self._base_weights: dict[Any, torch.nn.Parameter] = {}
        self._folds = False

    @property
    def names(self) -> list[str]:
        return list(self.peft.peft_config) if self.peft is not None else []

    def fold(self) -> None:
        """Fold the active adapter in, and from now on each that is chosen."""
        self._folds = True
        self.use(self.active)

    def use(self, name: str | None) -> None:
        """The adapter that works from now on; None is the untuned base."""
        if name is not None and name not in self.names:
            raise RunError(f"There is no adapter {name!r} here. There are {', '.join(self.names) or 'none'}.")
        if self.peft is None:
            return
        self._unfold()
        if name is None:
            self.peft.base_model.disable_adapter_layers()
        else:
            self.peft.base_model.enable_adapter_layers()
            self.peft.set_adapter(name, inference_mode=True) if self._folds else self.peft.set_adapter(name)
            if self._folds:
                self._fold(name)
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        before = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    def begin(self, name: str, folder: Path) -> None:
        """Load the first adapter over an untuned base, which stays at work; from now on each that is chosen is folded.

        Not for whole weights that were trained, nor for those in 8 bits.
        """
        from peft import PeftModel

        self.loaded += 1
        try:
            with quiet_peft():
                self.peft = PeftModel.from_pretrained(
                    self.network, str(folder), adapter_name=name, autocast_adapter_dtype=False
                )
        except _DAMAGED as error:
            _strip(self.network)
            raise _misfit(folder, error) from None
        self._folds = True
        self.use(None)

    def add(self, name: str, folder: Path) -> None:
        """Load another adapter for the same base; one of that name is replaced. The active one stays at work."""
        if not re.fullmatch(r"[\w-]+", name):
            raise RunError(f"{name!r} can't be an adapter's name: take letters, digits, - and _.")
        if self.peft is None:
            raise RunError(
                f"{name!r} can't be added: this model's weights are whole or in 8 bits. Take --engine torch."
            )
        before = self.active
        self.loaded += 1
        self._unfold()
        if name in self.names:
            self.peft.delete_adapter(name)
        try:
            with quiet_peft():
                self.peft.load_adapter(str(folder), adapter_name=name, autocast_adapter_dtype=False)
        except _DAMAGED as error:
            raise _misfit(folder, error) from None
        finally:
            self.use(before if before in self.names or before is None else next(iter(self.names), None))

    def remove(self, name: str) -> None:
        """Forget an adapter; the one at work can't be removed."""
        if name == self.active or name not in self.names:
            raise RunError(f"{name!r} can't be removed: it is {'at work' if name == self.active else 'not here'}.")
        with quiet_peft():  # which says whom it takes for active then: nobody, by `use(None)`
            self.peft.delete_adapter(name)

    def touches(self, part: Any) -> bool:
        """Whether an adapter changes this part of the network."""
        return any(_is_adapted(module) for module in part.modules())

    def _fold(self, name: str) -> None:
        for module in self.network.modules():
            if name in getattr(module, "lora_A", ()) or name in getattr(module, "lora_embedding_A", ()):
                layer = module.base_layer
                self._base_weights[module] = layer.weight
                # A parameter of its own: a head may share its weights with the embedding, which no adapter changes.
                layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
                with quiet_peft():
                    module.merge(adapter_names=[name])

    def _unfold(self) -> None:
        for module, weight in self._base_weights.items():
            module.base_layer.weight = weight
            module.merged_adapters.clear()
        self._base_weights = {}


def _misfit(folder: Path, error: Exception) -> RunError:
    return RunError(f"The adapter in {folder} does not fit this base: {' '.join(str(error).split())[:300]}")


def _strip(network: Any) -> None:
    """Take away what a failed load has put around layers."""
    for name, module in list(network.named_modules()):
        inner = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
        if inner is not None:
            network.set_submodule(name, inner)


def _is_adapted(module: Any) -> bool:
    return hasattr(module, "base_layer")
