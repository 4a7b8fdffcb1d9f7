"""all-MiniLM-L6-v2 as the store's embedder: what says the same in other words lies near."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tomtat.assets import MINILM
from tomtat.errors import ModelError
from tomtat.quiet import quiet_transformers
from tomtat.text.language import language_of
from tomtat.text.terms import terms
from tomtat.text.words import words

MOST_TOKENS = 256
"""What the model was trained on; longer texts are known by their beginning."""
BATCH_TOKENS = 4096
TRUST = 0.5
TRUST_ABROAD = 0.2
"""Beside BM25 for questions that are not English, the only language it has learned."""
NEAREST = 20
"""Words that are looked at as a word's relatives."""
LEAST_SIMILAR = 0.3
"""Cosine of relatives; from here to 1 is spread to 0 to 1."""
SHORTEST_RELATED = 4
"""Letters; shorter words are mostly of the kind that every turn has."""


class MiniLM:
    """Texts to 384 numbers. 14 ms a chat turn on one CPU core; loaded when first used.

    Raises: ModelError where it has not been pulled (`tomtat models pull minilm`).
    """

    name = f"{MINILM.name}-{MINILM.version}"
    width = 384

    def __init__(self) -> None:
        folder = MINILM.find()
        if folder is None:
            raise ModelError("Searching by meaning needs all-MiniLM-L6-v2: run tomtat models pull minilm.")
        self._folder = folder
        self._loaded: tuple[Any, Any] | None = None
        self._table: np.ndarray | None = None
        self._spelled: list[str] = []
        self._vocabulary: dict[str, int] = {}
        self._relatives: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, 384], float32, each of length 1: the mean over a text's tokens."""
        import torch

        tokenizer, network = self._load()
        vectors = np.zeros((len(texts), self.width), np.float32)
        ids = tokenizer(list(texts), truncation=True, max_length=MOST_TOKENS)["input_ids"]
        waiting = sorted(range(len(texts)), key=lambda number: len(ids[number]))
        while waiting:
            count = max(1, BATCH_TOKENS // len(ids[waiting[-1]]))
            batch, waiting = waiting[-count:], waiting[:-count]
            padded = tokenizer.pad({"input_ids": [ids[number] for number in batch]}, return_tensors="pt")
            with torch.inference_mode():
                hidden = network(**padded).last_hidden_state
            mask = padded["attention_mask"][..., None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[batch] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return vectors

    def related(self, query: str) -> dict[str, dict[str, float]]:
        """Of each English word of a query the terms of its nearest words, with how near they are.

        By the model's input embeddings, centred: "pottery" finds "ceramics" in turns whose vectors say something else.
        A word costs a millisecond when it is first asked about.
        """
        if self.weight(query) != TRUST:
            return {}
        vocabulary, table = self._words()
        asked = [word for word in dict.fromkeys(words(query)) if len(word) >= SHORTEST_RELATED and word in vocabulary]
        new = [word for word in asked if word not in self._relatives]
        for word, similar in zip(new, table[[vocabulary[word] for word in new]] @ table.T, strict=True):
            self._relatives[word] = self._nearest(word, similar)
        return {word: self._relatives[word] for word in asked}

    def _nearest(self, word: str, similar: np.ndarray) -> dict[str, float]:
        own: dict[str, float] = {}
        for number in np.argpartition(-similar, NEAREST)[:NEAREST]:
            term = terms(self._spelled[number])[0]
            if similar[number] > LEAST_SIMILAR and term != terms(word)[0]:
                own[term] = max(own.get(term, 0.0), float((similar[number] - LEAST_SIMILAR) / (1 - LEAST_SIMILAR)))
        return own

    def _words(self) -> tuple[dict[str, int], np.ndarray]:
        """The vocabulary's whole words, and their embeddings, [words, 384]."""
        tokenizer, network = self._load()
        with self._lock:
            if self._table is None:
                known = sorted((number, word) for word, number in tokenizer.get_vocab().items() if _is_word(word))
                self._spelled = [word for _, word in known]
                table = network.embeddings.word_embeddings.weight.detach().numpy()[[number for number, _ in known]]
                table = table - table.mean(0)
                self._table = table / np.linalg.norm(table, axis=1, keepdims=True)
                self._vocabulary = {word: place for place, word in enumerate(self._spelled)}
            return self._vocabulary, self._table

    def weight(self, query: str) -> float:
        return TRUST if query.isascii() or language_of([query]) == "en" else TRUST_ABROAD

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        with self._lock:
            if self._loaded is None:
                with quiet_transformers():
                    tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
                    network = AutoModel.from_pretrained(self._folder, local_files_only=True, use_safetensors=True)
                self._loaded = tokenizer, network.eval()
            return self._loaded


def _is_word(token: str) -> bool:
    return token.isascii() and token.isalpha() and len(token) >= 3
