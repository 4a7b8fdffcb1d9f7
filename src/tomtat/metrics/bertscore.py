"""BERTScore F1 (Zhang et al. 2020) with any encoder: greedy matching of contextual embeddings by cosine.

The same numbers as bert-score 0.3.13, which crashes on empty texts under Transformers 5 and cuts long ones silently:
here an empty text scores 0, and texts over the encoder's limit are counted and told.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomtat.assets import MINILM
from tomtat.errors import ConfigError, ModelError
from tomtat.files import sha256_of
from tomtat.metrics.values import Measured, Rows, by_reference
from tomtat.quiet import quiet_transformers

LAYERS = {
    MINILM.name: 5,
    "bert-base-uncased": 9,
    "bert-base-multilingual-cased": 9,
    "roberta-base": 10,
    "roberta-large": 17,
    "xlm-roberta-base": 9,
    "xlm-roberta-large": 17,
    "microsoft/deberta-xlarge-mnli": 40,
    "microsoft/deberta-large-mnli": 18,
}
"""bert-score's choice of layer, tuned on WMT16; for MiniLM the last but one."""

BATCH_TOKENS = 8192
ROWS_AT_ONCE = 256
MOST_KEPT_TOKENS = 400_000
"""About 600 MB of MiniLM's vectors."""


@dataclass(frozen=True)
class _Embedded:
    """One text's tokens: unit vectors (tokens, width), and how much each counts (tokens,)."""

    vectors: Any
    weights: Any


