"""Values that cross stages: small, frozen, without torch, SQL or HTTP."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant asked for, in OpenAI's shape."""

    name: str
    arguments: str
    """JSON, as the model wrote it."""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    name: str | None = None
    """Who speaks, where several people share a role."""
    id: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """An exact string that a memory must not lose, the turn it stands in, and a question it answers."""

    text: str
    turn: str
    question: str


Source = str | tuple[Message, ...]
"""What is summarized: a text, or the messages of a conversation."""


@dataclass(frozen=True, slots=True)
class Example:
    """A source with the summaries people wrote of it; `references` is empty where nobody did."""

    id: str | int
    """As given in the data."""
    source: Source
    references: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote for one prompt."""

    text: str
    prompt_tokens: int
    new_tokens: int
    """Generated tokens, the end token included."""
    finish_reason: FinishReason
    """`length` when the limit cut the text."""
    near_ties: int | None = field(default=None, compare=False)
    """Tokens whose runner-up was so close that rounding decided, and with it the company in a batch; so no part of
    what makes two equal. None where nobody counted."""


def total(counts: Iterable[int | None]) -> int | None:
    """None where one of them was not counted."""
    known = 0
    for count in counts:
        if count is None:
            return None
        known += count
    return known


@dataclass(frozen=True, slots=True)
class Summary(Generation):
    """A generation, and what was read for it. Tokens are counted over all pieces."""

    pieces: int = 1
    """How many pieces the source was read in."""
    share_read: float = 1.0
    """Share of the source's tokens that were read; below 1 only where long inputs are truncated."""


@dataclass(frozen=True, slots=True)
class Score:
    """A number with the recipe that made it. Values run from 0 to 100 unless the recipe says otherwise."""

    name: str
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    recipe: str

    def __str__(self) -> str:
        return f"{self.name} {self.value:.2f} [{self.low:.2f}, {self.high:.2f}] ({self.recipe})"
