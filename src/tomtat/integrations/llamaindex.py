"""LlamaIndex: a chat's memory for chat engines and agents.

from llama_index.core.chat_engine import SimpleChatEngine
from tomtat.integrations.llamaindex import StoreMemory

engine = SimpleChatEngine.from_defaults(llm=llm, memory=StoreMemory(memory, "chat-1", budget_tokens=4000))
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from tomtat.integrations import needs
from tomtat.store import Appended, UnknownConversation

with needs("LlamaIndex", "llama-index-llms-openai-like"):
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.llms import ChatMessage
    from llama_index.core.memory.types import BaseMemory
    from llama_index.llms.openai.utils import from_openai_message_dict, to_openai_message_dict

if TYPE_CHECKING:
    from tomtat.memory import ChatMemory


class StoreMemory(BaseMemory):  # type: ignore[misc]
    """A conversation of a `ChatMemory`, in place of `Memory` and `ChatSummaryMemoryBuffer`.

    `get` gives what fits: summaries of older turns, the newest word for word, and those that the newest message asks
    about; `get_all` gives every turn.

    budget_tokens: by the memory's counter; what an engine names as `initial_token_count` is left free of it.
    """

    conversation: str
    budget_tokens: int
    _memory: Any = PrivateAttr()
    _place: tuple[int, int] | None = PrivateAttr(default=None)
    """Branch and last turn of a history that was set; else the newest."""

    def __init__(self, memory: "ChatMemory", conversation: str, budget_tokens: int) -> None:
        super().__init__(conversation=conversation, budget_tokens=budget_tokens)
        self._memory = memory

    @classmethod
    def class_name(cls) -> str:
        return "TomtatStoreMemory"

    @classmethod
    def from_defaults(cls, **named: Any) -> Self:
        return cls(**named)

    def get(self, input: str | None = None, initial_token_count: int = 0, **_: Any) -> list[ChatMessage]:
        """Raises: BudgetError."""
        place = self._place or (None, None)
        budget = self.budget_tokens - initial_token_count
        try:
            fitting = self._memory.compose(self.conversation, budget, input, branch=place[0], last=place[1])
        except UnknownConversation:
            return []
        return [from_openai_message_dict(message) for message in fitting.messages]

    def get_all(self) -> list[ChatMessage]:
        branch, last = self._place or (None, None)
        try:
            turns = self._memory.store.history(self.conversation, branch=branch, last=last)
        except UnknownConversation:
            return []
        return [from_openai_message_dict(dict(turn.message)) for turn in turns]

    def put(self, message: ChatMessage) -> None:
        self.put_messages([message])

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        said = [to_openai_message_dict(message) for message in messages]
        if self._place is None:
            self._memory.append(self.conversation, said)
            return
        branch, last = self._place
        self._go_to(self._memory.append(self.conversation, said, branch=branch, after=last, fork=True))

    def set(self, messages: Sequence[ChatMessage]) -> None:
        """Another history from now on, for this object: on a branch that shares with the present one what is equal."""
        if not messages:
            self.reset()
            return
        history = [to_openai_message_dict(message) for message in messages]
        self._go_to(self._memory.append(self.conversation, history, after=0, fork=True))

    def reset(self) -> None:
        """Erases the conversation for good."""
        self._memory.erase(self.conversation)
        self._place = None

    def _go_to(self, appended: Appended) -> None:
        self._place = appended.branch, appended.last
