"""tomtat in other libraries' words, without a server.

LangChain and LlamaIndex need other versions than the development environment has; `make test` runs this file a second
time in an environment with them (tests/test_clients.py).
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memory_fakes import MANUAL, FakeSummarizer, assistant, calls, result, talk, user
from tomtat.memory import ChatMemory
from tomtat.store import open_store

pytestmark = pytest.mark.anyio
WHERE = "needs other versions of its dependencies: `make test` runs it in .venv/clients"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def memory(tmp_path: Path):
    with open_store(tmp_path / "chats.db") as store, ChatMemory(FakeSummarizer(), store, MANUAL) as memory:
        yield memory


def said(memory: ChatMemory, conversation: str) -> list[dict[str, Any]]:
    return [dict(turn.message) for turn in memory.history(conversation)]


# -- what is missing


@pytest.mark.parametrize(
    ("module", "blocked", "command"),
    [
        ("langchain", "langchain", "pip install 'langchain>=1.5'"),
        ("llamaindex", "llama_index", "pip install llama-index-llms-openai-like"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(module: str, blocked: str, command: str):
    code = (
        f"import sys; sys.modules[{blocked!r}] = None\n"
        "from tomtat.errors import TomtatError\n"
        f"try:\n    import tomtat.integrations.{module}\n"
        "except TomtatError as error:\n    assert isinstance(error, ImportError); print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert command in done.stdout


def test_an_import_of_ours_that_fails_is_no_missing_package():
    from tomtat.integrations import MissingPackage, needs

    with pytest.raises(ImportError) as error, needs("Something", "something"):
        import tomtat.integrations.nothing  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(error.value, MissingPackage)


# -- OpenAI Agents SDK

ITEMS = [
    {"role": "user", "content": "Where is order LM-48213?"},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look it up."}]},
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "status", "arguments": '{"of": "LM-48213"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "On its way."},
    {
        "type": "message", "id": "__fake_id__", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "It is on its way.", "annotations": [], "logprobs": []}],
    },
    {"role": "user", "content": [{"type": "input_text", "text": "And this?"}, {"type": "input_image", "image_url": "x"}]},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"},
    {
        "type": "message", "id": "__fake_id__", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "A cracked kettle.", "annotations": [], "logprobs": []}],
    },
]  # fmt: skip


@pytest.fixture
def session(memory: ChatMemory):
    from tomtat.integrations.agents import StoreSession

    return StoreSession("chat-1", memory.store, user="ann")


async def test_items_come_back_as_they_were_added(session: Any, memory: ChatMemory):
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([])
    await session.add_items(ITEMS[:3])
    await session.add_items(ITEMS[3:])
    assert await session.get_items() == ITEMS
    assert await session.get_items(limit=2) == ITEMS[-2:]
    assert await session.get_items(limit=0) == []
    [hit, *_] = memory.store.search("cracked kettle", user="ann", limit=1)
    assert (hit.conversation, hit.turn.seq) == ("chat-1", 8)


async def test_what_a_session_keeps_is_a_conversation_like_any_other(session: Any, memory: ChatMemory):
    await session.add_items(ITEMS)
    messages = memory.context("chat-1", 10_000)
    assert messages[2]["tool_calls"][0]["function"] == {"name": "status", "arguments": '{"of": "LM-48213"}'}
    assert messages[3] == {"role": "tool", "tool_call_id": "call_1", "content": "On its way."}
    assert {name for message in messages for name in message} <= {"role", "content", "tool_calls", "tool_call_id"}


async def test_an_item_taken_back_is_gone_for_every_session(session: Any, memory: ChatMemory):
    from tomtat.integrations.agents import StoreSession

    await session.add_items(ITEMS)
    assert await session.pop_item() == ITEMS[-1]
    assert await session.pop_item() == ITEMS[-2]
    other = StoreSession("chat-1", memory.store)
    assert await other.get_items() == ITEMS[:-2]
    await other.add_items(ITEMS[-2:-1])
    assert await session.get_items() == ITEMS[:-1]


async def test_saying_the_same_again_after_taking_it_back(session: Any):
    """As the SDK does when it asks a model again."""
    first, second, third = ({"role": "user", "content": text} for text in ("one", "two", "three"))
    await session.add_items([first, second])
    for said_next in (second, third, second, second, third):
        assert await session.pop_item()
        await session.add_items([said_next])
        assert await session.get_items() == [first, said_next]
    assert await session.pop_item() == third
    assert await session.pop_item() == first
    assert await session.pop_item() is None
    assert await session.get_items() == []
    await session.add_items([first])
    assert await session.get_items() == [first]


async def test_each_item_is_taken_back_once(session: Any, memory: ChatMemory):
    from tomtat.integrations.agents import StoreSession

    numbers = [{"role": "user", "content": str(n)} for n in range(12)]
    await session.add_items(numbers)
    sessions = [StoreSession("chat-1", memory.store) for _ in range(4)]
    popped = await asyncio.gather(*(one.pop_item() for one in sessions for _ in range(3)))
    assert sorted(map(json.dumps, popped)) == sorted(map(json.dumps, numbers))


async def test_clearing_erases(session: Any, memory: ChatMemory):
    await session.add_items(ITEMS)
    await session.clear_session()
    assert await session.get_items() == []
    assert memory.store.stats().turns == 0
    await session.add_items(ITEMS[:1])
    assert await session.get_items() == ITEMS[:1]


async def test_what_is_cleared_can_be_kept_for_search(memory: ChatMemory):
    from tomtat.integrations.agents import StoreSession

    session = StoreSession("chat-1", memory.store, keep_cleared=True)
    await session.add_items(ITEMS)
    await session.clear_session()
    await session.clear_session()
    assert await session.get_items() == []
    await session.add_items([ITEMS[0], ITEMS[6]])
    assert await session.get_items() == [ITEMS[0], ITEMS[6]]
    kept = memory.store.history("chat-1", branch=0)
    assert len(kept) == len(ITEMS)
    receipt = await session.erase()
    assert receipt.turns >= len(ITEMS)
    assert memory.store.stats().turns == 0


async def test_the_settings_of_a_session_limit_what_is_read(memory: ChatMemory):
    agents = pytest.importorskip("agents", reason=f"the OpenAI Agents SDK {WHERE}")
    from tomtat.integrations.agents import StoreSession

    session = StoreSession("chat-1", memory.store, session_settings=agents.SessionSettings(limit=2))
    assert isinstance(session, agents.Session)
    await session.add_items(ITEMS)
    assert await session.get_items() == ITEMS[-2:]
    assert await session.get_items(limit=3) == ITEMS[-3:]


# -- LangChain


@pytest.fixture
def langchain():
    pytest.importorskip("langchain", reason=f"LangChain {WHERE}")
    from tomtat.integrations import langchain

    return langchain


def thread(name: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": name}}


def answering(*texts: str) -> Any:
    """A chat model of LangChain's; what it was asked is in its `asked`."""
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    class Answering(GenericFakeChatModel):
        asked: list[Any]

        def _generate(self, messages: list[Any], *more: Any, **named: Any) -> Any:
            self.asked.append(messages)
            return super()._generate(messages, *more, **named)

    return Answering(messages=iter(texts), asked=[])


