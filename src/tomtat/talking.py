"""A turn of a chat through the memory, for the terminal and the page: asked, answered, counted, explained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tomtat.memory import ChatMemory, Context, TokenCounter
from tomtat.memory.framing import SUMMARY_OPEN, one_line
from tomtat.store import UnknownConversation
from tomtat.text import sentences

STOPPED, BROKEN_OFF = "[stopped]", "[broken off]"
"""In the words of an answer that was cut: who reads it later, a person or a model, shall know."""


def turns_of(memory: ChatMemory, conversation: str) -> int:
    """How many there are; 0 of a conversation that nobody has begun."""
    try:
        return memory.store.branches(conversation)[-1].last
    except UnknownConversation:
        return 0


def say(memory: ChatMemory, conversation: str, text: str, system: str | None = None) -> None:
    """Keep what the user says; `system` goes before the first turn."""
    first = [{"role": "system", "content": system}] if system and not turns_of(memory, conversation) else []
    memory.append(conversation, [*first, {"role": "user", "content": text}])


def keep(memory: ChatMemory, conversation: str, pieces: Sequence[str], mark: str = "") -> bool:
    """Keep an answer, with the mark of one that was cut; whether it says anything."""
    words = "".join(pieces).strip()
    if words:
        memory.append(conversation, [{"role": "assistant", "content": f"{words} {mark}".strip()}])
    return bool(words)


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens of what was sent, and of the whole history that it stands for."""

    sent: int = 0
    whole: int = 0

    @property
    def saved(self) -> float:
        """Share, from 0 to 1; never below, though a short history costs more with its memory's frame."""
        return max(0.0, 1 - self.sent / self.whole) if self.whole else 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.sent + other.sent, self.whole + other.whole)


def cost_of(memory: ChatMemory, conversation: str, context: Context, counter: TokenCounter | None = None) -> Cost:
    """Before anything is learned from the answer: both are told by one and the same measure."""
    history = memory.history(conversation)
    before = [turn.message for turn in history if turn.seq <= context.newest[-1]]
    return Cost(context.tokens, (counter or memory.counter).total(before))


@dataclass(frozen=True, slots=True)
class Saying:
    """A sentence of a summary that was sent."""

    text: str
    first: int
    last: int
    """The turns that its line was made from."""
    by: str
    """`model`, or `extract`: a sentence of the chat itself."""


def sayings(context: Context) -> Iterator[Saying]:
    """What the summaries in a context say; what was shortened away is left out."""
    texts = [str(message["content"]) for message in context.messages]
    sent = "\n".join(text for text in texts if text.startswith(SUMMARY_OPEN))
    for line in (line for fold in context.summaries for line in fold.lines):
        for sentence in sentences(line.text):
            if one_line(sentence) in sent:
                yield Saying(sentence, line.first, line.last, line.by)


def ranges(places: Sequence[int]) -> str:
    """Rising numbers, neighbours together: `3-5, 9`."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
