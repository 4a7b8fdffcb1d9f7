import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tomtat.config import ModelSettings, PromptSettings
from tomtat.models import load_base
from tomtat.models.base import Choices, Encoded, SummarizerModel

# --- candidates of a row read together


def base(folder: Path) -> SummarizerModel:
    model = load_base(ModelSettings(name=str(folder)), PromptSettings())
    model.network.eval()
    return model


def choices(model: SummarizerModel) -> list[Choices]:
    texts = {
        "can we meet on monday?": ["They meet on monday.", "x", "They meet. Or not. On friday at nine."],
        "a much longer text about room four " * 6: ["room four is painted", ""],
        "b": ["c"],
    }
    return [
        Choices(model.encode(text, None, 500).prompt_ids, [model.target(summary) for summary in summaries])
        for text, summaries in texts.items()
    ]


def log_prob(model: SummarizerModel, prompt: list[int], target: list[int]) -> torch.Tensor:
    return -model.loss_sum([Encoded(prompt, target)])


def test_targets_read_together_are_as_likely_as_each_alone(tiny_model: Path):
    model = base(tiny_model)
    rows = choices(model)
    with torch.no_grad():
        for row, found in zip(rows, model.log_probs(rows), strict=True):
            alone = [float(log_prob(model, row.prompt_ids, target)) for target in row.targets]
            assert found.tolist() == pytest.approx(alone, abs=1e-4)


def test_their_gradients_are_the_same_too(tiny_model: Path):
    model = base(tiny_model)
    rows = choices(model)
    weight = next(p for name, p in model.network.named_parameters() if name.endswith(("q_proj.weight", "q.weight")))
    weight.requires_grad_(True)
    torch.stack([found.sum() for found in model.log_probs(rows)]).sum().backward()
    together, weight.grad = weight.grad, None
    for row in rows:
        for target in row.targets:
            log_prob(model, row.prompt_ids, target).backward()
    torch.testing.assert_close(together, weight.grad, rtol=1e-3, atol=1e-5)


def test_models_that_take_no_mask_of_ours_read_each_target_alone(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = base(tiny_llama)
    rows = choices(model)
    with torch.no_grad():
        packed = torch.cat(model.log_probs(rows))
        monkeypatch.setattr(type(model), "has_lanes", False)
        torch.testing.assert_close(torch.cat(model.log_probs(rows)), packed, rtol=1e-4, atol=1e-4)


def test_the_head_makes_logits_only_where_a_target_stands(tiny_model: Path):
    model = base(tiny_model)
    rows = choices(model)
    made: list[torch.Size] = []
    model.network.get_output_embeddings().register_forward_hook(lambda *call: made.append(call[2].shape))
    model.log_probs(rows)
    assert made == [(sum(len(target) for row in rows for target in row.targets), len(model.tokenizer))]