def test_an_agents_model_gets_what_fits_and_its_state_keeps_all(langchain: Any, memory: ChatMemory):
    from langchain.agents import create_agent
    from langgraph.checkpoint.memory import InMemorySaver

    model = answering(*(f"Answer {n}." for n in range(100)))
    middleware = langchain.MemoryMiddleware(memory, budget_tokens=400)
    agent = create_agent(model, middleware=[middleware], system_prompt="Be brief.", checkpointer=InMemorySaver())
    questions = [turn for turn in talk(80) if turn["role"] == "user"]
    for question in questions:
        agent.invoke({"messages": [question]}, thread("one"))
        memory.fold("one")
    state = agent.invoke({"messages": [user("Where is number 1002?")]}, thread("one"))

    assert len(state["messages"]) == 2 * (len(questions) + 1)
    system, *asked = [message.model_dump() for message in model.asked[-1]]
    assert system["content"] == "Be brief."
    assert asked[-1]["content"] == "Where is number 1002?"
    assert any(questions[1]["content"] in message["content"] for message in asked[:-1])
    assert memory.counter.total([user(message["content"]) for message in [system, *asked]]) <= 400
    assert len(memory.store.branches("one")) == 1
    assert said(memory, "one")[:3] == [questions[0], assistant("Answer 0."), questions[1]]


async def test_an_agent_may_be_asynchronous(langchain: Any, memory: ChatMemory):
    from langchain.agents import create_agent
    from langgraph.checkpoint.memory import InMemorySaver

    model = answering("Hello!")
    agent = create_agent(model, middleware=[langchain.MemoryMiddleware(memory, 400)], checkpointer=InMemorySaver())
    await agent.ainvoke({"messages": [*talk(60), user("Where is number 1002?")]}, thread("one"))
    assert len(model.asked[0]) < 20
    assert len(said(memory, "one")) == 61


def test_an_agent_without_a_thread_has_no_conversation(langchain: Any, memory: ChatMemory):
    from langchain.agents import create_agent

    agent = create_agent(answering("Hello!"), middleware=[langchain.MemoryMiddleware(memory, 400)])
    with pytest.raises(ValueError, match="thread_id"):
        agent.invoke({"messages": [user("Hello")]})


