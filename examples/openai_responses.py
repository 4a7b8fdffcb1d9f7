"""OpenAI's responses and conversations, with openai-python: `pip install openai`."""

from common import CHAT_MODEL, KEY, URL, long_chat
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY)

# A conversation that the server keeps: every turn, in order.
system, *turns, question = long_chat()
conversation = client.conversations.create(items=turns[:20], metadata={"topic": "an order"})
for start in range(20, len(turns), 20):  # 20 at once, as with OpenAI
    client.conversations.items.create(conversation.id, items=turns[start : start + 20])

raw = client.responses.with_raw_response.create(
    model=CHAT_MODEL,
    instructions=system["content"],
    input=[question],
    conversation=conversation.id,
    extra_headers={"X-Memory-Budget": "400"},
)
response = raw.parse()
print("answer:", response.output_text)
print("tokens sent:", raw.headers["x-memory-tokens-sent"], "of", raw.headers["x-memory-tokens-whole"])

with client.responses.stream(model=CHAT_MODEL, input="And what colour was it?", conversation=conversation.id) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print("delta:", event.delta)
    print("stream:", stream.get_final_response().output_text)

newest = client.conversations.items.list(conversation.id, order="desc", limit=1).data[0]
print("newest item:", newest.type, newest.role, newest.content[0].text)

# Beside OpenAI's routes: search.
found = client.get(
    f"/conversations/{conversation.id}/search", cast_to=object, options={"params": {"query": "cracked order"}}
)
print("found:", found["data"][0]["message"]["content"])

client.conversations.delete(conversation.id)
