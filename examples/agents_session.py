"""OpenAI Agents SDK with sessions in the store, its model behind the memory: `pip install openai-agents tomtat`."""

import asyncio

from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from common import CHAT_MODEL, KEY, URL
from openai import AsyncOpenAI

from tomtat.integrations.agents import StoreSession
from tomtat.store import open_store

set_tracing_disabled(True)  # it would go to OpenAI


@function_tool
def order_status(of: str) -> str:
    """Where an order is."""
    return f"{of} is on its way back to us."


async def main() -> None:
    model = OpenAIResponsesModel(model=CHAT_MODEL, openai_client=AsyncOpenAI(base_url=URL, api_key=KEY))
    agent = Agent(name="Shop", instructions="Answer in one sentence.", model=model, tools=[order_status])
    with open_store("chats.db") as store:
        session = StoreSession("chat-1", store, user="ann")
        await Runner.run(agent, "My order LM-48213 came cracked.", session=session)
        result = await Runner.run(agent, "Please look up where it is.", session=session)
        print("answer:", result.final_output)
        for item in await session.get_items():
            print("item:", item.get("type", "message"), item.get("role", ""))
        [hit, *_] = store.search("Which order is cracked?", user="ann")
        print("found:", hit.turn.message["content"])


asyncio.run(main())
