"""Encoder-decoders: T5, FLAN-T5 and their kind."""

from collections.abc import Sequence

import torch

from tomtat.models.base import IGNORED, Encoded, SummarizerModel


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

    def _generation_inputs(self, rows: Sequence[Encoded]) -> tuple[dict[str, torch.Tensor], int]:
        prompts = [row.prompt_ids for row in rows]
        # The decoder's output begins with one start token.
        return {"input_ids": self.pad(prompts, self.pad_token_id), "attention_mask": self.mask(prompts)}, 1

    def end_token_ids(self) -> list[int]:
        return [int(self.tokenizer.eos_token_id)]
