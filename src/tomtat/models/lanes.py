"""Summaries decoded side by side, a token of each at a time, or several where these were guessed.

Transformers' `generate` runs a batch until its longest summary ends, and copies the whole cache at each token. Here
lanes leave when their summary ends, others join between two tokens, and a prompt is read once for all its candidates.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tomtat.models.cache import GrowingLayer, growing_cache, level
from tomtat.models.shared import Readers, SharedLayer, can_share
from tomtat.models.steps import Seq2SeqSteps, causal_steps, seq2seq_steps


@dataclass(frozen=True)
class Front:
    """What all prompts begin with, read once."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """Keys and values (1, heads, tokens, head width) of each layer."""


@dataclass
class Remembered:
    """What was computed for earlier prompts and holds as long as the weights do."""

    front: Front | None = None
    states: OrderedDict[tuple[int, ...], torch.Tensor] = field(default_factory=OrderedDict)
    """The encoder's states (tokens, width) of the latest sources."""
    token_limit: int = 65_536

    def remember(self, prompt: tuple[int, ...], states: torch.Tensor) -> None:
        self.states[prompt] = states
        while len(self.states) > 1 and sum(map(len, self.states)) > self.token_limit:
            self.states.popitem(last=False)


class Lanes(ABC):
    """What the network remembers of each lane."""

    logits: torch.Tensor
    """(lanes, tokens, vocabulary) for what comes after each of the tokens taken last; of a prompt's only the last one.
    Read it before other lanes join or these leave."""

    _mask: torch.Tensor
    """(lanes, columns), false where a lane has nothing."""

    def __len__(self) -> int:
        return len(self._mask)

    @property
    def takes_several(self) -> bool:
        """Whether `advance` takes more than one token at a time."""
        return True

    @abstractmethod
    def advance(self, tokens: Sequence[list[int]]) -> None:
        """Take one token in each lane, or several where these are guesses: `settle` must then say how many hold."""

    @abstractmethod
    def settle(self, counts: list[int]) -> None:
        """Of the tokens taken last, so many in each lane were right, one at least; the others are forgotten."""

    @abstractmethod
    def keep(self, order: list[int]) -> None:
        """Lane `order[n]` becomes lane n, the others go; `order` comes from `order_of`."""

    @abstractmethod
    def branch(self, sources: list[int], recent: int) -> None:
        """Lane n goes on from lane `sources[n]` of the same prompt; they differ in the last `recent` tokens at most."""

    @abstractmethod
    def repeat(self, times: int) -> None:
        """Each lane this many times, side by side."""

    @abstractmethod
    def join(self, other: Any) -> None:
        """Append another's lanes, which are its own no longer."""


