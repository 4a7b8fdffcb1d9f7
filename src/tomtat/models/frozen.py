"""Where the frozen part of a network ends, and how the rest runs from there.

What lies below the lowest trained weight says the same of a text in each epoch: the whole encoder where adapters sit in
the decoder alone, or the lower layers of an encoder or of a causal model. Its states are computed once per row, and
training/cache.py keeps them.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tomtat.models.devices import to_device
from tomtat.models.families import positions_of
from tomtat.models.packing import Packed, PackedRow
from tomtat.models.shards import idle, whole
from tomtat.models.widths import padded_width

SAVES_FROM = 0.1
"""Share of a stack's layers that must be frozen: to read the states of one layer in thirty costs what it saves."""

STORED = torch.bfloat16
"""What states are rounded to, whether they are kept or not, so that a result never depends on what was kept."""

ARITHMETIC = 4
"""Raised when the code that computes states changes their last bits, so that older ones are not taken for them."""

UNCUT = ("led", "longt5")
"""Families whose encoders read in windows, by inputs and biases of their own: they are always run whole."""

FrozenRow = list[int] | PackedRow
"""Token ids, or those of a prompt and several targets in one, each with its place and what it may look at."""

FINAL_NORMS = ("norm", "final_layer_norm", "layer_norm", "ln_f")
"""Names of what stands between a stack's last layer and its output."""


