"""Text or chat of any length in, summary out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tomtat.config import build_config
from tomtat.data.rows import BadRow, to_message
from tomtat.engines import Engine, open_engine
from tomtat.errors import DataError
from tomtat.models import NO_LIMITS, Decoding, Encoded, Limits, LongInputs, SummarizerModel
from tomtat.models.decoding import decoding_of
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.ranking import best
from tomtat.run_folder import RunFolder
from tomtat.text.limits import at_most_words, first_sentences, whole_sentences
from tomtat.text.pieces import pieces
from tomtat.types import Generation, Message, Source

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary(Generation):
    """A generation, and what was read for it. Tokens are counted over all pieces."""

    pieces: int = 1
    """How many pieces the source was read in."""
    share_read: float = 1.0
    """Share of the source's tokens that were read; below 1 only where long inputs are truncated."""


@dataclass
class _Node:
    """A source on its way up the tree."""

    text: str
    """What is to be read next: the source, then the joined summaries of its pieces."""
    source: str
    share_read: float = 1.0
    pieces: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    near_ties: int = 0
    parts: list[str] = field(default_factory=list)

    def count(self, generation: Generation) -> None:
        self.prompt_tokens += generation.prompt_tokens
        self.new_tokens += generation.new_tokens
        self.near_ties += generation.near_ties


_INNER = Limits(whole_sentences=True)
"""Of a piece's summary: half a sentence would be read as if it said something."""


