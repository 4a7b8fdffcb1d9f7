"""Adapters that nobody trained, over a random model that says something different of each text: made in a second."""

from pathlib import Path
from typing import Any

import torch

from tomtat.config import LoraSettings, ModelSettings, PromptSettings, TrainSettings
from tomtat.models import Decoding, SummarizerModel, load_base
from tomtat.models.adapters import prepare_training, save_adapter
from tomtat.models.loading import TrainedInfo


def make_lively(model: SummarizerModel, seed: int = 1) -> SummarizerModel:
    """Weights so large that it says something different of each prompt, and ends."""
    torch.manual_seed(seed)
    for name, parameter in model.network.named_parameters():
        if parameter.dim() == 2 and "relative" not in name:
            parameter.data = torch.randn_like(parameter) * (0.3 if "lm_head" not in name else 1.0)
    return model


def save_lively(tiny: Path, folder: Path) -> Path:
    """A base folder."""
    model = make_lively(load_base(ModelSettings(name=str(tiny)), PromptSettings()))
    model.network.save_pretrained(folder)
    model.save_tokenizer(folder)
    return folder


def save_random_adapter(base: Path, folder: Path, seed: int, new_tokens: int = 12, **info: Any) -> Path:
    """As a run saves it, with 64 source tokens and `new_tokens` of summary."""
    model = load_base(ModelSettings(name=str(base)), PromptSettings())
    prepare_training(model, LoraSettings(rank=4), TrainSettings())
    torch.manual_seed(seed)
    for name, parameter in model.network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    save_adapter(model.peft, folder)
    about = {"prompt": model.prompt, "max_source_tokens": 64, "decoding": Decoding(new_tokens)} | info
    TrainedInfo("lora", model.source.as_dict(), **about).save(folder)
    return folder