class FrozenPart:
    """The lower layers of a stack, from its embeddings up to `first`, the lowest layer that trains."""

    def __init__(self, network: Any, stack: Any, layers: nn.ModuleList, first: int) -> None:
        self.network = network
        self.stack = stack
        self.layers = layers
        self.first = first
        self.room = positions_of(network.config.to_dict(), bool(network.config.is_encoder_decoder)).source
        """Tokens that the stack has positions for; None without a limit."""

    @property
    def is_whole(self) -> bool:
        """Whether the last layer's output, normalised, is frozen too."""
        return self.first == len(self.layers)

    @property
    def width(self) -> int:
        return int(self.network.get_input_embeddings().embedding_dim)

    def __str__(self) -> str:
        name = "the encoder" if self.network.config.is_encoder_decoder else "the model"
        return f"all of {name}" if self.is_whole else f"{self.first} of {len(self.layers)} layers of {name}"

    @torch.inference_mode()
    def states(self, row: FrozenRow) -> torch.Tensor:
        """What leaves the frozen part for one row: (tokens, width) in the network's dtype, without dropout.

        A row goes alone: in a batch its last bits would depend on its neighbours, and so on what was computed before.
        """
        was_training = self.network.training
        self.network.eval()
        try:
            with ExitStack() as stack:
                caught: list[torch.Tensor] = []
                if not self.is_whole:
                    stack.enter_context(self._caught_below(caught))
                output = self.stack(**self._inputs(row), **self.quietly).last_hidden_state
                return (output if self.is_whole else caught[0])[0, : len(row)]
        finally:
            self.network.train(was_training)

    def _inputs(self, row: FrozenRow) -> dict[str, torch.Tensor]:
        weight = next(self.stack.parameters())
        width = padded_width(len(row), weight.dtype, weight.device, self.room)
        if isinstance(row, PackedRow):
            packed = Packed.of([row], 0, weight.device, width)
            return {"input_ids": packed.ids, **packed.layout(weight.dtype)}
        inputs = {"input_ids": torch.tensor([row + [0] * (width - len(row))])}
        if self.network.config.is_encoder_decoder:
            # A causal model never looks to the right, where the padding stands.
            inputs["attention_mask"] = (torch.arange(width) < len(row)).long()[None]
        return {name: to_device(tensor, weight.device) for name, tensor in inputs.items()}

    @property
    def quietly(self) -> dict[str, Any]:
        return {} if self.network.config.is_encoder_decoder else {"use_cache": False}

    @contextmanager
    def _caught_below(self, caught: list[torch.Tensor]) -> Iterator[None]:
        """The first trained layer keeps what comes to it, and it and those above do nothing."""

        def keep(hidden: torch.Tensor, *_: Any, **__: Any) -> Any:
            caught.append(hidden)
            return _shaped(self.layers[self.first], hidden, None)

        above = {layer: _passing(layer) for layer in self.layers[self.first + 1 :]}
        with self.patched({self.layers[self.first]: keep, **above}):
            yield

    @contextmanager
    def patched(self, forwards: dict[Any, Callable[..., Any]]) -> Iterator[None]:
        # The layers stay the modules they are, because stacks ask them for their kind of attention.
        for layer, forward in forwards.items():
            layer.__dict__["forward"] = forward if _makes_bias(layer) else idle(forward)
        try:
            yield
        finally:
            for layer in forwards:
                layer.__dict__.pop("forward", None)

    def key(self) -> str:
        """SHA-256 of everything that the stored bits depend on but the row itself."""
        digest = hashlib.sha256()
        above = {id(parameter) for layer in self.layers[self.first :] for parameter in layer.parameters()}
        for name, weight in sorted(self.stack.named_parameters()):
            if id(weight) not in above and not weight.requires_grad:
                digest.update(name.encode())
                # A copy: what numpy has looked into can't be let go of, as shards are.
                content = whole(weight).detach().cpu().clone(memory_format=torch.contiguous_format)
                digest.update(content.view(torch.uint8).numpy())
        config = self.network.config.to_dict()
        config.pop("_name_or_path", None)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        weight = next(self.stack.parameters())
        # How sums are ordered, and with it the last bits, depends on the number of threads and the processor's kind.
        where = (
            weight.device.type,
            str(weight.dtype),
            torch.get_num_threads(),
            torch.backends.cpu.get_cpu_capability(),
        )
        digest.update(repr((self.first, *where, str(STORED), torch.__version__, ARITHMETIC)).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class FrozenBatch:
    """Rows' states that the frozen part left, padded on the right: (rows, tokens, width)."""

    part: FrozenPart
    states: torch.Tensor

    @classmethod
    def of(cls, part: FrozenPart, states: Sequence[torch.Tensor]) -> "FrozenBatch":
        """`states` (tokens, width) of each row, in any dtype, on the CPU."""
        weight = next(part.stack.parameters())
        padded = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        longest = padded.shape[1]
        width = padded_width(longest, weight.dtype, weight.device, part.room)
        padded = torch.nn.functional.pad(padded, (0, 0, 0, width - longest))
        return cls(part, to_device(padded, weight.device).to(weight.dtype))

    def run(self, mask: torch.Tensor | None) -> torch.Tensor:
        """The stack's output (rows, tokens, width)."""
        part = self.part
        if part.is_whole:
            return self.states
        # Embedded for its shape alone: the layers below give the states in place of what comes in.
        nothing = torch.zeros(self.states.shape[:2], dtype=torch.long, device=self.states.device)
        with self.entering():
            output: torch.Tensor = part.stack(input_ids=nothing, attention_mask=mask, **part.quietly).last_hidden_state
        return output

    def entering(self) -> AbstractContextManager[None]:
        """Within, the part's layers are not run but give their states, whatever comes in."""
        layers = self.part.layers[: self.part.first]
        return self.part.patched({layer: _giving(layer, self.states) for layer in layers})


def frozen_part(network: Any) -> FrozenPart | None:
    """The frozen part that is worth its own run; None where training reaches (nearly) to the embeddings."""
    is_encoder_decoder = network.config.is_encoder_decoder
    if network.config.model_type in UNCUT:
        return None
    stack = network.get_encoder() if is_encoder_decoder else network.get_decoder()
    layers = next((child for child in stack.children() if isinstance(child, nn.ModuleList) and len(child)), None)
    if layers is None or getattr(stack, "layerdrop", None):
        return None
    first = _lowest_trained(network, stack, layers)
    if not is_encoder_decoder:
        first = min(first, len(layers) - 1)
    if first < max(1, SAVES_FROM * len(layers)):
        return None
    return FrozenPart(network, stack, layers, first)


def _lowest_trained(network: Any, stack: Any, layers: nn.ModuleList) -> int:
    """Number of the lowest layer that trains, counted from 0; their count where nothing of the stack trains."""
    layer_of = {id(parameter): number for number, layer in enumerate(layers) for parameter in layer.parameters()}
    at_the_end = {
        id(parameter)
        for name, child in stack.named_children()
        if name in FINAL_NORMS
        for parameter in child.parameters()
    }
    lowest = len(layers)
    for parameter in [*stack.parameters(), *network.get_input_embeddings().parameters()]:
        if parameter.requires_grad:
            own = len(layers) - 1 if id(parameter) in at_the_end else 0
            lowest = min(lowest, layer_of.get(id(parameter), own))
    return lowest


def _giving(layer: Any, states: torch.Tensor) -> Callable[..., Any]:
    def forward(hidden: torch.Tensor, *rest: Any, **_: Any) -> Any:
        return _shaped(layer, states, rest[1] if len(rest) > 1 else None)

    return forward


def _passing(layer: Any) -> Callable[..., Any]:
    def forward(hidden: torch.Tensor, *rest: Any, **_: Any) -> Any:
        return _shaped(layer, hidden, None)

    return forward


def _shaped(layer: Any, hidden: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """As this kind of layer returns it: T5's hand the bias of relative positions on, which their first one makes."""
    if not _hands_bias_on(layer):
        return hidden
    if _makes_bias(layer):
        tokens = hidden.shape[1]
        bias = layer.layer[0].SelfAttention.compute_bias(tokens, tokens, device=hidden.device)
    return hidden, bias, None


def _hands_bias_on(layer: Any) -> bool:
    return "position_bias" in inspect.signature(type(layer).forward).parameters


def _makes_bias(layer: Any) -> bool:
    return _hands_bias_on(layer) and bool(layer.layer[0].SelfAttention.has_relative_attention_bias)
