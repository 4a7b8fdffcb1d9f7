"""Several chats at once, streamed, and what becomes of errors, with openai-python: `pip install openai`."""

import asyncio

from common import CHAT_MODEL, KEY, URL, long_chat
from openai import AsyncOpenAI, BadRequestError, NotFoundError

client = AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=2)


async def ask(customer: str) -> str:
    messages = [*long_chat()[:-1], {"role": "user", "content": f"What did I order? - {customer}"}]
    stream = await client.chat.completions.create(
        model=CHAT_MODEL,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-Conversation-Id": f"chat-of-{customer}", "X-Memory-Budget": "400"},
    )
    said = ""
    async for chunk in stream:
        if chunk.choices:
            said += chunk.choices[0].delta.content or ""
        elif chunk.usage:
            print("usage:", customer, chunk.usage.prompt_tokens)
    return said


async def main() -> None:
    for said in await asyncio.gather(*map(ask, ["ann", "bob", "cem"])):
        print("stream:", said)

    # Rates, full queues and busy upstreams answer 429 or 503 with retry-after: the client waits and asks again.
    try:
        await client.chat.completions.create(
            model=CHAT_MODEL, messages=long_chat(), extra_headers={"X-Memory-Budget": "a few"}
        )
    except BadRequestError as error:
        print("refused:", error.code, "-", error.message)
    try:
        await client.conversations.retrieve("nobody-knows-this")
    except NotFoundError as error:
        print("missing:", error.code, "-", error.message)


asyncio.run(main())