class Summarizer:
    """A model with the prompt and limits it was trained with.

    A source over `max_source_tokens` is cut into pieces at its turns or sentences, each piece is summarized, and the
    joined summaries again, until they fit (`long_inputs="tree"`); or only its beginning is read ("truncate").
    """

    def __init__(
        self,
        engine: Engine,
        decoding: Decoding,
        max_source_tokens: int,
        limits: Limits = NO_LIMITS,
        long_inputs: LongInputs = "tree",
    ) -> None:
        self.engine = engine
        self.decoding = decoding
        self.max_source_tokens = max_source_tokens
        self.limits = limits
        self.long_inputs = long_inputs

    @classmethod
    def load(
        cls,
        path: "RunFolder | Path | str",
        device: str = "auto",
        precision: str | None = None,
        base: str | None = None,
        engine: str = "torch",
        progress: Progress | None = None,
    ) -> "Summarizer":
        """From a run folder, an adapter or model folder that a run made, or an untuned model's name.

        `precision` is the run's own if not given, else `auto`;
        `base` says where the adapter's base model lies on this machine, where its name does not;
        `engine` is `torch`, `torch-int8`, `ctranslate2`, or `auto`: the fastest here of those that say the same.
        """
        opened = open_engine(os.fspath(path), engine, device, precision, base, progress)
        return cls(
            opened.engine,
            opened.decoding,
            opened.max_source_tokens,
            opened.limits,
            opened.long_inputs,
        )

    def ask_for(self, generate: Mapping[str, Any]) -> None:
        """Override the model's own [generate] settings, such as {"decode": "mbr", "max_words": 30}."""
        settings = build_config({"generate": dict(generate)}).generate
        given = settings.model_fields_set
        decoding = self.decoding
        if given & {"decode", "num_beams", "candidates", "temperature", "top_p"}:
            if "decode" not in given and "candidates" in given:
                settings = settings.model_copy(update={"decode": "mbr"})
            decoding = replace(
                decoding_of(settings, decoding.max_new_tokens, decoding.seed), no_repeat_ngram=decoding.no_repeat_ngram
            )
        named = {name: getattr(settings, name) for name in given}
        self.decoding = _with(decoding, named, ("max_new_tokens", "no_repeat_ngram"))
        self.limits = _with(self.limits, named, ("max_words", "max_sentences", "whole_sentences", "language"))
        self.long_inputs = named.get("long_inputs", self.long_inputs)

    @property
    def model(self) -> SummarizerModel:
        return self.engine.model

    def __call__(self, source: "Source | Sequence[dict[str, Any]]") -> str:
        """Summary of a text, or of the messages of a chat (`Message` or OpenAI's dictionaries)."""
        return self.generate([as_source(source)])[0].text

    def stream(self, source: "Source | Sequence[dict[str, Any]]") -> Iterator[str]:
        """The summary in pieces as it is written; of a long source, after its pieces were summarized."""
        node = self._nodes([as_source(source)])[0]
        while not self._fits(node.text):
            self._climb([node], Progress(), "pieces")
        row = self._encode(node.text)
        if self.limits != NO_LIMITS or self.decoding.candidates > 1:
            yield self._best(self.engine.candidates([row], self.decoding)[0], node).text
            return
        for piece in self.engine.stream(row, self.decoding):
            if isinstance(piece, str):
                yield piece

    def generate(
        self, sources: Iterable[Source], progress: Progress | None = None, name: str = "summarizing"
    ) -> list[Summary]:
        """One summary per source, in order. All pieces of all sources go through the engine together."""
        progress = progress or Progress()
        nodes = self._nodes(sources)
        while long := [node for node in nodes if not self._fits(node.text)]:
            self._climb(long, progress, f"{name}: pieces")
        rows = [self._encode(node.text) for node in nodes]
        found = self.engine.candidates(rows, self.decoding, progress, name)
        return [self._best(candidates, node) for candidates, node in zip(found, nodes, strict=True)]

    def _nodes(self, sources: Iterable[Source]) -> list[_Node]:
        texts = [source_text(source) for source in sources]
        if self.long_inputs == "tree":
            return [_Node(text, text) for text in texts]
        read = [self.model.cut(text, self.max_source_tokens) for text in texts]
        return [_Node(kept, text, share) for text, (kept, share) in zip(texts, read, strict=True)]

    def _fits(self, text: str) -> bool:
        # A token has at least one byte, and a tokenizer may put one before the first: a short text need not be counted.
        return len(text.encode()) < self.max_source_tokens or self._count(text) <= self.max_source_tokens

    def _count(self, text: str) -> int:
        return self.engine.count_tokens(text)

    def _encode(self, text: str) -> Encoded:
        return self.model.encode(text, None, self.max_source_tokens)

    def _climb(self, nodes: Sequence[_Node], progress: Progress, name: str) -> None:
        """One level: each node's text becomes the joined summaries of its pieces."""
        rows: list[Encoded] = []
        owners: list[_Node] = []
        for node in nodes:
            found = [self._encode(piece) for piece in pieces(node.text, self._count, self.max_source_tokens)]
            node.pieces = node.pieces or len(found)
            node.parts = []
            rows += found
            owners += [node] * len(found)
        for node, candidates in zip(owners, self.engine.candidates(rows, self._inner, progress, name), strict=True):
            for candidate in candidates:
                node.count(candidate)
            node.parts.append(held_to(_INNER, candidates[0]))
        for node in nodes:
            # A model that says nothing of each piece leaves the beginning to be read.
            node.text = "\n".join(filter(None, node.parts)) or self.model.cut(node.source, self.max_source_tokens)[0]

    @property
    def _inner(self) -> Decoding:
        """Of pieces: one candidate each, and so short that each level is at most half as long as the one below."""
        limit = max(1, self.max_source_tokens // 4)
        short = min(self.decoding.max_new_tokens, limit)
        return replace(self.decoding, max_new_tokens=short, candidates=1, temperature=0.0)

    def _best(self, candidates: Sequence[Generation], node: _Node) -> Summary:
        for candidate in candidates:
            node.count(candidate)
        texts = [held_to(self.limits, candidate) for candidate in candidates]
        number = best(texts, node.source, self.limits.language) if len(texts) > 1 else 0
        values = asdict(candidates[number]) | {
            "text": texts[number],
            "prompt_tokens": node.prompt_tokens,
            "new_tokens": node.new_tokens,
            "near_ties": node.near_ties,
        }
        return Summary(**values, pieces=node.pieces or 1, share_read=node.share_read)


def _with(value: T, named: Mapping[str, Any], names: Sequence[str]) -> T:
    """The same with those of the names that are given."""
    return replace(value, **{name: named[name] for name in names if name in named})  # type: ignore[type-var]


def held_to(limits: Limits, generation: Generation) -> str:
    """A generation's text within the limits asked for."""
    text = generation.text
    if generation.finish_reason == "length" and limits.whole_sentences:
        text = whole_sentences(text)
    if limits.max_sentences is not None:
        text = first_sentences(text, limits.max_sentences)
    return at_most_words(text, limits.max_words) if limits.max_words is not None else text


def as_source(source: "Source | Sequence[dict[str, Any] | Message]") -> Source:
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
