"""What a model's family asks of the data before training: a language by name, and summaries that have a place."""

from collections.abc import Mapping
from dataclasses import replace

from tomtat.errors import DataError
from tomtat.models import SummarizerModel
from tomtat.models.families import is_told_languages
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.text import language_of
from tomtat.types import Example

LOOKED_AT = 500
"""Rows whose letters tell the language."""


def told_languages(model: SummarizerModel, train: list[Example], progress: Progress) -> SummarizerModel:
    """The model with the languages that it reads and writes, where its family is told them: as the recipe says, else
    as the texts look."""
    if not is_told_languages(model.tokenizer):
        return model
    rows = train[:LOOKED_AT]
    read = model.prompt.language or language_of(source_text(row.source) for row in rows)
    written = model.prompt.summary_language or language_of(row.references[0] for row in rows)
    progress.note(
        f"{model.source.name} is told that texts are {read!r} and summaries {written!r}; where that is wrong, say it "
        "by prompt.language and prompt.summary_language"
    )
    told = model.with_prompt(replace(model.prompt, language=read, summary_language=written))
    told.target("")  # a language without a code is an error now, not in the middle of training
    return told


def require_positions(model: SummarizerModel, examples: Mapping[str, list[Example]]) -> None:
    """A summary that a network has no places for can't be learned. Long sources are only cut, and that is told.

    Raises: DataError, naming the first such row.
    """
    places = model.positions.target if model.is_encoder_decoder else model.positions.source
    if places is None:
        return
    for part in ("train", "validation"):
        for row in examples.get(part, []):
            summary = row.references[0]
            # No token is shorter than a byte, but for a few at the ends; so few summaries need counting.
            if len(summary.encode()) + 4 > places and (tokens := len(model.target(summary))) > places:
                raise DataError(
                    f"data.{part}, row {row.id!r}: its summary has {tokens:,} tokens, and {model.source.name} has "
                    f"{places:,} positions. Shorten it, leave it out, or take a model that counts distances (T5)."
                )
