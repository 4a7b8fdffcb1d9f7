"""LangChain's ChatOpenAI through the memory: `pip install langchain-openai`."""

from common import CHAT_MODEL, KEY, URL, long_chat
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=CHAT_MODEL, base_url=URL, api_key=KEY, stream_usage=True, include_response_headers=True,
    default_headers={"X-Memory-Budget": "400"},
)  # fmt: skip

answer = model.invoke(long_chat())
print("answer:", answer.content)
headers = answer.response_metadata["headers"]
print("memory:", headers["x-memory"])
print("tokens sent:", headers["x-memory-tokens-sent"], "of", headers["x-memory-tokens-whole"])

print("stream:", "".join(chunk.text for chunk in model.stream(long_chat())))
