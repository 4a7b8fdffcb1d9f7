"""A long chat through the memory, with openai-python: `pip install openai`."""

from common import CHAT_MODEL, KEY, URL, long_chat
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY)
messages = long_chat()

# Nothing but base_url is new. The whole history is sent as always; the model gets what fits.
answer = client.chat.completions.create(model=CHAT_MODEL, messages=messages)
print("answer:", answer.choices[0].message.content)

# How much that saved. An id of your own, where there is one, finds the conversation without comparing histories.
raw = client.chat.completions.with_raw_response.create(
    model=CHAT_MODEL, messages=messages, extra_headers={"X-Conversation-Id": "order-chat", "X-Memory-Budget": "400"}
)
print("memory:", raw.headers["x-memory"])
print("tokens sent:", raw.headers["x-memory-tokens-sent"], "of", raw.headers["x-memory-tokens-whole"])
print("whole:", raw.parse().choices[0].message.content)

# With an id, new turns alone are enough, and what the system says.
messages = [messages[0], {"role": "user", "content": "And what colour was its kettle?"}]
with client.chat.completions.stream(
    model=CHAT_MODEL,
    messages=messages,
    extra_headers={"X-Conversation-Id": "order-chat", "X-Conversation-Turns": "new", "X-Memory-Budget": "400"},
) as stream:
    for event in stream:
        if event.type == "content.delta":
            print("delta:", event.delta)
    print("stream:", stream.get_final_completion().choices[0].message.content)
