"""How summaries are generated, and how the next token is chosen."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from tomtat.config import GenerateSettings
from tomtat.models.lookup import Lookup

Method = Literal["greedy", "beam", "sample", "mbr"]

NEAR_TIE = 1e-4
"""Two logits this close are told apart by rounding, which differs with the batch: such choices are counted."""


@dataclass(frozen=True)
class Decoding:
    """How summaries are generated. It travels with an adapter."""

    max_new_tokens: int
    num_beams: int = 1
    no_repeat_ngram: int = 0
    temperature: float = 0.0
    """Above 0, tokens are drawn at random; logits are divided by it."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    candidates: int = 1
    """Above 1, this many summaries are drawn, and the one of least Bayes risk is taken."""
    seed: int = 0

    @property
    def lanes(self) -> int:
        """How many summaries of a prompt are written side by side."""
        return max(self.num_beams, self.candidates)

    @property
    def method(self) -> Method:
        if self.candidates > 1:
            return "mbr"
        if self.temperature > 0:
            return "sample"
        return "beam" if self.num_beams > 1 else "greedy"


LIKELIEST = 1024
"""Tokens among which a nucleus is looked for at first."""

LongInputs = Literal["tree", "truncate"]


@dataclass(frozen=True)
class Limits:
    """What a summary is held to after it was generated."""

    max_words: int | None = None
    max_sentences: int | None = None
    whole_sentences: bool = False
    """Drop the half sentence where the token limit cut a summary."""
    language: str | None = None
    """ISO 639-1 code; among candidates, those in this language go first."""


NO_LIMITS = Limits()


BEAMS = 4
"""Where beams are asked for and no number is said."""


def decoding_of(settings: GenerateSettings, max_new_tokens: int, seed: int = 0) -> Decoding:
    """What the settings say for a model whose summaries have at most so many tokens."""
    decode = settings.way
    decoding = Decoding(settings.max_new_tokens or max_new_tokens, no_repeat_ngram=settings.no_repeat_ngram, seed=seed)
    if decode == "beam":
        return replace(decoding, num_beams=settings.num_beams if settings.num_beams > 1 else BEAMS)
    if decode in ("sample", "mbr"):
        candidates = settings.candidates if decode == "mbr" else 1
        return replace(decoding, temperature=settings.temperature, top_p=settings.top_p, candidates=candidates)
    return decoding


def limits_of(settings: GenerateSettings) -> Limits:
    return Limits(settings.max_words, settings.max_sentences, settings.whole_sentences, settings.language)


@dataclass
class Lane:
    """One summary on its way."""

    prompt_ids: list[int]
    decoding: Decoding
    copy: int = 0
    """Which of its prompt's candidates it is."""
    ids: list[int] = field(default_factory=list)
    near_ties: int = 0
    draws: torch.Tensor | None = None
    """One number in [0, 1) per token, drawn beforehand: so a summary does not depend on its neighbours."""
    _lookup: Lookup | None = None

    def __post_init__(self) -> None:
        # The first of several candidates is the greedy one: among them should be what would have been said anyway.
        if self.decoding.temperature > 0 and not (self.copy == 0 and self.decoding.candidates > 1):
            self.draws = draws(self.decoding, self.prompt_ids, self.copy)

    def guess(self, most: int) -> list[int]:
        """Tokens that may come next, at most so many and none beyond the limit."""
        if self._lookup is None:
            self._lookup = Lookup(self.prompt_ids)
        # One more is chosen after those that were guessed.
        return self._lookup.guess(self.ids, min(most, self.decoding.max_new_tokens - len(self.ids) - 1))


def draws(decoding: Decoding, prompt_ids: list[int], copy: int) -> torch.Tensor:
    """The random numbers of a lane (max_new_tokens,), from the seed, its prompt and its number among the candidates."""
    name = repr((decoding.seed, copy, prompt_ids)).encode()
    seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
    return torch.rand(decoding.max_new_tokens, generator=torch.Generator().manual_seed(seed))


def choose(logits: torch.Tensor, lanes: list[Lane]) -> list[int]:
    """The next token of each lane, from `logits` (lanes, vocabulary)."""
    scores = logits.float()
    scores = without_repeats(scores, lanes)
    best, likeliest = scores.topk(2)
    tokens: list[int] = likeliest[:, 0].tolist()
    for number in ((best[:, 0] - best[:, 1]) < NEAR_TIE).nonzero().flatten().tolist():
        lanes[number].near_ties += 1
    if drawing := [number for number, lane in enumerate(lanes) if lane.draws is not None]:
        for number, token in zip(drawing, _drawn(scores[drawing], [lanes[n] for n in drawing]), strict=True):
            tokens[number] = token
    return tokens


def without_repeats(scores: torch.Tensor, lanes: list[Lane]) -> torch.Tensor:
    """`scores` (lanes, vocabulary), minus infinity where a token would complete an n-gram that stands there already."""
    if not any(lane.decoding.no_repeat_ngram for lane in lanes):
        return scores
    scores = scores.clone()
    for number, lane in enumerate(lanes):
        size = lane.decoding.no_repeat_ngram
        if size and (banned := continuations(lane.ids, size)):
            scores[number, banned] = -torch.inf
    return scores


def _drawn(scores: torch.Tensor, lanes: list[Lane]) -> list[int]:
    """Inverse of the cumulative probability at each lane's next number, over the nucleus in the vocabulary's order.

    Not the likeliest first: two tokens as good as equally likely would change places with the rounding of a batch, and
    with them what is drawn.
    """

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=scores.device)[:, None]

    scores = scores / column([lane.decoding.temperature for lane in lanes])
    likely = scores.softmax(-1)
    if any(lane.decoding.top_p < 1 for lane in lanes):
        likely = _nucleus(likely, column([lane.decoding.top_p for lane in lanes]))
    total = likely.cumsum(-1)
    where = column([float(lane.draws[len(lane.ids)]) for lane in lanes if lane.draws is not None]) * total[:, -1:]
    last = (total < total[:, -1:]).sum(-1, keepdim=True)
    drawn: list[int] = torch.minimum(torch.searchsorted(total, where, right=True), last).flatten().tolist()
    return drawn


def _nucleus(likely: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Probabilities (lanes, vocabulary) of the fewest tokens that together have at least top_p (lanes, 1), else zero.

    Holtzman et al. 2020, arXiv:1904.09751. The likeliest are nearly always enough, and sorting all takes as long as
    the network.
    """
    sure, order = likely.topk(min(LIKELIEST, likely.shape[-1]))
    before = sure.cumsum(-1) - sure
    if bool((before[:, -1:] + sure[:, -1:] < top_p).any()):
        sure, order = likely.sort(descending=True)
        before = sure.cumsum(-1) - sure
    return torch.zeros_like(likely).scatter(-1, order, sure * (before < top_p))


def continuations(ids: list[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of this size which stands in `ids` already."""
    keep = size - 1
    last = ids[len(ids) - keep :]
    return [ids[start + keep] for start in range(len(ids) - keep) if ids[start : start + keep] == last]
