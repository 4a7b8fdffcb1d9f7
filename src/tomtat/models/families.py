"""What differs between families of models, read from their configs and tokenizers rather than from their names.

`docs/families.md` says which families are tested, and what is known of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tomtat.config import PromptSettings
from tomtat.errors import ConfigError
from tomtat.prompts import CHAT_TEMPLATE, PLAIN_TEMPLATE, SEQ2SEQ_TEMPLATE, Prompt, choose_prompt

_ABSOLUTE = ("max_encoder_position_embeddings", "max_position_embeddings", "max_source_positions")
_ABSOLUTE_TARGET = ("max_decoder_position_embeddings", "max_position_embeddings", "max_target_positions")


def default_prompt(settings: PromptSettings, model_type: str, is_encoder_decoder: bool) -> Prompt:
    """The prompt that settings ask for, or that a family is used to: T5's kind reads a prefix, BART's the bare text."""
    if not is_encoder_decoder:
        return choose_prompt(settings, CHAT_TEMPLATE)
    return choose_prompt(settings, SEQ2SEQ_TEMPLATE if "t5" in model_type else PLAIN_TEMPLATE)


@dataclass(frozen=True)
class Positions:
    """How many tokens a network has places for; None where it counts distances, and length costs memory only."""

    source: int | None = None
    """Of a prompt; of a causal model, of prompt and summary together."""
    target: int | None = None
    """Of an encoder-decoder's summary."""


def positions_of(config: Mapping[str, Any], is_encoder_decoder: bool) -> Positions:
    """From a model's config as a mapping."""
    if is_encoder_decoder:
        return Positions(_first(config, _ABSOLUTE), _first(config, _ABSOLUTE_TARGET))
    return Positions(_first(config.get("text_config") or config, ("max_position_embeddings",)))


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(config[name]) for name in names if config.get(name)), None)


@dataclass(frozen=True)
class Languages:
    """The tokens by which mBART is told the language of a text and of its summary."""

    source: int
    summary: int
    end: int
    code_first: bool
    """mBART-50 writes `en_XX text </s>`; mBART-25 `text </s> en_XX`, and starts its decoder with the code."""

    def around_source(self, ids: list[int]) -> list[int]:
        return [self.source, *ids, self.end] if self.code_first else [*ids, self.end, self.source]

    def around_summary(self, ids: list[int]) -> list[int]:
        return [self.summary, *ids, self.end] if self.code_first else [*ids, self.end]

    @property
    def decoder_start(self) -> int:
        return self.end if self.code_first else self.summary


def is_told_languages(tokenizer: Any) -> bool:
    return type(tokenizer).__name__.startswith("MBart")


def languages_of(tokenizer: Any, prompt: Prompt, model: str) -> Languages | None:
    """None for tokenizers without codes. English where the prompt says no language.

    Raises: ConfigError for a language without a code.
    """
    if not is_told_languages(tokenizer):
        return None
    source, summary = (prompt.language or "en"), (prompt.summary_language or prompt.language or "en")
    return Languages(
        source=_code(tokenizer, source, "prompt.language", model),
        summary=_code(tokenizer, summary, "prompt.summary_language", model),
        end=int(tokenizer.eos_token_id),
        code_first=type(tokenizer).__name__.startswith("MBart50"),
    )


def _code(tokenizer: Any, language: str, setting: str, model: str) -> int:
    codes = {name.partition("_")[0]: name for name in tokenizer.lang_code_to_id}
    name = language if language in tokenizer.lang_code_to_id else codes.get(language)
    if name is None:
        raise ConfigError(f"{setting} = {language!r}: {model} knows {', '.join(sorted(codes))}.")
    return int(tokenizer.lang_code_to_id[name])


def target_front(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before each summary: BART's `<s>`; nothing for T5 and PEGASUS."""
    ids = tokenizer(text_target="a")["input_ids"]
    # A tokenizer that knows no "a" says that it is unknown; that is no beginning.
    front = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return list(takewhile(front.__contains__, ids))
