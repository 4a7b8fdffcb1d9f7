"""What is trained: LoRA adapters by PEFT, whole modules, or the full network less what is frozen."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tomtat.config import LoraSettings, TrainSettings
from tomtat.errors import ConfigError
from tomtat.models.base import SummarizerModel
from tomtat.models.selection import select
from tomtat.quiet import quiet_peft

_BASE_CHANGING = ("pissa", "olora")
"""Initialisations that move part of the base's weights into the adapter. Their adapters are saved as plain LoRA of
twice the rank, because the base that others load is the original one."""


_NEEDS_DATA = ("eva", "lora_ga", "corda", "loftq")
"""Initialisations that need a pass over data or a quantised base; without it PEFT falls back to plain LoRA, unsaid."""


def prepare_training(model: SummarizerModel, lora: LoraSettings, train: TrainSettings) -> None:
    """Make exactly the asked-for weights trainable; everything else is frozen."""
    if train.method == "full":
        unfreeze(model.network, train)
    else:
        _add_adapter(model, lora, set(_frozen(model.network, train)))


def _frozen(network: Any, train: TrainSettings) -> list[str]:
    return select(network, train.freeze, "train.freeze", linear_only=False) if train.freeze else []


def unfreeze(network: Any, train: TrainSettings) -> None:
    """Make the full network trainable, less what is to stay as it is."""
    frozen = _frozen(network, train)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for name in frozen:
        for parameter in network.get_submodule(name).parameters(recurse=False):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError("train.freeze leaves nothing to train. Freeze less.")


def _add_adapter(model: SummarizerModel, lora: LoraSettings, frozen: set[str]) -> None:
    from peft import LoraConfig, get_peft_model

    network = model.network
    targets = [name for name in select(network, lora.target, "lora.target", linear_only=True) if name not in frozen]
    if not targets:
        raise ConfigError("lora.target and train.freeze together leave no module for an adapter. Freeze less.")
    _check_modules_to_save(network, lora.modules_to_save, set(targets), frozen)
    init = lora.init.lower() if isinstance(lora.init, str) else lora.init
    if init in _NEEDS_DATA:
        raise ConfigError(
            f"lora.init = {init!r} needs a pass over data that tomtat does not make. Take pissa or olora."
        )
    arguments = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "modules_to_save": sorted(lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "init_lora_weights": init,
        "task_type": "SEQ_2_SEQ_LM" if model.is_encoder_decoder else "CAUSAL_LM",
    }
    known = LoraConfig.__dataclass_fields__
    for name in lora.options:
        if name in arguments or name not in known:
            why = (
                "has a setting of its own under [lora]" if name in arguments else "is no argument of PEFT's LoraConfig"
            )
            raise ConfigError(f"lora.options.{name} {why}.")
    try:
        with quiet_peft():
            # Adapters in the base's fp32 here; the whole network is cast after the initialisation.
            model.peft = get_peft_model(network, LoraConfig(**arguments, **lora.options), autocast_adapter_dtype=False)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"PEFT refuses these [lora] settings: {' '.join(str(error).split())}") from None
    model.peft.peft_config["default"].base_model_name_or_path = model.source.peft_name
    model.peft.peft_config["default"].revision = model.source.revision


def _check_modules_to_save(network: Any, names: list[str], targets: set[str], frozen: set[str]) -> None:
    for name in names:
        found = select(network, rf"re:(.*\.)?{re.escape(name)}", "lora.modules_to_save", linear_only=False)
        for module_name in found:
            if module_name in targets or module_name in frozen:
                other = "lora.target" if module_name in targets else "train.freeze"
                raise ConfigError(f"lora.modules_to_save: {module_name} stands in {other} too. Name it once.")
            weight = getattr(network.get_submodule(module_name), "weight", None)
            embeddings = [(place, other) for place, other in network.named_modules() if isinstance(other, nn.Embedding)]
            places = [place for place, other in embeddings if other.weight is weight]
            if len(places) > 1:
                # PEFT would put a copy in one place, and the others would go on with the untrained original.
                raise ConfigError(
                    f"lora.modules_to_save: {module_name} shares its weights with {', '.join(places[1:])}, which PEFT "
                    "can't train together. Use train.method = full with train.freeze."
                )


def changes_base(init: bool | str) -> bool:
    return isinstance(init, str) and init.lower().startswith(_BASE_CHANGING)


def save_adapter(peft: Any, folder: Path, initial: Path | None = None) -> None:
    """Save in PEFT's format, without a copy of the base's matrices, byte for byte the same for the same weights.

    `initial` is the adapter as it was before training, where its initialisation changed the base.
    """
    with quiet_peft(), tempfile.TemporaryDirectory() as temporary:
        if initial:
            # PEFT rewrites the initial adapter's config while it converts; a copy takes that.
            initial = Path(shutil.copytree(initial, Path(temporary) / "initial"))
        peft.save_pretrained(
            folder,
            save_embedding_layers=False,
            path_initial_model_for_weight_conversion=str(initial) if initial else None,
        )
    # PEFT's model card is a form with nothing filled in.
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # PEFT keeps sets, and writes them in hash order, which differs from run to run.
    for name, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[name] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def trainable_state(network: Any) -> dict[str, torch.Tensor]:
    """Trainable parameters by name, in a fixed order."""
    return {name: parameter for name, parameter in sorted(network.named_parameters()) if parameter.requires_grad}
