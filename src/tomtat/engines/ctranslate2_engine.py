"""Generation with CTranslate2: the adapter merged and the model converted once, kept in the cache."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from tomtat.batching import micro_batches
from tomtat.engines.base import Engine
from tomtat.errors import ConfigError
from tomtat.models import Decoding, Encoded, SummarizerModel
from tomtat.models.causal import FRONT_FROM
from tomtat.types import Generation


class CTranslate2Engine(Engine):
    """Runs a folder made by `convert_to_ctranslate2`; `model` has its tokenizer and prompt, but no network."""

    def __init__(self, model: SummarizerModel, folder: Path, batch_tokens: int = 8192) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        kind = ctranslate2.Translator if model.is_encoder_decoder else ctranslate2.Generator
        # Batches side by side on a core each are faster than one batch on all cores: these models are small.
        self._runner: Any = kind(str(folder), device="cpu", inter_threads=_cores(), intra_threads=1)
        self.name = f"ctranslate2 ({self._runner.compute_type})"

    def finished(self, rows: Sequence[Encoded], decoding: Decoding) -> Iterator[tuple[int, list[Generation]]]:
        """Rows' numbers with their generations, batch by batch."""
        running = [
            (batch, self._submit([rows[row] for row in batch], decoding)) for batch in self._batches(rows, decoding)
        ]
        for batch, results in running:
            for row, result in zip(batch, results, strict=True):
                yield row, [self.model.generation(rows[row], ids) for ids in self._ids(result.result())]

    def _batches(self, rows: Sequence[Encoded], decoding: Decoding) -> list[list[int]]:
        width = max(decoding.num_beams, decoding.candidates)
        lengths = [width * (len(row.prompt_ids) + decoding.max_new_tokens) for row in rows]
        # A share for each core, or one would wait for the other.
        budget = max(1, min(self.batch_tokens, sum(lengths) // _cores()))
        if self.model.is_encoder_decoder:
            return micro_batches(range(len(rows)), lengths, budget)
        # Of prompts in a batch, CTranslate2 reads as many tokens at once as the shortest has, the rest one by one.
        alike: dict[int, list[int]] = defaultdict(list)
        for row in sorted(range(len(rows)), key=lambda row: -lengths[row]):
            alike[lengths[row]].append(row)
        return [batch for same in alike.values() for batch in micro_batches(same, lengths, budget)]

    def stream(self, row: Encoded, decoding: Decoding) -> Iterator[str | Generation]:
        """The whole summary in one piece: CTranslate2 streams only by a callback of its own threads."""
        generation = self.candidates([row], decoding)[0][0]
        yield generation.text
        yield generation

    def _submit(self, rows: Sequence[Encoded], decoding: Decoding) -> list[Any]:
        names = self.model.tokenizer.convert_ids_to_tokens
        options = _options(decoding) | {"end_token": self.model.end_token_ids(), "return_end_token": True}
        if self.model.is_encoder_decoder:
            prompts = [names(row.prompt_ids) for row in rows]
            prefix = names(self.model.target_prefix)
            results: list[Any] = self._runner.translate_batch(
                prompts,
                target_prefix=[prefix] * len(rows) if prefix else None,
                min_decoding_length=0,  # by default it would not say nothing
                max_decoding_length=decoding.max_new_tokens,
                max_input_length=0,
                **options,
            )
            return results
        if options.pop("no_repeat_ngram_size"):
            raise ConfigError(
                "CTranslate2 counts the prompt's n-grams as repeated too, so a summary could not copy from its source. "
                "With generate.no_repeat_ngram take --engine torch."
            )
        front = self.model.front_ids
        has_front = len(front) >= FRONT_FROM and all(row.prompt_ids[: len(front)] == front for row in rows)
        start = len(front) if has_front else 0
        return self._runner.generate_batch(  # type: ignore[no-any-return]
            [names(row.prompt_ids[start:]) for row in rows],
            static_prompt=names(front) if has_front else None,
            max_length=decoding.max_new_tokens,
            include_prompt_in_result=False,
            **options,
        )

    def _ids(self, result: Any) -> list[list[int]]:
        texts = result.hypotheses if self.model.is_encoder_decoder else result.sequences
        return [self.model.tokenizer.convert_tokens_to_ids(tokens) for tokens in texts]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options(decoding: Decoding) -> dict[str, Any]:
    options: dict[str, Any] = {
        "beam_size": decoding.num_beams,
        "no_repeat_ngram_size": decoding.no_repeat_ngram,
        "asynchronous": True,
    }
    if decoding.temperature > 0:
        ctranslate2.set_random_seed(decoding.seed)
        options |= {
            "beam_size": 1,
            "num_hypotheses": decoding.candidates,
            "sampling_topk": 0,
            "sampling_topp": decoding.top_p,
            "sampling_temperature": decoding.temperature,
        }
    return options
