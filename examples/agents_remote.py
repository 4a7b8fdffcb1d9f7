"""OpenAI Agents SDK's own remote session, kept by tomtat: `pip install openai-agents`."""

import asyncio

from agents import Agent, OpenAIConversationsSession, OpenAIResponsesModel, Runner, set_tracing_disabled
from common import CHAT_MODEL, KEY, URL, long_chat
from openai import AsyncOpenAI

set_tracing_disabled(True)  # it would go to OpenAI


async def main() -> None:
    client = AsyncOpenAI(base_url=URL, api_key=KEY)
    agent = Agent(name="Shop", model=OpenAIResponsesModel(model=CHAT_MODEL, openai_client=client))
    session = OpenAIConversationsSession(openai_client=client)
    await session.add_items(long_chat()[1:-1])
    result = await Runner.run(agent, "Which order came cracked, again?", session=session)
    print("answer:", result.final_output)
    print("items:", len(await session.get_items()))
    back = await session.pop_item()
    print("taken back:", back["content"][0]["text"])
    context = await client.get(f"/conversations/{session.session_id}/context", cast_to=object)
    print("what a model is sent:", context["tokens"], "tokens")
    await session.clear_session()


asyncio.run(main())
