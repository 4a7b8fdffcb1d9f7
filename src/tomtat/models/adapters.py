"""What is trained: LoRA adapters by PEFT, whole modules, or the full network less what is frozen."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tomtat.config import LoraSettings, TrainSettings
from tomtat.errors import ConfigError
from tomtat.models.base import SummarizerModel
from tomtat.models.selection import select

_BASE_CHANGING = ("pissa", "olora", "corda")
"""Initialisations that move part of the base's weights into the adapter. Their adapters are saved as plain LoRA of
twice the rank, because the base that others load is the original one."""


def prepare_training(model: SummarizerModel, lora: LoraSettings, train: TrainSettings) -> None:
    """Make exactly the asked-for weights trainable; everything else is frozen."""
    frozen = select(model.network, train.freeze, "train.freeze", linear_only=False) if train.freeze else []
    if train.method == "full":
        _unfreeze_all_but(model.network, frozen)
    else:
        _add_adapter(model, lora, set(frozen))


def _unfreeze_all_but(network: Any, frozen: list[str]) -> None:
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
    for name in lora.modules_to_save:
        select(network, re_exact(name), "lora.modules_to_save", linear_only=False)
    arguments = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "modules_to_save": sorted(lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "init_lora_weights": lora.init,
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


def re_exact(name: str) -> str:
    return rf"re:(.*\.)?{name.replace('.', chr(92) + '.')}"


def changes_base(init: bool | str) -> bool:
    return isinstance(init, str) and init.startswith(_BASE_CHANGING)


def save_adapter(peft: Any, folder: Path, initial: Path | None = None) -> None:
    """Save in PEFT's format, without a copy of the base's matrices, byte for byte the same for the same weights.

    `initial` is the adapter as it was before training, where its initialisation changed the base.
    """
    with quiet_peft():
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


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without PEFT's warnings: of tied heads, which merging unties first (merging.py); of initialisations that change
    the base, which are saved as plain LoRA; and of an attribute that Transformers renamed."""
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"peft\.|transformers\.")
        yield


def trainable_state(network: Any) -> dict[str, torch.Tensor]:
    """Trainable parameters by name, in a fixed order."""
    return {name: parameter for name, parameter in sorted(network.named_parameters()) if parameter.requires_grad}
