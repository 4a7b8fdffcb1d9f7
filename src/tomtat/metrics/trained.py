"""Faithfulness by a trained scorer whose weights lie on disk: three families of them, told apart by their config.

MiniCheck (Tang et al. 2024): source in chunks, each sentence of the summary as a claim, the best chunk counts. Both of
    its kinds: classifiers with two labels, and FLAN-T5 answering 0 or 1.
NLI and AlignScore-like (Laban et al. 2022, SummaC-ZS; Zha et al. 2023): classifiers with an entailment label, each
    sentence of the summary against each chunk, the most entailing one counts.

Only safetensors are read. AlignScore and SummaC-Conv are published as pickles, which run code when loaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tomtat.errors import ModelError
from tomtat.files import sha256_of
from tomtat.metrics.values import Measured, Rows, mean_of
from tomtat.quiet import quiet_transformers
from tomtat.text import language_of, sentences, words

CHUNK_WORDS = 350
"""About 500 tokens: what such scorers were trained to read at once."""
BATCH = 8
_YES = ("entailment", "aligned", "supported", "label_1")


class TrainedScorer:
    def __init__(self, folder: str) -> None:
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

        path = Path(folder).expanduser()
        if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
            raise ModelError(f"{folder} has no config.json with safetensors weights; name a folder that has")
        try:
            with quiet_transformers():
                config = AutoConfig.from_pretrained(path, trust_remote_code=False)
                self._is_generator = bool(config.is_encoder_decoder)
                kind = AutoModelForSeq2SeqLM if self._is_generator else AutoModelForSequenceClassification
                self._network = kind.from_pretrained(path, use_safetensors=True, trust_remote_code=False).eval()
                self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except Exception as error:
            # A damaged folder raises nearly anything.
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{folder} can't be loaded: {type(error).__name__}: {reason}") from None
        self._yes = None if self._is_generator else _entailing_label(config, folder)
        digest = sha256_of(*sorted(path.glob("*.safetensors")))[:8]
        how = "answers 0 or 1" if self._is_generator else f"label {config.id2label[self._yes]}"
        self.recipe = (
            f"{path.name}-{digest} ({config.model_type}, {how}) x100: chunks of {CHUNK_WORDS} words, best chunk of "
            "each sentence, mean of sentences"
        )

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        assert rows.sources is not None
        language = language_of(rows.sources)
        self._cut = 0
        values = []
        for prediction, source in zip(predictions, rows.sources, strict=True):
            claims, chunks = sentences(prediction, language), _chunks(source, language)
            pairs = [(chunk, claim) for claim in claims for chunk in chunks]
            chances = self._chances(pairs)
            best = [max(chances[n : n + len(chunks)]) for n in range(0, len(chances), len(chunks))]
            values.append(100 * sum(best) / len(best) if best else 0.0)
        notes = (
            [f"The trained scorer read {self._cut:,} pairs of chunk and sentence only in part."] if self._cut else []
        )
        return Measured([mean_of("trained-faithfulness", self.recipe, values)], notes)

    def _chances(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Between 0 and 1: that the first text of a pair supports the second."""
        import torch

        found: list[float] = []
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            with torch.inference_mode():
                found += (self._generated(batch) if self._is_generator else self._classified(batch)).tolist()
        return found

    def _classified(self, batch: list[tuple[str, str]]) -> Any:
        chunks, claims = zip(*batch, strict=True)
        whole = self._tokenizer(list(chunks), list(claims), truncation=False, verbose=False)["input_ids"]
        self._cut += sum(len(ids) > self._limit() for ids in whole)
        inputs = self._tokenizer(
            list(chunks),
            list(claims),
            truncation="longest_first",
            max_length=self._limit(),
            padding=True,
            return_tensors="pt",
        )
        return self._network(**inputs).logits.softmax(-1)[:, self._yes]

    def _generated(self, batch: list[tuple[str, str]]) -> Any:
        """MiniCheck's question to FLAN-T5: the first token's chance of "1" against "0"."""
        import torch

        end = self._tokenizer.eos_token
        texts = [f"predict: {chunk}{end}{claim}" for chunk, claim in batch]
        self._cut += sum(
            len(ids) > 2048 for ids in self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        )
        inputs = self._tokenizer(texts, truncation=True, max_length=2048, padding=True, return_tensors="pt")
        start = torch.full((len(batch), 1), self._network.config.decoder_start_token_id)
        logits = self._network(**inputs, decoder_input_ids=start).logits[:, 0]
        answers = [self._tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in ("0", "1")]
        return logits[:, answers].softmax(-1)[:, 1]

    def _limit(self) -> int:
        return int(min(self._tokenizer.model_max_length, getattr(self._network.config, "max_position_embeddings", 512)))


def _entailing_label(config: Any, folder: str) -> int:
    for number, label in config.id2label.items():
        if label.lower() in _YES and not (label.lower() == "label_1" and config.num_labels != 2):
            return int(number)
    raise ModelError(f"{folder} has no label for entailment (its labels: {', '.join(config.id2label.values())})")


def _chunks(source: str, language: str) -> list[str]:
    chunks: list[list[str]] = [[]]
    size = 0
    for sentence in sentences(source, language):
        length = len(words(sentence))
        if chunks[-1] and size + length > CHUNK_WORDS:
            chunks.append([])
            size = 0
        chunks[-1].append(sentence)
        size += length
    return ["\n".join(chunk) for chunk in chunks]
