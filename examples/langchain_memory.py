"""The memory inside an agent, without a server: `pip install langchain langchain-openai tomtat`."""

from common import CHAT_MODEL, KEY, URL, long_chat
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from tomtat.integrations.langchain import MemoryMiddleware
from tomtat.memory import ChatMemory
from tomtat.store import open_store

# With Summarizer.load("runs/chats") in place of None, older turns are summarized by your own model.
with open_store("chats.db") as store, ChatMemory(None, store) as memory:
    agent = create_agent(
        ChatOpenAI(model=CHAT_MODEL, base_url=URL, api_key=KEY),  # any model that LangChain knows
        system_prompt="You are the shop's assistant.",
        middleware=[MemoryMiddleware(memory, budget_tokens=400)],
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "chat-1"}}
    state = agent.invoke({"messages": long_chat()[1:]}, thread)
    print("messages in the state:", len(state["messages"]))
    print("turns kept:", len(memory.history("chat-1")))
    print("answer:", state["messages"][-1].content)
