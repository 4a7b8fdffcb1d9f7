"""Trained scorers of faithfulness, as tiny random models: how they are asked, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from conftest import byte_tokenizer, save_t5
from tomtat.config import EvaluateSettings
from tomtat.metrics import Rows, Scorer
from tomtat.metrics.trained import TrainedScorer, _chunks

ROWS = Rows([("x",), ("y",)], ["Nina is ill. " * 3, "Omar pays 5 dollars."])


def save_classifier(folder: Path, labels: dict[int, str], **weights: Any) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = byte_tokenizer(special, None, None)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, id2label=labels, label2id={label: number for number, label in labels.items()},
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([0.0] * (len(labels) - 1) + [2.0]))
    network.save_pretrained(folder, **weights)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_entailment_classifier_gives_its_chance_of_entailment(tmp_path: Path):
    folder = save_classifier(tmp_path / "nli", {0: "contradiction", 1: "neutral", 2: "entailment"})
    [found] = TrainedScorer(str(folder)).measure(["Nina is ill. She rests.", ""], ROWS).values
    assert found.per_row[0] == pytest.approx(100 * 2.718281828**2 / (2 + 2.718281828**2), rel=1e-4)
    assert found.per_row[1] == 0  # an empty summary says nothing that is supported
    assert "label entailment" in found.recipe


def test_minichecks_flan_t5_is_asked_for_one_or_zero(tmp_path: Path):
    folder = save_t5(tmp_path / "minicheck", untied=True)
    [found] = TrainedScorer(str(folder)).measure(["Nina is ill.", "Omar pays."], ROWS).values
    assert all(0 < value < 100 for value in found.per_row)
    assert "answers 0 or 1" in found.recipe


def test_it_joins_the_other_metrics_or_says_why_not(tmp_path: Path):
    folder = save_classifier(tmp_path / "two", {0: "LABEL_0", 1: "LABEL_1"})
    scorer = Scorer(ROWS, EvaluateSettings(metrics=["form"], faithfulness_model=str(folder)))
    assert scorer.score(["a", "b"]).row_values("trained-faithfulness").value > 50
    for broken, why in (("nowhere", "no config.json"), (str(tmp_path / "three"), "no label for entailment")):
        save_classifier(tmp_path / "three", {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
        scorer = Scorer(ROWS, EvaluateSettings(metrics=["form"], faithfulness_model=broken))
        assert why in scorer.not_run["trained-faithfulness"]


def test_long_sources_are_read_whole_in_chunks():
    source = " ".join(f"Sentence number {n} is here." for n in range(300))
    chunks = _chunks(source, "en")
    assert " ".join(" ".join(chunks).split()) == source
    assert all(len(chunk.split()) <= 350 for chunk in chunks)