def padded(tokens: Sequence[list[int]], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (lanes, most), and where there are any, on a mask's device."""
    width = max(map(len, tokens))
    ids = torch.tensor([[*row, *row[-1:] * (width - len(row))] for row in tokens], device=like.device)
    lengths = torch.tensor([len(row) for row in tokens], device=like.device)
    return ids, torch.arange(width, device=like.device) < lengths[:, None]


def order_of(alive: list[int]) -> list[int]:
    """Lanes to keep, such that few must move: those from behind fill the gaps."""
    count = len(alive)
    behind = iter(lane for lane in alive if lane >= count)
    staying = set(alive)
    return [lane if lane in staying else next(behind) for lane in range(count)]


TRIMMED_FROM = 32
"""Columns that no lane sees any longer, from which on they are worth being dropped."""


def seen_columns(mask: torch.Tensor) -> tuple[int, int]:
    """First column of a mask (lanes, columns) that any lane sees, and the one after the last."""
    seen = mask.any(0).nonzero()
    return (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)


class CausalLanes(Lanes):
    """Columns are the shared front, then padding, then the prompt's own tokens and the new ones."""

    def __init__(self, network: Any, prompts: Sequence[list[int]], pad: int, front: Front | None) -> None:
        self.network = network
        device = network.get_input_embeddings().weight.device
        start = len(front.ids) if front else 0
        width = max(map(len, prompts)) - start
        ids = [[pad] * (width - len(prompt) + start) + prompt[start:] for prompt in prompts]
        seen = [[1] * start + [0] * (width - len(prompt) + start) + [1] * (len(prompt) - start) for prompt in prompts]
        self._mask = torch.tensor(seen, dtype=torch.bool, device=device)
        self._cache = growing_cache(network, network.config.get_text_config().num_hidden_layers)
        self._readers: Readers | None = None
        """Where prompts lie apart from what lanes write: who reads which."""
        if front:
            for layer, (keys, values) in zip(self._cache.layers, front.layers, strict=True):
                layer.update(*(part.expand(len(prompts), -1, -1, -1) for part in (keys, values)))
        positions = (self._mask.cumsum(1) - 1).clamp_min(0)[:, start:]
        self._positions = positions[:, -1]
        """Of each lane's last token."""
        self.logits = self._read(torch.tensor(ids, device=device), positions, after=1)
        self._steps = causal_steps(network)

    def _read(self, ids: torch.Tensor, positions: torch.Tensor, after: int) -> torch.Tensor:
        output = self.network(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=after,
        )
        logits: torch.Tensor = output.logits
        return logits

    def front(self, ids: list[int]) -> Front:
        """The first lane's memory of these tokens, with which its prompt begins."""
        # A copy of its own, because the rest goes when the lanes do.
        parts = [(layer.keys[:1, :, : len(ids)], layer.values[:1, :, : len(ids)]) for layer in self._cache.layers]
        return Front(ids, [(keys.clone(), values.clone()) for keys, values in parts])

    @property
    def takes_several(self) -> bool:
        return self._readers is None

    def advance(self, tokens: Sequence[list[int]]) -> None:
        ids, seen = padded(tokens, self._mask)
        width = ids.shape[1]
        self._mask = torch.cat([self._mask, seen], 1)
        positions = self._positions[:, None] + torch.arange(1, width + 1, device=ids.device)
        self._positions = positions[:, 0]
        if self._steps:
            self.logits = self._steps(ids, positions, self._mask, self._cache.layers, self._readers)
        else:
            self.logits = self._read(ids, positions, after=width)

    def settle(self, counts: list[int]) -> None:
        # What one lane loses and another keeps stays as a column that the first does not see.
        width, most = self.logits.shape[1], max(counts)
        if most < width:
            self._mask = self._mask[:, : most - width]
            for layer in self._cache.layers:
                layer.drop_last(width - most)
        right = torch.tensor(counts, device=self._mask.device)
        self._mask[:, -most:] &= torch.arange(most, device=right.device) < right[:, None]
        self._positions = self._positions + right - 1

    def keep(self, order: list[int]) -> None:
        index = torch.tensor(order, device=self._mask.device)
        self._mask, self._positions = self._mask[index], self._positions[index]
        for layer in self._cache.layers:
            layer.keep(order)
        if self._readers:
            self._keep_prompts([self._readers.prompt_of[lane] for lane in order])
        self._trim()

    def _keep_prompts(self, prompt_of: list[int]) -> None:
        """Only those that a lane reads."""
        assert self._readers
        kept = order_of(sorted(set(prompt_of)))
        seen, number_of = self._readers.seen, {old: new for new, old in enumerate(kept)}
        if len(kept) < len(seen):
            seen = seen[kept]
            for layer in self._cache.layers:
                layer.prompts.keep(kept)
            first, last = seen_columns(seen)
            if first >= TRIMMED_FROM:
                seen = seen[:, first:last]
                for layer in self._cache.layers:
                    layer.prompts.trim(first, last)
        self._read_by(seen, [number_of[prompt] for prompt in prompt_of])

    def _read_by(self, seen: torch.Tensor, prompt_of: list[int]) -> None:
        self._readers = Readers(seen, prompt_of)
        for layer in self._cache.layers:
            layer.readers = self._readers

    def _share(self) -> None:
        """From now on what was read and written so far lies apart from what lanes write."""
        self._cache.layers = [SharedLayer(layer) for layer in self._cache.layers]
        self._read_by(self._mask, list(range(len(self))))
        self._mask = self._mask[:, :0]

    def _trim(self) -> None:
        """Let go of columns of lanes that left: in a long flight there would be ever more."""
        first, last = seen_columns(self._mask)
        if first >= TRIMMED_FROM:
            # On the right too: what the last ones kept of their guesses, a lane that left may have been alone to see.
            self._mask = self._mask[:, first:last]
            for layer in self._cache.layers:
                layer.trim(first, last)

    def branch(self, sources: list[int], recent: int) -> None:
        for layer in self._cache.layers:
            layer.branch(sources, recent)

    def repeat(self, times: int) -> None:
        if times > 1 and can_share(self.network):
            self._share()
        parts = (self.logits, self._mask, self._positions)
        self.logits, self._mask, self._positions = (part.repeat_interleave(times, 0) for part in parts)
        for layer in self._cache.layers:
            layer.repeat(times)
        if self._readers:
            self._read_by(self._readers.seen, [prompt for prompt in self._readers.prompt_of for _ in range(times)])

    def join(self, other: "CausalLanes") -> None:
        if self._readers and not other._readers:
            other._share()
        if other._readers and not self._readers:
            self._share()
        if self._readers and other._readers:
            count = len(self._readers.seen)
            seen = torch.cat(level(self._readers.seen, other._readers.seen, left=True, dimension=1))
            prompt_of = [*self._readers.prompt_of, *(count + prompt for prompt in other._readers.prompt_of)]
            for ours, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
                ours.prompts.join(theirs.prompts, left=True)
            self._read_by(seen, prompt_of)
        self._mask = torch.cat(level(self._mask, other._mask, left=True, dimension=1))
        self._positions = torch.cat([self._positions, other._positions])
        for ours, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            ours.join(theirs, left=True)


class Seq2SeqLanes(Lanes):
    """The encoder's states of each source, and the decoder's memory.

    Sources have rows of their own where steps of ours read them: several lanes may read one.
    """

    def __init__(self, network: Any, states: torch.Tensor, mask: torch.Tensor, start: int) -> None:
        """`states` (lanes, tokens, width) with `mask` (lanes, tokens) come from the encoder."""
        from transformers.cache_utils import EncoderDecoderCache

        self.network = network
        self._states, self._source_mask = states, mask
        self._read_by(list(range(len(states))))
        config = network.config
        layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
        steps = seq2seq_steps(network)
        # What lanes wrote is short, and our steps read short keys faster in fp32. The source's do not grow.
        own = growing_cache(network, layers, dtype=torch.float32 if steps else None)
        self._cache = EncoderDecoderCache(own, growing_cache(network, layers, room=0))
        self._mask = mask.new_ones(len(states), 0)
        self._steps: Seq2SeqSteps | None = None
        self.advance([[start]] * len(states))
        # The first token by Transformers' own, which lays down the source's keys.
        self._steps = steps

    @property
    def _layers(self) -> list[tuple[GrowingLayer, GrowingLayer]]:
        return list(zip(self._cache.self_attention_cache.layers, self._cache.cross_attention_cache.layers, strict=True))

    def advance(self, tokens: Sequence[list[int]]) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        ids, seen = padded(tokens, self._mask)
        self._mask = torch.cat([self._mask, seen], 1)
        if self._steps:
            self.logits = self._steps(ids, self._mask, self._source_mask, self._layers, self._readers)
            return
        output = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
            attention_mask=self._source_mask,
            decoder_input_ids=ids,
            decoder_attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits = output.logits

    def settle(self, counts: list[int]) -> None:
        # Distances are counted by columns, so no lane may have a hole: what it lost is filled from its left.
        width, most = self.logits.shape[1], max(counts)
        self._mask = self._mask[:, : self._mask.shape[1] - (width - most)]
        for own, _ in self._layers:
            own.drop_last(width - most)
        for lane, count in enumerate(counts):
            if lost := most - count:
                self._mask[lane, lost:] = self._mask[lane, :-lost].clone()
                self._mask[lane, :lost] = False
                for own, _ in self._layers:
                    own.shift(lane, lost)

    def keep(self, order: list[int]) -> None:
        self._mask = self._mask[torch.tensor(order, device=self._mask.device)]
        for own, _ in self._layers:
            own.keep(order)
        self._keep_sources([self._source_of[lane] for lane in order])
        self._trim()

    def _keep_sources(self, source_of: list[int]) -> None:
        """Only those that a lane reads."""
        kept = order_of(sorted(set(source_of)))
        number_of = {old: new for new, old in enumerate(kept)}
        if len(kept) < len(self._source_mask):
            self._states, self._source_mask = self._states[kept], self._source_mask[kept]
            for _, cross in self._layers:
                cross.keep(kept)
        self._read_by([number_of[source] for source in source_of])

    def _read_by(self, source_of: list[int]) -> None:
        self._source_of = source_of
        """Of each lane."""
        has_own = source_of == list(range(len(self._source_mask)))
        self._readers = None if has_own else Readers(self._source_mask, source_of)

    def _trim(self) -> None:
        """Let go of columns of lanes that left, of the decoder's on the left and of the source's on the right."""
        first, end = seen_columns(self._mask)
        if first >= TRIMMED_FROM:
            self._mask = self._mask[:, first:end]
            for own, _ in self._layers:
                own.trim(first, end)
        _, last = seen_columns(self._source_mask)
        if self._source_mask.shape[1] - last >= TRIMMED_FROM:
            self._source_mask, self._states = self._source_mask[:, :last], self._states[:, :last]
            for _, cross in self._layers:
                cross.put(cross.keys[:, :, :last].contiguous(), cross.values[:, :, :last].contiguous())
            self._read_by(self._source_of)

    def branch(self, sources: list[int], recent: int) -> None:
        for own, _ in self._layers:
            own.branch(sources, recent)

    def repeat(self, times: int) -> None:
        self.logits, self._mask = (part.repeat_interleave(times, 0) for part in (self.logits, self._mask))
        for own, _ in self._layers:
            own.repeat(times)
        if self._steps:
            self._read_by([source for source in self._source_of for _ in range(times)])
            return
        parts = (self._states, self._source_mask)
        self._states, self._source_mask = (part.repeat_interleave(times, 0) for part in parts)
        for _, cross in self._layers:
            cross.repeat(times)
        self._read_by(list(range(len(self))))

    def join(self, other: "Seq2SeqLanes") -> None:
        source_of = [*self._source_of, *(len(self._source_mask) + source for source in other._source_of)]
        self._mask = torch.cat(level(self._mask, other._mask, left=True, dimension=1))
        self._states = torch.cat(level(self._states, other._states, left=False, dimension=1))
        self._source_mask = torch.cat(level(self._source_mask, other._source_mask, left=False, dimension=1))
        for (own, cross), (their_own, their_cross) in zip(self._layers, other._layers, strict=True):
            own.join(their_own, left=True)
            cross.join(their_cross, left=False)
        self._read_by(source_of)
