"""Tiny models with random weights, made on the spot: they learn nothing, but go through everything."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def states_of_frozen_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not in the user's cache."""
    monkeypatch.setenv("TOMTAT_STATES", str(tmp_path / "states"))
    return tmp_path / "states"


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = (
    "the meeting moves from monday to friday because nina is ill and room four is painted summarize summary text short "
    "few sentences following user assistant system in a few {braces} 1 2 3 4 5 6 7 8 9 0 . , : ? ! # Person1 Person2"
)


@pytest.fixture(scope="session", autouse=True)
def fp32_where_nothing_is_said() -> Iterator[None]:
    """A machine with fast bf16 would choose it, and there the company in a batch decides what a random model says."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torch"):  # the environment of tests/test_clients.py has none
            patch.setattr("tomtat.models.precision.bf16_speedup", lambda device: 0.0)
        yield


def byte_tokenizer(special: dict[str, str], template: str | None, ends_with: str | None) -> Any:
    """A byte-level BPE: reads any text, needs no download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    if ends_with:
        token_id = tokenizer.token_to_id(ends_with)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {ends_with}", special_tokens=[(ends_with, token_id)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{k: v for k, v in special.items() if k.endswith("_token")}
    )
    wrapped.add_special_tokens(
        {"additional_special_tokens": [v for k, v in special.items() if not k.endswith("_token")]}
    )
    if template:
        wrapped.chat_template = template
    return wrapped


def save_t5(folder: Path, untied: bool) -> Path:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = byte_tokenizer({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, None, "</s>")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
    )  # fmt: skip
    network = T5ForConditionalGeneration(config)
    if untied:
        network.lm_head.weight = torch.nn.Parameter(torch.randn(len(tokenizer), 32))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLAN-T5 in small: gated feed-forward, and a head that is not tied to the embeddings."""
    return save_t5(tmp_path_factory.mktemp("models") / "tiny-t5", untied=True)


@pytest.fixture(scope="session")
def tiny_tied_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("models") / "tiny-tied-t5", untied=False)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "start": "<|im_start|>"}
    tokenizer = byte_tokenizer(special, CHATML, None)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["t5", "llama"])
def tiny_model(request: pytest.FixtureRequest, tiny_t5: Path, tiny_llama: Path) -> Path:
    return {"t5": tiny_t5, "llama": tiny_llama}[request.param]


def rows(count: int) -> list[dict[str, Any]]:
    days = ["monday", "tuesday", "friday", "sunday"]
    return [
        {
            "id": f"row-{n}",
            "dialogue": f"#Person1#: can we meet on {days[n % 4]} at {n}? " * (1 + n % 3)
            + "\n#Person2#: yes, room four.",
            "summary": f"They meet on {days[n % 4]} at {n}.",
        }
        for n in range(count)
    ]


def write_jsonl(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", rows(12))


@pytest.fixture
def settings(tiny_model: Path, data: Path) -> dict[str, Any]:
    """Settings of a short run in exact arithmetic."""
    return small_settings(tiny_model, data)


def small_settings(model: Path, data: Path) -> dict[str, Any]:
    return {
        "model.name": str(model),
        "model.precision": "fp32",
        "model.device": "cpu",
        "data.train": str(data),
        "data.validation": f"{data}[:4]",
        "data.test": f"{data}[-4:]",
        "train.epochs": 2,
        "train.batch_size": 4,
        "train.learning_rate": 1e-2,
        "lora.rank": 4,
        "generate.max_new_tokens": 8,
    }


class Finished:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def tomtat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """The command line in this process: exit code, standard output, standard error."""
    from tomtat.cli import main

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["tomtat", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


def as_flags(settings: dict[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server, without a database."""
    from postgres_server import running

    with running() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOMTAT_TEST_POSTGRES", url)
        yield url
