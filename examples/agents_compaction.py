"""OpenAI Agents SDK's own compaction, by your own model: `pip install openai-agents tomtat`."""

import asyncio

from agents import Agent, OpenAIResponsesCompactionSession, OpenAIResponsesModel, Runner, set_tracing_disabled
from common import CHAT_MODEL, KEY, URL, long_chat
from openai import AsyncOpenAI

from tomtat.integrations.agents import StoreSession
from tomtat.store import open_store

set_tracing_disabled(True)  # it would go to OpenAI


async def main() -> None:
    client = AsyncOpenAI(base_url=URL, api_key=KEY)
    agent = Agent(name="Shop", model=OpenAIResponsesModel(model=CHAT_MODEL, openai_client=client))
    with open_store("chats.db") as store:
        # Any session of the SDK's will do; this one keeps what a compaction replaces.
        kept = StoreSession("chat-1", store, keep_cleared=True)
        session = OpenAIResponsesCompactionSession("chat-1", kept, client=client)
        await session.add_items(long_chat()[1:-1])
        print("items before:", len(await session.get_items()))
        await session.run_compaction({"force": True, "compaction_mode": "input"})
        items = await session.get_items()
        print("items after:", len(items))
        print("kinds:", sorted({item.get("type", "message") for item in items}))
        result = await Runner.run(agent, "Which order came cracked, again?", session=session)
        print("answer:", result.final_output)
        print("turns kept:", len(store.history("chat-1", branch=0)))


asyncio.run(main())
