"""What benchmarks/memory.py asks of a chat memory: chats, questions, and what of them stands in a context."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import search_recall

from tomtat.memory import TokenCounter
from tomtat.memory.framing import said
from tomtat.memory.turns import PINNED_ROLES

SHARES = (2, 5, 10, 20)
HELD_OUT = {
    "locomo": ("locomo 2", "locomo 3", "locomo 4"),
    "long": ("long-03", "long-04", "long-05", "long-06", "long-08", "long-09", "long-10"),
}
"""The chats that nothing was chosen on."""

Message = dict[str, Any]
Contexts = Callable[[int, str], Sequence[Message]]
"""A budget and a question to what a model is sent."""


class Probe(NamedTuple):
    question: str
    wanted: tuple[str, ...]
    """What should stand in the context."""


class Chat(NamedTuple):
    name: str
    messages: list[Message]
    probes: list[Probe]


class Found(NamedTuple):
    chat: str
    found: int
    wanted: int


def evidence_chats(name: str, path: Path, read: Callable[[Path], Iterator[search_recall.Chat]]) -> list[Chat]:
    return [
        Chat(f"{name} {number}", chat.messages, [
            Probe(asked.text, tuple(chat.messages[place]["content"] for place in sorted(asked.evidence)))
            for asked in chat.questions
        ])
        for number, chat in enumerate(read(path))
    ]  # fmt: skip


def fact_chats(path: Any) -> list[Chat]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        Chat(row["id"], row["messages"], [Probe(fact["question"], (fact["text"],)) for fact in row["facts"]])
        for row in rows
    ]


def budget_of(chat: Chat, share: int, counter: TokenCounter) -> int:
    return counter.total(chat.messages) * share // 100


def squeeze(text: str) -> str:
    """Words alone count: line ends and blanks may differ."""
    return " ".join(text.split())


def find(chat: Chat, contexts: Contexts, budget: int, counter: TokenCounter, is_asked: bool = True) -> Found:
    """How much of what is wanted stands in the contexts for its questions."""
    found = 0
    for probe in chat.probes:
        messages = contexts(budget, probe.question if is_asked else "")
        if (tokens := counter.total(messages)) > budget and messages:
            raise AssertionError(f"{chat.name}: {tokens} tokens for a budget of {budget}")
        text = squeeze("\n".join(map(said, messages)))
        found += sum(squeeze(wanted) in text for wanted in probe.wanted)
    return Found(chat.name, found, sum(len(probe.wanted) for probe in chat.probes))


def percent(found: Iterable[Found], only: Sequence[str] | None = None) -> float | None:
    taken = [one for one in found if only is None or one.chat in only]
    wanted = sum(one.wanted for one in taken)
    return round(100 * sum(one.found for one in taken) / wanted, 1) if wanted else None


def old_turns(messages: Iterable[Message]) -> list[str]:
    """What was said in them. Calls of tools are left out, for everyone writes them in another way."""
    return [squeeze(one["content"]) for one in messages if one.get("content") and one["role"] not in PINNED_ROLES]


def handed(old: Sequence[str], given: Sequence[str]) -> int:
    read = squeeze("\n".join(given))
    return sum(text in read for text in old)
