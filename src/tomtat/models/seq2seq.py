"""Encoder-decoders: T5, FLAN-T5 and their kind."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional as F

from tomtat.models.base import IGNORED, Choices, Encoded, SummarizerModel
from tomtat.models.families import Languages, languages_of, target_front
from tomtat.models.frozen import FrozenBatch, FrozenRow
from tomtat.models.lanes import Remembered, Seq2SeqLanes
from tomtat.models.quick_layers import quick_layers
from tomtat.models.steps import seq2seq_steps_fit

RELATIVE = ("t5", "mt5", "umt5", "longt5")
"""Families whose decoder counts positions from the token at hand, so that lanes may be of different ages."""


class Seq2SeqModel(SummarizerModel):
    is_encoder_decoder = True

    @cached_property
    def languages(self) -> Languages | None:
        return languages_of(self.tokenizer, self.prompt, self.source.name)

    def _prompt_ids(self, text: str) -> list[int]:
        if self.languages:
            return self.languages.around_source(self._bare_ids(text))
        return list(self.tokenizer(text)["input_ids"])

    def _target_ids(self, summary: str) -> list[int]:
        if self.languages:
            return self.languages.around_summary(self._bare_ids(summary))
        return list(self.tokenizer(text_target=summary)["input_ids"])

    def _bare_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def decoder_start(self) -> int:
        if self.languages:
            return self.languages.decoder_start
        start = self.network.generation_config.decoder_start_token_id
        return int(self.network.config.decoder_start_token_id if start is None else start)

    @property
    def forced_ids(self) -> list[int]:
        """What every summary begins with, as in training so in generation."""
        if self.languages:
            return [self.languages.summary] if self.languages.code_first else []
        return target_front(self.tokenizer)

    @property
    def target_prefix(self) -> list[int]:
        # CTranslate2 knows the decoder's start, but for mBART-25's, which differs from language to language.
        is_start = self.languages is not None and not self.languages.code_first
        return [self.decoder_start] if is_start else self.forced_ids

    def start_settings(self) -> dict[str, Any]:
        forced = self.forced_ids
        return {"decoder_start_token_id": self.decoder_start, "forced_bos_token_id": forced[0] if forced else None}

    def _decoder_inputs(self, targets: Sequence[list[int]]) -> torch.Tensor:
        """Each token's place holds the one before it; not by Transformers, whose mBART takes the last for the start."""
        inputs = [[self.decoder_start, *ids[:-1]] for ids in targets]
        return self.pad(inputs, self.pad_token_id, width=self._target_width(targets))

    def _labels(self, targets: Sequence[list[int]]) -> torch.Tensor:
        """As wide as the decoder's inputs."""
        return self.pad(targets, IGNORED, width=self._target_width(targets))

    def _target_width(self, targets: Sequence[list[int]]) -> int:
        return self.width(targets, self.positions.target)

    def _source_width(self, prompts: Sequence[Sequence[int]]) -> int:
        return self.width(prompts, self.positions.source)

    def _source(self, prompts: Sequence[Sequence[int]], width: int | None = None) -> dict[str, torch.Tensor]:
        """The encoder's inputs, each (prompts, width), by default as wide as the longest."""
        ids = self.pad(prompts, self.pad_token_id, width=width)
        inputs = {"input_ids": ids, "attention_mask": self.mask(prompts, width=width)}
        return self._for_led(inputs) if self.model_type == "led" else inputs

    def _for_led(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """LED's first token sees all others and is seen by all (Beltagy et al. 2020, section 5). Lengths are whole
        windows; it would fill them up itself, and say so each time."""
        window = max(self.network.config.attention_window)
        missing = -inputs["input_ids"].shape[1] % window
        ids = F.pad(inputs["input_ids"], (0, missing), value=self.pad_token_id)
        mask = F.pad(inputs["attention_mask"], (0, missing))
        seen_by_all = torch.zeros_like(mask)
        seen_by_all[:, 0] = 1
        return {"input_ids": ids, "attention_mask": mask, "global_attention_mask": seen_by_all}

    def target_logits(
        self, rows: Sequence[Encoded], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self._labels([row.target_ids for row in rows])
        is_target = labels != IGNORED
        with self._head_at(is_target):
            return self._forward(rows, labels, below).logits, labels[is_target]

    def target_hidden(
        self, rows: Sequence[Encoded], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self._labels([row.target_ids for row in rows])
        is_target = labels != IGNORED
        caught: list[torch.Tensor] = []

        def catch(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            caught.append(inputs[0][is_target])
            return (inputs[0][:0],)

        # Caught before the head, because what a family does there (T5 scales) is its own; the head gets nothing to do.
        hook = self.network.get_output_embeddings().register_forward_pre_hook(catch)
        try:
            self._forward(rows, labels, below)
        finally:
            hook.remove()
        return caught[0], labels[is_target]

    def _forward(self, rows: Sequence[Encoded], labels: torch.Tensor, below: FrozenBatch | None) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        starts = self._decoder_inputs([row.target_ids for row in rows])
        prompts = [row.prompt_ids for row in rows]
        width = self._source_width(prompts)
        if below is None:
            inputs = self._source(prompts, width)
            return self.network(**inputs, decoder_input_ids=starts, use_cache=False)
        mask = self.mask(prompts, width=width)
        states = BaseModelOutput(last_hidden_state=below.run(mask))
        return self.network(encoder_outputs=states, attention_mask=mask, decoder_input_ids=starts, use_cache=False)

    def frozen_ids(self, row: Encoded) -> list[int]:
        return row.prompt_ids

    def frozen_rows(self, row: Encoded | Choices) -> list[FrozenRow]:
        return [row.prompt_ids]

    def choice_logits(
        self, rows: Sequence[Choices], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        from transformers.modeling_outputs import BaseModelOutput

        prompts = [row.prompt_ids for row in rows]
        targets = [target for row in rows for target in row.targets]
        source = self._source(prompts, self._source_width(prompts))
        mask = source["attention_mask"]
        states = self.network.get_encoder()(**source).last_hidden_state if below is None else below.run(mask)
        each = torch.tensor([len(row.targets) for row in rows], device=self.device)
        labels = self._labels(targets)
        with self._head_at(labels != IGNORED):
            logits = self.network(
                encoder_outputs=BaseModelOutput(last_hidden_state=states.repeat_interleave(each, 0)),
                attention_mask=mask.repeat_interleave(each, 0),
                decoder_input_ids=self._decoder_inputs(targets),
                use_cache=False,
            ).logits
        return logits, [token for target in targets for token in target]

    @property
    def weights_key(self) -> str:
        # Adapters in the decoder alone leave the encoder's states as they are.
        return super().weights_key if self.adapters.touches(self.network.get_encoder()) else "encoder"

    @property
    def has_lanes(self) -> bool:
        # BART's kind counts positions from the start, and lanes that join later begin elsewhere.
        return self.model_type in RELATIVE

    @property
    def shares_prompts(self) -> bool:
        return self.has_lanes and seq2seq_steps_fit(self.network)

    def start(self, rows: Sequence[Encoded], remembered: Remembered) -> Seq2SeqLanes:
        prompts = [tuple(row.prompt_ids) for row in rows]
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in remembered.states]:
            with quick_layers(self.network.get_encoder()):
                states = self.network.get_encoder()(**self._source(new))
            fresh = {p: s[: len(p)] for p, s in zip(new, states.last_hidden_state, strict=True)}
        else:
            fresh = {}
        found = [fresh[prompt] if prompt in fresh else remembered.states[prompt] for prompt in prompts]
        for prompt, states in fresh.items():
            remembered.remember(prompt, states)
        padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        return Seq2SeqLanes(self.network, padded, self.mask(prompts).bool(), self.decoder_start)

    def _generation_inputs(self, rows: Sequence[Encoded]) -> tuple[dict[str, torch.Tensor], int]:
        # The decoder's output begins with one start token.
        return self._source([row.prompt_ids for row in rows]), 1

    def end_token_ids(self) -> list[int]:
        return [int(self.tokenizer.eos_token_id)]
