"""The interface that training, engines and evaluation see."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch.nn import functional as F

from tomtat.errors import RunError
from tomtat.models.attention import quick_attention
from tomtat.models.decoding import Decoding
from tomtat.models.devices import to_device
from tomtat.models.families import positions_of
from tomtat.models.frozen import FrozenBatch, FrozenRow
from tomtat.models.head_loss import head_loss
from tomtat.models.lanes import Lanes, Remembered
from tomtat.models.ngrams import NoRepeatedNgrams
from tomtat.models.sources import ModelSource
from tomtat.models.switching import Adapters
from tomtat.models.widths import padded_width
from tomtat.prompts import Prompt
from tomtat.types import Generation

IGNORED = -100
"""Label of positions that don't count, as torch's cross entropy has it."""

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of families whose logits are more than the head's product; these go through the whole forward."""


@dataclass(frozen=True)
class Encoded:
    """A prompt, and for training its target, as token ids."""

    prompt_ids: list[int]
    target_ids: list[int]
    share_read: float = 1.0
    """Share of the source's tokens within the input limit."""

    @property
    def source_was_cut(self) -> bool:
        return self.share_read < 1

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


@dataclass(frozen=True)
class Choices:
    """A prompt, and several targets that are weighed against each other, as token ids."""

    prompt_ids: list[int]
    targets: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(map(len, self.targets))


