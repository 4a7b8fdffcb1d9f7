"""What benchmarks/memory.py compares with: newest turns, BM25 over turns, and others' memories with their defaults."""

import html
import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import search_recall
from memory_chats import Chat, Contexts, Message, handed, old_turns
from search_recall import words_search

from tomtat.memory import TokenCounter
from tomtat.memory.extract import extract
from tomtat.memory.framing import said, speaker_of
from tomtat.memory.turns import user
from tomtat.store import Turn

LANGCHAIN, LANGMEM = "LangChain SummarizationMiddleware", "LangMem summarize_messages"
INSTALL = "pip install --target peers langchain langmem langchain-core langgraph, and --peers peers"
ROUNDS = 50


def newest_turns(messages: Sequence[Message], budget: int, counter: TokenCounter) -> list[Message]:
    """Whole turns from the end, as many as fit."""
    left = budget - counter.base
    kept: list[Message] = []
    for message in reversed(messages):
        left -= counter.message(message)
        if left < 0:
            break
        kept.append(message)
    return kept[::-1]


def newest_only(chat: Chat, counter: TokenCounter) -> Contexts:
    return lambda budget, question: newest_turns(chat.messages, budget, counter)


def bm25_alone(chat: Chat, counter: TokenCounter) -> Contexts:
    """One message with a line for each turn found: the least that turns can cost."""
    lines = [f"{speaker_of(message)}: {said(message)}" for message in chat.messages]
    costs = [counter.text(line + "\n") for line in lines]
    spoken = [{**message, "content": said(message)} for message in chat.messages]
    search = words_search(search_recall.Chat(chat.name, spoken, []), with_speaker=True)
    ordered = lru_cache(maxsize=4096)(search)

    def contexts(budget: int, question: str) -> Sequence[Message]:
        left = budget - counter.total([user("")])
        taken = []
        for place in ordered(question) if question else ():
            if costs[place] <= left:
                taken.append(place)
                left -= costs[place]
        return [user("\n".join(lines[place] for place in sorted(taken)))] if taken else []

    return contexts


Spoken = tuple[str, str]
"""Who, and what."""
Write = Callable[[Sequence[Spoken]], str]
"""A summary of what was said."""


def write_extract(spoken: Sequence[Spoken]) -> str:
    """The extract that ours falls back on."""
    roles = {"human": "user", "ai": "assistant"}
    messages = [{"role": roles.get(who, who), "content": text} for who, text in spoken]
    return extract([Turn(number, message, 0.0) for number, message in enumerate(messages, start=1)])


def writer_of(summarizer: Any) -> Write:
    names = {"human": "User", "ai": "Assistant"}

    def write(spoken: Sequence[Spoken]) -> str:
        return str(summarizer("\n".join(f"{names.get(who, who.capitalize())}: {text}" for who, text in spoken)))

    return write


XML_MESSAGE = re.compile(r'<message type="(\w+)">(.*?)</message>', re.DOTALL)


def spoken_in(messages: Sequence[Any]) -> list[Spoken]:
    """A prompt without its instructions, which a model of 135M that has learned to summarize chats is better without.

    LangChain's is one text with the messages as XML; LangMem's is the messages, and then what to do.
    """
    if len(messages) == 1:
        return [(who, html.unescape(text)) for who, text in XML_MESSAGE.findall(messages[0].text)]
    *turns, task = messages
    _, _, summary = task.text.partition("This is summary of the conversation so far: ")
    before = [("summary", summary.rpartition("\n\nExtend this summary")[0])] if summary else []
    return before + [(turn.type, turn.text) for turn in turns if turn.text]


