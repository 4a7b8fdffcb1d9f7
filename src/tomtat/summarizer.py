"""Text or chat of any length in, summary out."""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tomtat.asking import completed
from tomtat.config import build_config
from tomtat.data.rows import as_source
from tomtat.engines import Engine, open_engine
from tomtat.errors import ConfigError
from tomtat.models import NO_LIMITS, Decoding, Encoded, Limits, LongInputs, SummarizerModel
from tomtat.models.decoding import decoding_of
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.ranking import best
from tomtat.run_folder import RunFolder
from tomtat.text.limits import at_most_words, first_sentences, whole_sentences
from tomtat.text.pieces import pieces
from tomtat.types import Generation, Source, Summary, total

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an engine is to write on the way to a summary: of some pieces, or at last of the whole."""

    rows: list[Encoded]
    decoding: Decoding
    is_last: bool


Answers = Sequence[Sequence[Generation]]
"""`decoding.candidates` generations per row."""


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
    near_ties: int | None = 0

    def count(self, generation: Generation) -> None:
        self.prompt_tokens += generation.prompt_tokens
        self.new_tokens += generation.new_tokens
        self.near_ties = total((self.near_ties, generation.near_ties))


ENGINES_OWN = {"batch_tokens", "lookup_tokens"}
"""Settings that hold for all that an engine writes from then on."""
WAYS = {"decode", "num_beams", "candidates", "temperature", "top_p"}
"""[generate] settings that say how to decode."""
DRAWN_TEMPERATURE = 0.7
"""Of `draw`: the one that candidates for training are drawn with too."""
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
        name: str = "",
    ) -> None:
        self.name = name or engine.name
        """What it was loaded from."""
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
        `engine` is `torch`, `torch-int8`, `ctranslate2`, or `auto`: the fastest here of those that agree with torch.
        """
        opened = open_engine(os.fspath(path), engine, device, precision, base, progress)
        return cls(
            opened.engine,
            opened.decoding,
            opened.max_source_tokens,
            opened.limits,
            opened.long_inputs,
            os.fspath(path),
        )

    def ask_for(self, generate: Mapping[str, Any]) -> None:
        """Override the model's own [generate] settings, such as {"decode": "mbr", "max_words": 30}.

        What isn't given stays as the model has it, as far as it decodes in the same way.

        Raises: ConfigError for what is no setting, and for what would change nothing (`asking.completed`).
        """
        asked = completed(generate, self.decoding.method)
        if useless := [name for name in ENGINES_OWN & set(asked) if not hasattr(self.engine, name)]:
            raise ConfigError(f"{useless[0]} changes nothing with engine {self.engine.name}. Leave it out.")
        decoding, settings = self.decoding, build_config({"generate": dict(asked)}).generate
        if WAYS & set(asked):
            way = settings.way if asked.get("decode") or "num_beams" in asked else decoding.method
            own = _drawn_by(decoding) if way == decoding.method else {}
            settings = build_config({"generate": {**own, **asked, "decode": way}}).generate
            decoding = replace(
                decoding_of(settings, decoding.max_new_tokens, decoding.seed), no_repeat_ngram=decoding.no_repeat_ngram
            )
        named = {name: getattr(settings, name) for name in asked}
        self.decoding = _with(decoding, named, ("max_new_tokens", "no_repeat_ngram"))
        self.limits = _with(self.limits, named, ("max_words", "max_sentences", "whole_sentences", "language"))
        self.long_inputs = named.get("long_inputs", self.long_inputs)
        for name in ENGINES_OWN & set(named):
            setattr(self.engine, name, named[name])

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
        if not self.tells_as_it_writes:
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
        nodes = self._read(sources, progress, name)
        rows = [self._encode(node.text) for node in nodes]
        found = self.engine.candidates(rows, self.decoding, progress, name)
        return [self._best(candidates, node) for candidates, node in zip(found, nodes, strict=True)]

    def draw(self, sources: Iterable[Source], count: int) -> list[list[Generation]]:
        """`count` other summaries of each source, drawn at random: for those whose first one can't be used."""
        nodes = self._read(sources, Progress(), "summarizing")
        found = self.engine.candidates([self._encode(node.text) for node in nodes], self._drawn(count))
        return [self._others(drawn, node) for drawn, node in zip(found, nodes, strict=True)]

    def count_tokens(self, text: str) -> int:
        """What `max_source_tokens` is counted in."""
        return self._count(text)

    def reading(self, source: Source) -> Generator[Asked, Answers, Summary]:
        """The way to one summary, for who runs the engine: says what is to be written next, and takes the answers."""
        node = yield from self._climbing(source)
        (candidates,) = yield Asked([self._encode(node.text)], self.decoding, is_last=True)
        return self._best(candidates, node)

    def drawing(self, source: Source, count: int) -> Generator[Asked, Answers, list[Generation]]:
        """The same for `draw`."""
        node = yield from self._climbing(source)
        (candidates,) = yield Asked([self._encode(node.text)], self._drawn(count), is_last=True)
        return self._others(candidates, node)

    @property
    def tells_as_it_writes(self) -> bool:
        """Whether what is written first is what the summary begins with."""
        return self.limits == NO_LIMITS and self.decoding.candidates == 1

    def _climbing(self, source: Source) -> Generator[Asked, Answers, _Node]:
        (node,) = self._nodes([source])
        while not self._fits(node.text):
            answers = yield Asked(self._cut(node), self._inner, is_last=False)
            self._join(node, answers)
        return node

    def _read(self, sources: Iterable[Source], progress: Progress, name: str) -> list["_Node"]:
        """The sources, those that are too long as the joined summaries of their pieces."""
        nodes = self._nodes(sources)
        while long := [node for node in nodes if not self._fits(node.text)]:
            self._climb(long, progress, f"{name}: pieces")
        return nodes

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
        cut = [self._cut(node) for node in nodes]
        rows = [row for rows in cut for row in rows]
        answers = iter(self.engine.candidates(rows, self._inner, progress, name))
        for node, rows in zip(nodes, cut, strict=True):
            self._join(node, list(islice(answers, len(rows))))

    def _cut(self, node: _Node) -> list[Encoded]:
        found = [self._encode(piece) for piece in pieces(node.text, self._count, self.max_source_tokens)]
        node.pieces = node.pieces or len(found)
        return found

    def _join(self, node: _Node, answers: Answers) -> None:
        parts = []
        for candidates in answers:
            for candidate in candidates:
                node.count(candidate)
            parts.append(held_to(_INNER, candidates[0]))
        # A model that says nothing of each piece leaves the beginning to be read.
        node.text = "\n".join(filter(None, parts)) or self.model.cut(node.source, self.max_source_tokens)[0]

    @property
    def _inner(self) -> Decoding:
        """Of pieces: one candidate each, and so short that each level is at most half as long as the one below."""
        limit = max(1, self.max_source_tokens // 4)
        short = min(self.decoding.max_new_tokens, limit)
        return replace(self.decoding, max_new_tokens=short, candidates=1, temperature=0.0)

    def _drawn(self, count: int) -> Decoding:
        # The first of several candidates is the greedy one, which is no other.
        return replace(self.decoding, num_beams=1, candidates=count + 1, temperature=DRAWN_TEMPERATURE)

    def _others(self, drawn: Sequence[Generation], node: _Node) -> list[Generation]:
        """Summaries too, so that of these as well is known how much of the source was read."""
        return [
            Summary(
                **asdict(one) | {"text": held_to(self.limits, one)},
                pieces=node.pieces or 1,
                share_read=node.share_read,
            )
            for one in drawn[1:]
        ]

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


def _drawn_by(decoding: Decoding) -> dict[str, Any]:
    """A way of decoding as [generate] settings, without those that it has no use for."""
    if decoding.method == "beam":
        return {"num_beams": decoding.num_beams}
    if decoding.method == "greedy":
        return {}
    several = {"candidates": decoding.candidates} if decoding.candidates > 1 else {}
    return {"temperature": decoding.temperature, "top_p": decoding.top_p, **several}


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
