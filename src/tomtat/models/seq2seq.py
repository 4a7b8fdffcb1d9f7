"""Encoder-decoders: T5, FLAN-T5 and their kind."""

from collections.abc import Sequence

import torch

from tomtat.models.base import IGNORED, Choices, Encoded, SummarizerModel
from tomtat.models.lanes import Remembered, Seq2SeqLanes

RELATIVE = ("t5", "mt5", "umt5")
"""Families whose decoder counts positions from the token at hand, so that lanes may be of different ages."""


class Seq2SeqModel(SummarizerModel):
    is_encoder_decoder = True

    def _prompt_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def _target_ids(self, summary: str) -> list[int]:
        return list(self.tokenizer(text_target=summary)["input_ids"])

    def target_logits(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self.pad([row.target_ids for row in rows], IGNORED)
        inputs, _ = self._generation_inputs(rows)
        starts = self.network.prepare_decoder_input_ids_from_labels(labels=labels)
        logits = self.network(**inputs, decoder_input_ids=starts, use_cache=False).logits
        return logits.flatten(0, 1), labels.flatten()

    def _logits_of_choices(self, rows: Sequence[Choices]) -> tuple[torch.Tensor, list[int]]:
        from transformers.modeling_outputs import BaseModelOutput

        prompts = [row.prompt_ids for row in rows]
        targets = [target for row in rows for target in row.targets]
        mask = self.mask(prompts)
        states = self.network.get_encoder()(input_ids=self.pad(prompts, self.pad_token_id), attention_mask=mask)
        each = torch.tensor([len(row.targets) for row in rows], device=self.device)
        labels = self.pad(targets, IGNORED)
        with self._head_at(labels != IGNORED):
            logits = self.network(
                encoder_outputs=BaseModelOutput(last_hidden_state=states.last_hidden_state.repeat_interleave(each, 0)),
                attention_mask=mask.repeat_interleave(each, 0),
                decoder_input_ids=self.network.prepare_decoder_input_ids_from_labels(labels=labels),
                use_cache=False,
            ).logits
        return logits, [token for target in targets for token in target]

    @property
    def weights_key(self) -> str:
        # Adapters in the decoder alone leave the encoder's states as they are.
        return super().weights_key if self.adapters.touches(self.network.get_encoder()) else "encoder"

    @property
    def has_lanes(self) -> bool:
        # BART's kind forces tokens at the start or the end, by settings that only `generate` knows.
        return self.model_type in RELATIVE

    def start(self, rows: Sequence[Encoded], remembered: Remembered) -> Seq2SeqLanes:
        prompts = [tuple(row.prompt_ids) for row in rows]
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in remembered.states]:
            mask = self.mask(new)
            states = self.network.get_encoder()(input_ids=self.pad(new, self.pad_token_id), attention_mask=mask)
            fresh = {p: s[: len(p)] for p, s in zip(new, states.last_hidden_state, strict=True)}
        else:
            fresh = {}
        found = [fresh[prompt] if prompt in fresh else remembered.states[prompt] for prompt in prompts]
        for prompt, states in fresh.items():
            remembered.remember(prompt, states)
        padded = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        start = self.network.generation_config.decoder_start_token_id
        start = self.network.config.decoder_start_token_id if start is None else start
        return Seq2SeqLanes(self.network, padded, self.mask(prompts).bool(), int(start))

    def _generation_inputs(self, rows: Sequence[Encoded]) -> tuple[dict[str, torch.Tensor], int]:
        prompts = [row.prompt_ids for row in rows]
        # The decoder's output begins with one start token.
        return {"input_ids": self.pad(prompts, self.pad_token_id), "attention_mask": self.mask(prompts)}, 1

    def end_token_ids(self) -> list[int]:
        return [int(self.tokenizer.eos_token_id)]
