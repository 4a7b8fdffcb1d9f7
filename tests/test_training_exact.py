"""With dropout off, what a step does depends on its rows alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import two_processes
from conftest import byte_tokenizer, rows, write_jsonl
from exact_step import EXACT, first_step


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = byte_tokenizer(special, None, "</s>")
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=512, dropout=0.0,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-bart"
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def families(tiny_t5: Path, tiny_bart: Path, tiny_llama: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Settings for each, over eight rows of three lengths."""
    data = write_jsonl(tmp_path / "eight.jsonl", rows(8))
    models = {"t5": tiny_t5, "bart": tiny_bart, "llama": tiny_llama}
    return {name: EXACT | {"model.name": str(model), "data.train": str(data)} for name, model in models.items()}


def off_by(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
def test_loss_and_gradient_depend_on_neither_cut_nor_padding_nor_order(
    family: str, families: dict[str, dict[str, Any]], tmp_path: Path
):
    settings = families[family]
    loss, gradient = first_step(settings, tmp_path / "whole", pieces=1)
    assert gradient.norm() > 0.01
    others = [first_step(settings, tmp_path / f"cut-{pieces}", pieces) for pieces in (2, 4, 8)]  # 8: without padding
    others.append(first_step(settings, tmp_path / "order", pieces=4, order=[5, 2, 7, 0, 3, 6, 1, 4]))
    others.append(first_step(settings | {"train.micro_batch_tokens": 300}, tmp_path / "budget"))
    for other_loss, other_gradient in others:
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert off_by(gradient, other_gradient) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--multi_gpu", "--use_fsdp"])
def test_two_processes_have_the_loss_and_the_gradient_of_one(
    way: str, families: dict[str, dict[str, Any]], tmp_path: Path
):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(families))
    two_processes.run(Path(__file__).with_name("exact_step.py"), file, way=way)
    for name, settings in families.items():
        loss, gradient = first_step(settings, tmp_path / f"one-{name}")
        for rank in (0, 1):
            their_loss, their_gradient = torch.load(tmp_path / f"{name}-{rank}.pt")
            assert their_loss == pytest.approx(loss, rel=1e-6)
            assert off_by(gradient, their_gradient) < 1e-5
