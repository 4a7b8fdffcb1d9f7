"""Text or chat in, summary out."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tomtat.config import ModelSettings, PromptSettings
from tomtat.data.rows import BadRow, to_message
from tomtat.engines import TorchEngine
from tomtat.errors import DataError
from tomtat.models import Decoding, Encoded, SummarizerModel, load_base, load_trained
from tomtat.models.loading import TRAINED_FILE, place
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.run_folder import RunFolder
from tomtat.types import Generation, Message, Source

UNTUNED_NEW_TOKENS = 128
"""Limit for a model nobody has fine-tuned, whose data therefore says nothing about lengths."""

UNTUNED_SOURCE_TOKENS = 1024


class Summarizer:
    """A model with the prompt and limits it was trained with."""

    def __init__(
        self, model: SummarizerModel, decoding: Decoding, max_source_tokens: int, batch_tokens: int = 8192
    ) -> None:
        self.model = model
        self.engine = TorchEngine(model, batch_tokens)
        self.decoding = decoding
        self.max_source_tokens = max_source_tokens

    @classmethod
    def load(
        cls,
        path: "RunFolder | Path | str",
        device: str = "auto",
        precision: str | None = None,
        base: str | None = None,
    ) -> "Summarizer":
        """From a run folder, an adapter or model folder that a run made, or an untuned model's name.

        `precision` is the run's own if not given, else `auto`;
        `base` says where the adapter's base model lies on this machine, where its name does not.
        """
        folder = Path(os.fspath(path))
        if (folder / "config.toml").is_file():
            run = RunFolder.open(folder)
            model, info = load_trained(run.trained_path, device, precision or run.config.model.precision, base)
            return cls(model, info.decoding, info.max_source_tokens, run.config.generate.batch_tokens)
        if (folder / TRAINED_FILE).is_file():
            model, info = load_trained(folder, device, precision or "auto", base)
            return cls(model, info.decoding, info.max_source_tokens)
        model = load_base(ModelSettings(name=str(path)), PromptSettings())
        place(model, ModelSettings.model_construct(device=device, precision=precision or "auto"))
        return cls(model, Decoding(UNTUNED_NEW_TOKENS), UNTUNED_SOURCE_TOKENS)

    def __call__(self, source: "Source | Sequence[dict[str, Any]]") -> str:
        """Summary of a text, or of the messages of a chat (`Message` or OpenAI's dictionaries)."""
        return self.generate([_as_source(source)])[0].text

    def generate(
        self, sources: Iterable[Source], progress: Progress | None = None, name: str = "summarizing"
    ) -> list[Generation]:
        """One generation per source, in order."""
        return self.engine.generate(self.encode(sources), self.decoding, progress, name)

    def encode(self, sources: Iterable[Source]) -> list[Encoded]:
        return [self.model.encode(source_text(source), None, self.max_source_tokens) for source in sources]


def _as_source(source: "Source | Sequence[dict[str, Any] | Message]") -> Source:
    if isinstance(source, str):
        if not source.strip():
            raise DataError("The text to summarize is empty.")
        return source.strip()
    if not source:
        raise DataError("The conversation to summarize has no messages.")
    try:
        return tuple(
            item if isinstance(item, Message) else to_message(item, number) for number, item in enumerate(source, 1)
        )
    except BadRow as error:
        raise DataError(f"The conversation can't be read: {error}.") from None
