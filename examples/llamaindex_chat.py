"""LlamaIndex through the memory: `pip install llama-index-llms-openai-like`."""

from common import CHAT_MODEL, KEY, URL, long_chat
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model=CHAT_MODEL, api_base=URL, api_key=KEY, is_chat_model=True, context_window=128_000,
    default_headers={"X-Memory-Budget": "400"},
)  # fmt: skip

history = [ChatMessage(role=turn["role"], content=turn["content"]) for turn in long_chat()]
engine = SimpleChatEngine.from_defaults(llm=llm, chat_history=history[:-1])
print("answer:", engine.chat(history[-1].content))
print("stream:", "".join(engine.stream_chat("And what colour was it?").response_gen))
