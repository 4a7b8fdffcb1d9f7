"""all-MiniLM-L6-v2 as the store's embedder: what says the same in other words lies near."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tomtat.assets import MINILM
from tomtat.errors import ModelError
from tomtat.quiet import quiet_transformers
from tomtat.text.language import language_of

MOST_TOKENS = 256
"""What the model was trained on; longer texts are known by their beginning."""
BATCH_TOKENS = 4096
TRUST = 0.5
TRUST_ABROAD = 0.2
"""Beside BM25 for questions that are not English, the only language it has learned."""


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