def chat_model(write: Write, given: list[str]) -> Any:
    """LangChain's view of a summarizer; what it is given is noted."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    class Small(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "tomtat"

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> ChatResult:
            spoken = spoken_in(messages)
            given.extend(text for _, text in spoken)
            return ChatResult(generations=[ChatGeneration(message=AIMessage(write(spoken) if spoken else ""))])

    return Small()


class LangChain:
    """An agent's messages under SummarizationMiddleware with its defaults: the newest 20 are kept, and of the others
    the last 4,000 tokens (by its own estimate) are summarized. It is triggered at the budget."""

    def __init__(self, budget: int, write: Write) -> None:
        from langchain.agents.middleware import SummarizationMiddleware

        self.given: list[str] = []
        self.rounds = 0
        self._middleware = SummarizationMiddleware(chat_model(write, self.given), trigger=("tokens", budget))
        self._messages: list[Any] = []

    def add(self, message: Any) -> None:
        self._messages.append(message)

    def compact(self) -> None:
        update = self._middleware.before_model({"messages": self._messages}, None)  # type: ignore[arg-type]
        if update:
            _, *self._messages = update["messages"]  # the first one says that all others go
            self.rounds += 1

    def context(self) -> list[Any]:
        return self._messages


class LangMem:
    """summarize_messages with its defaults and the budget as `max_tokens`. It reserves 256 of them for the summary, and
    wants more in all; of a small budget here a half."""

    def __init__(self, budget: int, write: Write) -> None:
        from langmem.short_term import summarize_messages

        self.given: list[str] = []
        self.rounds = 0
        self._summarize, self._model, self._budget = summarize_messages, chat_model(write, self.given), budget
        self._running: Any = None
        self._messages: list[Any] = []
        self._sent: list[Any] = []

    def add(self, message: Any) -> None:
        self._messages.append(message)

    def compact(self) -> None:
        result = self._summarize(
            self._messages, running_summary=self._running, model=self._model, max_tokens=self._budget,
            max_summary_tokens=min(256, self._budget // 2),
        )  # fmt: skip
        self.rounds += result.running_summary is not self._running
        self._running, self._sent = result.running_summary, result.messages

    def context(self) -> list[Any]:
        return self._sent


PEERS: dict[str, Callable[[int, Write], Any]] = {LANGCHAIN: LangChain, LANGMEM: LangMem}
MODULES = {LANGCHAIN: "langchain.agents.middleware", LANGMEM: "langmem.short_term"}


class Played(NamedTuple):
    """A chat that a peer went through."""

    context: list[Message]
    rounds: int
    """How often it summarized; of a chat that went on, after its own last turn."""
    old: int
    handed_over: int
    seconds: float
    """Of the processor."""
    is_cut: bool
    """Whether what it would send had to be cut to the budget."""


def play(
    peer: Any, messages: Sequence[Message], budget: int, counter: TokenCounter, own: int | None = None,
    at_once: bool = False,
) -> Played:  # fmt: skip
    """Go through a chat; or beyond its own first turns, until there have been 50 more rounds.

    at_once: it is only called at the end, as for a chat that was kept elsewhere or had a larger window till then.
    """
    from langchain_core.messages.utils import convert_to_messages

    started = time.process_time()
    before = 0
    for number, message in enumerate(messages):
        [turn] = convert_to_messages([{**message, "content": message.get("content") or ""}])
        turn.id = f"turn {number}"
        peer.add(turn)
        following = messages[number + 1]["role"] if number + 1 < len(messages) else ""
        # Where a chat's model would be called: after what a user says, and after the last result of its tools.
        if message["role"] in ("user", "tool") and following != "tool" and not at_once:
            peer.compact()
        if number + 1 == own:
            before = peer.rounds
        if own is not None and number >= own and peer.rounds - before >= ROUNDS:
            messages = messages[: number + 1]
            break
    peer.compact()
    seconds = time.process_time() - started
    sent = peer.context()
    said_as = {f"turn {number}": message for number, message in enumerate(messages)}
    front = [as_message(one) for one in sent if one.id not in said_as]
    kept = [said_as[one.id] for one in sent if one.id in said_as]
    # What is over the budget is cut from the oldest turn on; the summary stays where there is room for it.
    while front and counter.total(front) > budget:
        front.pop()
    fits = newest_turns(kept, budget - sum(map(counter.message, front)), counter)
    there = set(map(id, kept))
    old = old_turns(message for message in messages if id(message) not in there)
    is_cut = len(fits) < len(kept) or len(front) + len(kept) < len(sent)
    return Played([*front, *fits], peer.rounds - before, len(old), handed(old, peer.given), seconds, is_cut)


def as_message(summary: Any) -> Message:
    return {"role": {"human": "user"}.get(summary.type, summary.type), "content": summary.text}