def test_messages_that_fit_are_the_same_objects(langchain: Any, memory: ChatMemory):
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

    messages = [
        SystemMessage("Be brief."),
        HumanMessage(
            [{"type": "text", "text": "See?"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
        ),
        AIMessage("", tool_calls=[{"name": "look", "args": {"at": 1}, "id": "c1"}]),
        ToolMessage("A kettle.", tool_call_id="c1"),
        AIMessage([{"type": "text", "text": "A kettle."}]),
        HumanMessage("Thanks"),
    ]
    fitting = langchain.fit_messages(memory, "one", messages, 10_000)
    assert [id(message) for message in fitting] == [id(message) for message in messages]


def test_going_back_in_time_shows_nothing_of_what_came_later(langchain: Any, memory: ChatMemory):
    """As LangGraph does from a checkpoint."""
    from langchain_core.messages import convert_to_messages

    history = convert_to_messages(talk(41))
    langchain.fit_messages(memory, "one", history, 10_000)
    memory.fold("one")
    fitting = langchain.fit_messages(memory, "one", history[:21], 200)
    assert fitting[-1] is history[20]
    text = "".join(message.content for message in fitting)
    assert not [n for n in range(21, 41) if str(1000 + n) in text or str(2000 + n) in text]


def test_a_middlewares_summaries_are_ours(langchain: Any):
    from langchain.agents import create_agent
    from langchain.agents.middleware import SummarizationMiddleware

    read: list[Any] = []

    def summarize(messages: Any) -> str:
        read.extend(messages)
        return "They spoke of things and their places."

    middleware = SummarizationMiddleware(
        model=answering(), trigger=("messages", 6), keep=("messages", 2),
        summarizer=langchain.summarizer(summarize), trim_tokens_to_summarize=None,
    )  # fmt: skip
    agent = create_agent(answering("Yes."), middleware=[middleware])
    turns = [*talk(8), calls("c1"), result("c1"), user("And now?")]
    state = agent.invoke({"messages": turns})
    assert [dict(message) for message in read[:8]] == turns[:8]
    assert "They spoke of things and their places." in state["messages"][0].content


def test_a_run_is_loaded(langchain: Any, monkeypatch: pytest.MonkeyPatch):
    import tomtat

    class Loaded:
        @classmethod
        def load(cls, path: str) -> "Loaded":
            loaded = cls()
            loaded.path, loaded.asked_for = path, {}  # type: ignore[attr-defined]
            return loaded

        def ask_for(self, generate: dict[str, Any]) -> None:
            self.asked_for = generate

        def __call__(self, messages: Any) -> str:
            return f"{self.path}: {len(messages)} messages, {self.asked_for}"  # type: ignore[attr-defined]

    monkeypatch.setitem(vars(tomtat), "Summarizer", Loaded)
    summary = langchain.summarizer("runs/chats", max_sentences=2)
    assert summary([("user", "Hello"), ("ai", "Hi")]) == "runs/chats: 2 messages, {'max_sentences': 2}"


# -- LlamaIndex


@pytest.fixture
def store_memory(memory: ChatMemory):
    pytest.importorskip("llama_index", reason=f"LlamaIndex {WHERE}")
    from tomtat.integrations.llamaindex import StoreMemory

    return StoreMemory(memory, "one", budget_tokens=300)


def chat_messages(turns: list[dict[str, Any]]) -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role=turn["role"], content=turn["content"]) for turn in turns]


def test_a_chat_engine_sends_what_fits(store_memory: Any, memory: ChatMemory):
    from llama_index.core.chat_engine import SimpleChatEngine
    from llama_index.core.llms import MockLLM

    assert store_memory.get() == store_memory.get_all() == []
    turns = talk(60)
    store_memory.put_messages(chat_messages(turns))
    memory.fold("one")
    assert len(store_memory.get(initial_token_count=200)) < len(store_memory.get())
    engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory=store_memory)
    answer = str(engine.chat("Where is number 1002?"))  # the model says what it is sent
    assert turns[2]["content"] in answer
    assert answer.count("Please note") < 15
    assert len(store_memory.get_all()) == 62


async def test_tools_of_an_agent_are_kept(store_memory: Any, memory: ChatMemory):
    from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock

    call = ToolCallBlock(tool_call_id="c1", tool_name="look", tool_kwargs={"at": 1})
    await store_memory.aput(ChatMessage(role="user", content="Look!"))
    await store_memory.aput(ChatMessage(role="assistant", blocks=[TextBlock(text="I look."), call]))
    await store_memory.aput(ChatMessage(role="tool", content="Nothing.", additional_kwargs={"tool_call_id": "c1"}))
    _, called, answered = said(memory, "one")
    assert called["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert answered == result("c1", "Nothing.")
    found = await store_memory.aget_all()
    assert [message.content for message in found] == ["Look!", "I look.", "Nothing."]
    assert found[1].additional_kwargs["tool_calls"][0]["id"] == "c1"
    assert found[2].additional_kwargs["tool_call_id"] == "c1"


def test_another_history_may_be_set(store_memory: Any, memory: ChatMemory):
    turns = talk(12)
    store_memory.put_messages(chat_messages(turns))
    store_memory.set(chat_messages(turns[:5]))
    assert [message.content for message in store_memory.get_all()] == [turn["content"] for turn in turns[:5]]
    assert len(store_memory.get()) == 5
    store_memory.put(chat_messages([assistant("Another way.")])[0])
    assert [message.content for message in store_memory.get_all()][4:] == [turns[4]["content"], "Another way."]
    assert len(memory.store.history("one", branch=0)) == 12
    store_memory.set([])
    assert store_memory.get_all() == []
    assert memory.store.stats().turns == 0
