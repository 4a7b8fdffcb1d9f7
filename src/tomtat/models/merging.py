"""An adapter folded into its base: one plain Transformers model that any tool loads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tomtat.errors import ModelError
from tomtat.files import replace_folder
from tomtat.models.base import SummarizerModel
from tomtat.models.loading import load_trained
from tomtat.quiet import quiet_peft, quiet_transformers


def save_merged(trained: Path, folder: Path, base: str | None = None) -> None:
    """Merge in fp32 and save as safetensors with the tokenizer; `Summarizer.load(folder)` takes it as it is."""
    if folder.exists():
        raise ModelError(f"{folder} exists already. Choose another folder for the merged model.")
    model, info = load_trained(trained, device="cpu", precision="fp32", base=base)
    network = merge(model)
    # So that other tools start a summary as it was trained: mBART in its language, BART with its first token.
    network.generation_config.update(**model.start_settings())
    with replace_folder(folder) as new, quiet_transformers():
        network.save_pretrained(new)
        model.save_tokenizer(new)
        replace(info, method="merged").save(new)


def merge(model: SummarizerModel) -> Any:
    """The network with its adapter's updates added to its weights."""
    if model.peft is None:
        return model.network
    network = model.network
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    head_layer = getattr(head, "base_layer", head)
    if _is_adapted(head) and head_layer.weight is _plain(embedding).weight:
        # Merging into a tied head would change the input embedding too, which the adapter never did.
        head_layer.weight = torch.nn.Parameter(head_layer.weight.detach().clone(), requires_grad=False)
    with quiet_peft():
        merged = model.peft.merge_and_unload()
    out, inputs = merged.get_output_embeddings(), merged.get_input_embeddings()
    if out is not None and out.weight is not inputs.weight and not torch.equal(out.weight, inputs.weight):
        merged.config.tie_word_embeddings = False
    return merged


def _is_adapted(module: Any) -> bool:
    return hasattr(module, "base_layer")


def _plain(module: Any) -> Any:
    module = getattr(module, "base_layer", module)
    return getattr(module, "original_module", module)