class SummarizerModel(ABC):
    """A network with its tokenizer and prompt. Its weights lie on one device in one dtype."""

    is_encoder_decoder: ClassVar[bool]

    def __init__(self, network: Any, tokenizer: Any, prompt: Prompt, source: ModelSource) -> None:
        self.network = network
        """The Transformers model, with adapter layers inside where there are any."""
        self.peft: Any = None
        """PEFT's wrapper around the same network, for saving and switching adapters; None without adapters."""
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.source = source
        config = network.config.to_dict() if network is not None else {}
        self.positions = positions_of(config, self.is_encoder_decoder)
        # The limits are ours, and told; the tokenizer's own only prints a warning.
        self._model_max_length = tokenizer.model_max_length
        tokenizer.model_max_length = 10**9
        added = tokenizer.added_tokens_decoder.items()
        special = {str(token) for _, token in added if token.special}
        self._control_tokens = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._special_ids = {number for number, token in added if token.special} | set(tokenizer.all_special_ids)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def model_type(self) -> str:
        return str(self.network.config.model_type)

    def encode(self, text: str, summary: str | None, max_source_tokens: int) -> Encoded:
        """Token ids of the prompt around `text`, and of the summary.

        The text is cut to `max_source_tokens`, or to what the network has positions for, whichever is less.
        """
        target = self.target(summary) if summary is not None else []
        room = self.source_room(len(target))
        limit = max_source_tokens if room is None else min(max_source_tokens, room)
        kept, share_read = self.cut(text, limit)
        ids = self._prompt_ids(self.prompt.render(kept))
        while room is not None and len(ids) - self._framing_tokens > room and limit > 1:
            # Tokens where text and prompt meet may be more than those of each alone.
            limit = max(1, limit - (len(ids) - self._framing_tokens - room))
            kept, share_read = self.cut(text, limit)
            ids = self._prompt_ids(self.prompt.render(kept))
        return Encoded(ids, target, share_read)

    def source_room(self, summary_tokens: int) -> int | None:
        """Most tokens of a source, beside the prompt and a summary of so many tokens; None where nothing limits it."""
        if self.positions.source is None:
            return None
        taken = self._framing_tokens + (0 if self.is_encoder_decoder else summary_tokens)
        return max(1, self.positions.source - taken)

    @cached_property
    def _framing_tokens(self) -> int:
        return len(self._prompt_ids(self.prompt.render("")))

    def save_tokenizer(self, folder: Path) -> None:
        """As it came, its own length limit included."""
        self.tokenizer.model_max_length, ours = self._model_max_length, self.tokenizer.model_max_length
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.model_max_length = ours

    def target(self, summary: str) -> list[int]:
        """Token ids of a summary, its end token last."""
        return self._target_ids(self._as_plain_text(summary))

    @abstractmethod
    def _prompt_ids(self, text: str) -> list[int]: ...

    @abstractmethod
    def _target_ids(self, summary: str) -> list[int]: ...

    @abstractmethod
    def target_logits(
        self, rows: Sequence[Encoded], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (positions, vocabulary) of the target positions, and their labels (positions,).

        `below` are the rows' states from the frozen part of the network, where that need not be run again.
        """

    @abstractmethod
    def target_hidden(
        self, rows: Sequence[Encoded], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters the head (positions, width) at the target positions, and their labels (positions,)."""

    def loss_sum(self, rows: Sequence[Encoded], below: FrozenBatch | None = None) -> torch.Tensor:
        """Sum of the cross entropy, in nats, over the real target tokens of all rows; a scalar in fp32."""
        if self._head_is_more_than_linear:
            logits, labels = self.target_logits(rows, below)
            return F.cross_entropy(logits.float(), labels, reduction="sum")
        hidden, labels = self.target_hidden(rows, below)
        bias = getattr(self.network, "final_logits_bias", None)
        return head_loss(hidden, labels, self.network.get_output_embeddings(), bias)

    @abstractmethod
    def frozen_ids(self, row: Encoded) -> list[int]:
        """What goes through the stack that models/frozen.py cuts: the prompt, or prompt and target in one."""

    @abstractmethod
    def frozen_rows(self, row: Encoded | Choices) -> list[FrozenRow]:
        """The same of any row: one, or one for each of its targets where they can't be read together."""

    @cached_property
    def _head_is_more_than_linear(self) -> bool:
        config = self.network.config
        configs = [config, config.get_text_config(), getattr(config, "decoder", None)]
        return any(getattr(one, name, None) for one in configs for name in _LOGIT_TRANSFORMS)

    def log_probs(self, rows: Sequence[Choices], below: FrozenBatch | None = None) -> list[torch.Tensor]:
        """Log-probability of each target after its prompt, in nats: one (targets,) tensor in fp32 per row.

        A prompt is read once for all its targets. `below` are the states of the rows' `frozen_rows`.
        """
        logits, labels = self.choice_logits(rows, below)
        each = -F.cross_entropy(logits.float(), to_device(torch.tensor(labels), logits.device), reduction="none")
        per_target = [part.sum() for part in each.split([len(target) for row in rows for target in row.targets])]
        return [torch.stack(part) for part in _in_groups(per_target, [len(row.targets) for row in rows])]

    @abstractmethod
    def choice_logits(
        self, rows: Sequence[Choices], below: FrozenBatch | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        """Logits (positions, vocabulary) where a target's token comes next, target after target, and these tokens."""

    @contextmanager
    def _head_at(self, *places: torch.Tensor) -> Iterator[None]:
        """The head makes logits (places, vocabulary) at these places of its (rows, tokens) input only.

        A hook, because what comes before and after the head (scales, caps, biases) differs from family to family.
        """
        head = self.network.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][places],))
        try:
            yield
        finally:
            hook.remove()

    @property
    def front_ids(self) -> list[int]:
        """What all prompts begin with; none where that can't be read apart from the rest."""
        return []

    @property
    @abstractmethod
    def has_lanes(self) -> bool:
        """Whether this family can be decoded lane by lane; where not, Transformers' `generate` does it by batches."""

    @property
    def shares_prompts(self) -> bool:
        """Whether what a lane remembers of its prompt is held once for all lanes of that prompt."""
        return False

    @abstractmethod
    def start(self, rows: Sequence[Encoded], remembered: Remembered) -> Lanes:
        """Read the prompts; what was computed before under the same weights is not computed again."""

    def generate(self, rows: Sequence[Encoded], decoding: Decoding) -> list[list[Generation]]:
        """By Transformers: families without lanes, and what lanes are held against. A list per row: its candidates."""
        each = decoding.candidates
        if each > 1 and decoding.temperature > 0:
            # As lanes have it, the first of those drawn is the greedy one.
            greedy = self.generate(rows, replace(decoding, temperature=0.0, candidates=1))
            drawn = self._generate(rows, replace(decoding, candidates=each - 1))
            return [[*first, *others] for first, others in zip(greedy, drawn, strict=True)]
        return self._generate(rows, decoding)

    def _generate(self, rows: Sequence[Encoded], decoding: Decoding) -> list[list[Generation]]:
        ids, each = self.generate_ids(rows, decoding), decoding.candidates
        return [
            [self.generation(row, new) for new in ids[number * each : (number + 1) * each]]
            for number, row in enumerate(rows)
        ]

    @torch.inference_mode()
    def generate_ids(self, rows: Sequence[Encoded], decoding: Decoding) -> list[list[int]]:
        """New token ids of each row's candidates, row after row; padding may follow the end token."""
        self.network.eval()
        inputs, skip = self._generation_inputs(rows)
        processors = [NoRepeatedNgrams(decoding.no_repeat_ngram, skip)] if decoding.no_repeat_ngram else []
        config = self._generation_config(decoding)
        with torch.random.fork_rng(devices=[]), self._generating_by(config), quick_attention():
            torch.manual_seed(decoding.seed)
            output = self.network.generate(**inputs, generation_config=config, logits_processor=processors)
        return [sequence[skip:].tolist() for sequence in output]

    @abstractmethod
    def _generation_inputs(self, rows: Sequence[Encoded]) -> tuple[dict[str, torch.Tensor], int]:
        """Inputs of `generate`, and how many tokens of its output are not new."""

    @abstractmethod
    def end_token_ids(self) -> list[int]:
        """Tokens that end a summary."""

    @contextmanager
    def _generating_by(self, config: Any) -> Iterator[None]:
        """Only by this. Transformers fills what a config leaves out from the model's own, which may be a benchmark's:
        bart-large-cnn's asks for 56 tokens at least, Qwen's makes repeated tokens less likely."""
        released = self.network.generation_config
        self.network.generation_config = config
        try:
            yield
        finally:
            self.network.generation_config = released

    def start_settings(self) -> dict[str, Any]:
        """What a family needs to be started, as Transformers' GenerationConfig names it."""
        return {}

    @property
    def target_prefix(self) -> list[int]:
        """What CTranslate2 must be given of each summary."""
        return []

    def _generation_config(self, decoding: Decoding) -> Any:
        from transformers import GenerationConfig

        limit = self.positions.target or decoding.max_new_tokens
        return GenerationConfig(
            **self.start_settings(),
            max_new_tokens=min(decoding.max_new_tokens, limit),
            num_beams=decoding.num_beams,
            num_return_sequences=decoding.candidates,
            do_sample=decoding.temperature > 0,
            temperature=decoding.temperature or None,
            top_p=decoding.top_p if decoding.temperature else None,
            top_k=0 if decoding.temperature else None,
            length_penalty=1.0,
            early_stopping=decoding.num_beams > 1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=self.end_token_ids(),
            pad_token_id=self.pad_token_id,
        )

    @property
    def pad_token_id(self) -> int:
        value = self.tokenizer.pad_token_id
        return int(value if value is not None else self.tokenizer.eos_token_id)

    def generation(self, row: Encoded, new_ids: list[int], near_ties: int | None = None) -> Generation:
        """Token ids as a text without special tokens; what follows an end token is none of it."""
        ends = set(self.end_token_ids())
        length = next((number + 1 for number, token in enumerate(new_ids) if token in ends), None)
        text = self.tokenizer.decode(new_ids[:length], skip_special_tokens=True).strip()
        return Generation(
            text=text,
            prompt_tokens=len(row.prompt_ids),
            new_tokens=len(new_ids) if length is None else length,
            finish_reason="length" if length is None else "stop",
            near_ties=near_ties,
        )

    @cached_property
    def adapters(self) -> Adapters:
        return Adapters(self.network, self.peft)

    def with_prompt(self, prompt: Prompt) -> Self:
        """The same network and adapters, asked in another way."""
        other = copy.copy(self)
        other.adapters = self.adapters
        other.prompt = prompt
        for name in ("front_ids", "_turn_end", "_framing_tokens", "languages"):  # which depend on the prompt
            other.__dict__.pop(name, None)
        return other

    @contextmanager
    def untuned(self) -> Iterator["SummarizerModel"]:
        """The same network with its adapters switched off. RunError where there are none to switch off."""
        if self.peft is None:
            raise RunError("This model's weights are whole or in 8 bits: its untuned self is not in them.")
        with self.adapters.using(None):
            yield self

    @property
    def weights_key(self) -> str:
        """Names the weights that what an engine remembers was computed with."""
        return f"{self.adapters.active} after {self.adapters.loaded} more"

    def count_tokens(self, text: str) -> int:
        """Tokens of a source, as the limit counts them."""
        return len(self.tokenizer(self._as_plain_text(text), add_special_tokens=False)["input_ids"])

    def cut(self, text: str, limit: int) -> tuple[str, float]:
        """The longest beginning of a text that has at most `limit` tokens, and its share of them.

        Only the source is cut, never the prompt.
        """
        text = self._as_plain_text(text)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        count = len(encoded["input_ids"])
        if count <= limit:
            return text, 1.0
        if not self.tokenizer.is_fast:
            return self.tokenizer.decode(encoded["input_ids"][:limit]), limit / count
        return text[: encoded["offset_mapping"][limit - 1][1]], limit / count

    def _as_plain_text(self, text: str) -> str:
        """Break up what would read as a control token: a text must not end its own turn or start another's."""
        for token in self._control_tokens:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def pad(
        self, rows: Sequence[Sequence[int]], value: int, left: bool = False, width: int | None = None
    ) -> torch.Tensor:
        """Rows of token ids as one (rows, width) tensor on the model's device, by default as wide as the longest."""
        width = width or max(map(len, rows))
        fills = [[value] * (width - len(row)) for row in rows]
        padded = [[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, fills, strict=True)]
        return to_device(torch.tensor(padded, dtype=torch.long), self.device)

    def mask(self, rows: Sequence[Sequence[int]], left: bool = False, width: int | None = None) -> torch.Tensor:
        return self.pad([[1] * len(row) for row in rows], 0, left, width)

    def width(self, rows: Sequence[Sized], room: int | None) -> int:
        """How wide to pad rows in training, where `room` tokens have positions (None: no limit); see widths.py."""
        return padded_width(max(map(len, rows)), self.dtype, self.device, room)


def _in_groups(values: Sequence[Any], sizes: Sequence[int]) -> Iterator[Sequence[Any]]:
    start = 0
    for size in sizes:
        yield values[start : start + size]
        start += size