class BertScore:
    def __init__(self, model: str = MINILM.name, layer: int | None = None, idf: bool = False) -> None:
        """`model` is `minilm` (pulled before), a folder, or a hub id; Raises ModelError or ConfigError."""
        self.idf = idf
        self.layer = layer if layer is not None else LAYERS.get(model, LAYERS.get(model.rpartition("/")[2], 0))
        if not self.layer:
            raise ConfigError(
                f"evaluate.bertscore_layer: say which layer of {model} to take (known: {', '.join(LAYERS)})."
            )
        self._tokenizer, self._network = _load(model, self.layer)
        network_limit = getattr(self._network.config, "max_position_embeddings", 512)
        is_roberta = "roberta" in self._network.config.model_type
        # RoBERTa's first two positions are reserved.
        self.limit = min(self._tokenizer.model_max_length, network_limit - (2 if is_roberta else 0))
        # A folder by its name alone: labels travel, paths don't.
        is_folder = Path(model).expanduser().is_dir()
        shown = "all-MiniLM-L6-v2" if model == MINILM.name else _folder_label(Path(model)) if is_folder else model
        self.recipe = f"BERTScore[{shown}@L{self.layer},{'idf' if idf else 'noidf'},norescale,max{self.limit}] F1 x100"
        self._kept: dict[str, _Embedded] = {}

    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        references = [text for texts in rows.references for text in texts]
        idf = self._inverse_frequencies(references) if self.idf else None
        if self.idf:
            self._kept.clear()  # weights belong to their references
        each: list[list[float]] = []
        for start in range(0, len(predictions), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            texts = {text for row in rows.references[part] for text in row} | set(predictions[part])
            embedded = self._embed(texts, idf)
            each += [
                [100 * _f1(embedded[prediction], embedded[text]) for text in row]
                for prediction, row in zip(predictions[part], rows.references[part], strict=True)
            ]
        return Measured(by_reference("bertscore", self.recipe, each), self._notes(predictions, references))

    def _notes(self, predictions: Sequence[str], references: Sequence[str]) -> list[str]:
        notes = []
        for what, texts in (("predictions", predictions), ("references", references)):
            cut = sum(len(ids) > self.limit for ids in self._ids(list(texts)))
            if cut:
                notes.append(f"BERTScore read only the first {self.limit} tokens of {cut:,} of {len(texts):,} {what}.")
        return notes

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return list(self._tokenizer([text.strip() for text in texts], truncation=False, verbose=False)["input_ids"])

    def _cut(self, ids: list[int]) -> list[int]:
        """To the limit, the closing special token kept, as a tokenizer cuts."""
        return ids if len(ids) <= self.limit else [*ids[: self.limit - 1], ids[-1]]

    def _inverse_frequencies(self, references: Sequence[str]) -> dict[int, float]:
        """log((N + 1) / (n + 1)) over the references, as bert-score has it."""
        counts: Counter[int] = Counter()
        for ids in self._ids(list(references)):
            counts.update(set(self._cut(ids)))
        total = len(references) + 1
        return {token: math.log(total / (count + 1)) for token, count in counts.items()} | {-1: math.log(total)}

    def _embed(self, texts: Iterable[str], idf: dict[int, float] | None) -> dict[str, _Embedded]:
        import torch

        wanted = sorted(text for text in texts if text.strip() and text not in self._kept)
        ids = dict(zip(wanted, (self._cut(row) for row in self._ids(wanted)), strict=True)) if wanted else {}
        wanted.sort(key=lambda text: len(ids[text]))
        found = {}
        while wanted:
            longest = len(ids[wanted[-1]])
            batch = [wanted.pop() for _ in range(min(len(wanted), max(1, BATCH_TOKENS // longest)))]
            padded = self._tokenizer.pad({"input_ids": [ids[text] for text in batch]}, return_tensors="pt")
            with torch.inference_mode():
                hidden = self._network(**padded, output_hidden_states=True).hidden_states[self.layer]
            vectors = torch.nn.functional.normalize(hidden.float(), dim=-1)
            for text, row in zip(batch, vectors, strict=True):
                found[text] = _Embedded(row[: len(ids[text])].clone(), self._weights(ids[text], idf))
        # References come back for each system; more than these would fill the memory.
        kept = sum(len(item.weights) for item in self._kept.values())
        if kept + sum(len(item.weights) for item in found.values()) < MOST_KEPT_TOKENS:
            self._kept |= found
        nothing = _Embedded(torch.zeros(0, 1), torch.zeros(0))
        return {text: self._kept.get(text) or found.get(text) or nothing for text in texts}

    def _weights(self, ids: list[int], idf: dict[int, float] | None) -> Any:
        """The tokens that frame a text count nothing."""
        import torch

        framing = {self._tokenizer.cls_token_id, self._tokenizer.sep_token_id}
        values = [0.0 if token in framing else idf.get(token, idf[-1]) if idf else 1.0 for token in ids]
        return torch.tensor(values)


def _f1(ours: _Embedded, theirs: _Embedded) -> float:
    if not len(ours.weights) or not len(theirs.weights) or not ours.weights.sum() or not theirs.weights.sum():
        return 0.0
    similar = ours.vectors @ theirs.vectors.T
    precision = float((similar.amax(1) * ours.weights).sum() / ours.weights.sum())
    recall = float((similar.amax(0) * theirs.weights).sum() / theirs.weights.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _folder_label(folder: Path) -> str:
    folder = folder.expanduser()
    return f"{folder.name}-{sha256_of(*sorted(folder.glob('*.safetensors')))[:8]}"


def _load(model: str, layer: int) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    found = MINILM.find() if model == MINILM.name else None
    if model == MINILM.name and found is None:
        raise ModelError("the encoder is not here; fetch it once: tomtat models pull minilm")
    folder = found or Path(model).expanduser()
    path = str(folder) if folder.exists() else model
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            network = AutoModel.from_pretrained(path, use_safetensors=True, trust_remote_code=False).eval()
    except Exception as error:
        # A missing or damaged folder raises nearly anything.
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the encoder {model} can't be loaded: {type(error).__name__}: {reason}") from None
    encoder = getattr(network, "encoder", network)
    layers = getattr(network.config, "num_hidden_layers", 0)
    if layer > layers:
        raise ConfigError(f"evaluate.bertscore_layer = {layer}, but {model} has {layers} layers.")
    if hasattr(encoder, "layer"):
        encoder.layer = encoder.layer[:layer]  # what lies above is not looked at
    return tokenizer, network
