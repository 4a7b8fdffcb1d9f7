"""Causal models with a chat template: SmolLM2, Llama and their kind."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch

from tomtat.errors import ModelError
from tomtat.models.base import IGNORED, Choices, Encoded, SummarizerModel
from tomtat.models.frozen import FrozenBatch, FrozenRow
from tomtat.models.lanes import CausalLanes, Remembered
from tomtat.models.last_layer import last_layer_at
from tomtat.models.packing import Packed, PackedRow
from tomtat.models.shared import can_share

_MARK = "\u2402summary\u2403"
_DAY = {"%d": "01", "%-d": "1", "%e": "1", "%B": "January", "%b": "Jan", "%m": "01", "%Y": "2025", "%y": "25"}
"""A date for templates that write one (SmolLM3, Llama 3): a model must not be asked otherwise each day."""

FRONT_FROM = 8
"""Prompts that begin with fewer tokens in common are read whole."""


class CausalModel(SummarizerModel):
    is_encoder_decoder = False

    def __init__(self, network: Any, tokenizer: Any, *rest: Any) -> None:
        super().__init__(network, tokenizer, *rest)
        if not tokenizer.chat_template:
            raise ModelError(
                f"{self.source.name} has no chat template, so tomtat does not know how to ask it. "
                "Take its instruction-tuned version (names often end in -Instruct or -it)."
            )

    def _prompt_ids(self, text: str) -> list[int]:
        prompt = self._rendered(self._messages(text), add_generation_prompt=True)
        return list(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def _target_ids(self, summary: str) -> list[int]:
        return [*self.tokenizer(summary, add_special_tokens=False)["input_ids"], self._turn_end]

    def _messages(self, text: str) -> list[dict[str, str]]:
        system = self.prompt.system
        if system and not self._takes_system:
            return [{"role": "user", "content": f"{system}\n\n{text}"}]
        first = [{"role": "system", "content": system}] if system else []
        return [*first, {"role": "user", "content": text}]

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template has a place for a system message; Gemma's refuses it, others leave it out unsaid."""
        system = {"role": "system", "content": _MARK}
        try:
            return _MARK in self._rendered([system, {"role": "user", "content": "text"}])
        except ModelError:
            return False

    def _rendered(self, messages: list[dict[str, str]], **options: bool) -> str:
        """By the model's own template. Transformers runs it in Jinja's sandbox, where a stranger's reaches nothing."""
        from jinja2 import TemplateError

        try:
            # Qwen3's and SmolLM3's templates leave room for thoughts unless told not to, and no summary here has any.
            return str(
                self.tokenizer.apply_chat_template(
                    messages, chat_template=self._template, tokenize=False, enable_thinking=False, **options
                )
            )
        except TemplateError as error:
            raise ModelError(
                f"The chat template of {self.source.name} can't be used: {' '.join(str(error).split())[:300]}"
            ) from None

    @cached_property
    def _template(self) -> str | None:
        """The tokenizer's own (None), but for the date of today."""
        template = self.tokenizer.chat_template
        if not isinstance(template, str) or "strftime_now" not in template:
            return None
        replaced = "".join(f" | replace('{code}', '{value}')" for code, value in _DAY.items())
        return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}{{{{ '' }}}}{template}"

    @cached_property
    def _turn_end(self) -> int:
        """The token that the template puts after the assistant's words: not always the tokenizer's end token."""
        messages = [*self._messages("text"), {"role": "assistant", "content": _MARK}]
        after = self._rendered(messages).partition(_MARK)[2]
        ids = self.tokenizer(after.strip(), add_special_tokens=False)["input_ids"]
        return int(next((token for token in ids if token in self._special_ids), self.tokenizer.eos_token_id))

    def target_logits(
        self, rows: Sequence[Encoded], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._head_is_more_than_linear:
            hidden, labels = self.target_hidden(rows, below)
            return self.network.get_output_embeddings()(hidden), labels
        ids, labels = self._shifted(rows)
        is_target = labels != IGNORED
        with self._read_at(is_target), self._head_at(is_target), below.entering() if below else nullcontext():
            return self.network(input_ids=ids, use_cache=False).logits, labels[is_target]

    def target_hidden(
        self, rows: Sequence[Encoded], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ids, labels = self._shifted(rows)
        is_target = labels != IGNORED
        with self._read_at(is_target):
            if below is None:
                hidden = self.network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            else:
                hidden = below.run(None)
        return hidden[is_target], labels[is_target]

    def _read_at(self, wanted: torch.Tensor) -> AbstractContextManager[None]:
        """For a network that ends at its last layer's output: further steps must not mix places."""
        return last_layer_at(self.network.get_decoder(), wanted)

    def _shifted(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (rows, longest), and in each place the label that comes next.

        Padding stands on the right and nothing attends to its right, so no mask is needed and attention stays on its
        fast path.
        """
        ids = [self.frozen_ids(row) for row in rows]
        labels = [[IGNORED] * (len(row.prompt_ids) - 1) + row.target_ids for row in rows]
        width = self.width(ids, self.positions.source)
        return self.pad(ids, self.pad_token_id, width=width), self.pad(labels, IGNORED, width=width)

    def frozen_ids(self, row: Encoded) -> list[int]:
        # Nothing comes after the last target token, so it is not read.
        return [*row.prompt_ids, *row.target_ids[:-1]]

    def frozen_rows(self, row: Encoded | Choices) -> list[FrozenRow]:
        if isinstance(row, Encoded):
            return [self.frozen_ids(row)]
        if self.has_lanes:
            return [PackedRow.of(row.prompt_ids, row.targets)]
        return [self.frozen_ids(Encoded(row.prompt_ids, target)) for target in row.targets]

    def choice_logits(
        self, rows: Sequence[Choices], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        if self.has_lanes:
            read = [PackedRow.of(row.prompt_ids, row.targets) for row in rows]
        else:
            # What can't be cut and joined like plain attention takes no mask of ours either: each target goes alone.
            read = [PackedRow.of(row.prompt_ids, [target]) for row in rows for target in row.targets]
        packed = Packed.of(read, self.pad_token_id, self.device, self.width(read, self.positions.source))
        layout = packed.layout(self.dtype) if self.has_lanes else {}
        wanted = torch.zeros_like(packed.ids, dtype=torch.bool)
        wanted[packed.before_targets] = True
        entering = below.entering() if below else nullcontext()
        with self._read_at(wanted), self._head_at(*packed.before_targets), entering:
            logits = self.network(input_ids=packed.ids, **layout, use_cache=False).logits
        return logits, [token for row in rows for target in row.targets for token in target]

    @cached_property
    def has_lanes(self) -> bool:
        # Layers with a sliding window or a state of their own can't be cut and joined like plain attention.
        from transformers.cache_utils import DynamicCache, DynamicLayer

        takes = inspect.signature(type(self.network).forward).parameters
        plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.network.config).layers)
        return plain and {"position_ids", "logits_to_keep"} <= set(takes)

    @property
    def shares_prompts(self) -> bool:
        return self.has_lanes and can_share(self.network)

    def start(self, rows: Sequence[Encoded], remembered: Remembered) -> CausalLanes:
        ids = self.front_ids
        if remembered.front is None and len(ids) >= FRONT_FROM:
            remembered.front = CausalLanes(self.network, [ids], self.pad_token_id, None).front(ids)
        fits = all(row.prompt_ids[: len(ids)] == ids and len(row.prompt_ids) > len(ids) for row in rows)
        front = remembered.front if fits else None
        return CausalLanes(self.network, [row.prompt_ids for row in rows], self.pad_token_id, front)

    @cached_property
    def front_ids(self) -> list[int]:
        """What the prompts of all texts begin with: the template up to the text."""
        one, other = (self._prompt_ids(self.prompt.render(text)) for text in ("a", "7"))
        return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]

    def _generation_inputs(self, rows: Sequence[Encoded]) -> tuple[dict[str, torch.Tensor], int]:
        prompts = [row.prompt_ids for row in rows]
        ids = self.pad(prompts, self.pad_token_id, left=True)
        return {"input_ids": ids, "attention_mask": self.mask(prompts, left=True)}, ids.shape[1]

    def end_token_ids(self) -> list[int]:
        return sorted({self._turn_end, int(self.tokenizer.eos_token_id)})
