"""LangChain and LangGraph: your own model as `SummarizationMiddleware`'s summarizer, or the memory in its place.

from langchain.agents import create_agent
from tomtat.integrations.langchain import MemoryMiddleware

agent = create_agent(model, tools, middleware=[MemoryMiddleware(memory, budget_tokens=4000)])
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from tomtat.integrations import needs
from tomtat.integrations.remote import Summarize, remote

with needs("LangChain", "'langchain>=1.5'"):
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.messages import convert_to_messages, convert_to_openai_messages

if TYPE_CHECKING:
    from tomtat.memory import ChatMemory


def summarizer(
    by: "Summarize | str | os.PathLike[str]", *, model: str | None = None, api_key: str | None = None, **generate: Any
) -> Callable[[list[Any]], str]:
    """What `SummarizationMiddleware(summarizer=...)` takes: messages in, their summary out.

        SummarizationMiddleware(
            model=chat_model, trigger=("tokens", 4000), keep=("messages", 6),
            summarizer=summarizer("runs/chats"), trim_tokens_to_summarize=None,
        )

    Leave `trim_tokens_to_summarize=None`: by default LangChain shows a summarizer the newest 4,000 tokens only. Ours
    reads all of it, in pieces where it is long.

    by: a run, a `Summarizer`, or the address of `tomtat serve` (`http://localhost:8400/v1`), where `model` says
        which of its summarizers, by default the first.
    generate: settings such as `max_sentences=3`.
    """
    summarize = _opened(by, model, api_key, generate)

    def summary(messages: list[Any]) -> str:
        return summarize(convert_to_openai_messages(messages))

    return summary


def _opened(by: Any, model: str | None, api_key: str | None, generate: dict[str, Any]) -> Summarize:
    if isinstance(by, str) and by.startswith(("http://", "https://")):
        return remote(by, model, api_key, **generate)
    if callable(by):
        if generate:
            raise ValueError("A summarizer that is loaded has its settings already; see Summarizer.ask_for.")
        return cast(Summarize, by)
    from tomtat import Summarizer

    loaded = Summarizer.load(by)
    loaded.ask_for(generate)
    return cast(Summarize, loaded)


def fit_messages(memory: "ChatMemory", conversation: str, messages: Sequence[Any], budget_tokens: int) -> list[Any]:
    """What to send a model instead of a whole history: for a node of a graph, with `thread_id` as the conversation.

        def answer(state: MessagesState, config: RunnableConfig):
            messages = fit_messages(memory, config["configurable"]["thread_id"], state["messages"], 4000)
            return {"messages": [model.invoke(messages)]}

    The history is kept in the memory's store as it is, once however often it comes; another one opens a branch.
    Messages that need no change are the same objects; summaries and quotes of older ones speak with the user's voice.

    Raises: BudgetError.
    """
    history = convert_to_openai_messages(list(messages))
    appended = memory.append(conversation, history, after=0, fork=True)
    fitting = memory.compose(conversation, budget_tokens, branch=appended.branch, last=appended.last).messages
    given = {_key(said): message for said, message in zip(history, messages, strict=True)}
    return [given.get(_key(said)) or convert_to_messages([said])[0] for said in fitting]


def _key(message: dict[str, Any]) -> str:
    return json.dumps(message, sort_keys=True)


class MemoryMiddleware(AgentMiddleware):  # type: ignore[misc]
    """The memory in front of an agent's model: the agent keeps its whole state, the model gets what fits.

    Each thread of a checkpointer (`thread_id`) is a conversation of the memory's. Put it in place of
    `SummarizationMiddleware`, which takes older messages out of the state.

    budget_tokens: of the system prompt and the messages, by the memory's counter; tools' descriptions come on top.
    """

    def __init__(self, memory: "ChatMemory", budget_tokens: int) -> None:
        super().__init__()
        self.memory = memory
        self.budget_tokens = budget_tokens

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(self._fitting(request))

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        return await handler(await asyncio.to_thread(self._fitting, request))

    def _fitting(self, request: Any) -> Any:
        budget = self.budget_tokens
        if request.system_message is not None:
            budget -= self.memory.counter.message(convert_to_openai_messages(request.system_message))
        return request.override(messages=fit_messages(self.memory, _thread(request), request.messages, budget))


def _thread(request: Any) -> str:
    """The agent's thread."""
    info = request.runtime.execution_info if request.runtime is not None else None
    if info is None or not info.thread_id:
        raise ValueError(
            "Which conversation is it? Give the agent a checkpointer, and invoke it with "
            'config={"configurable": {"thread_id": ...}}.'
        )
    return str(info.thread_id)
