"""Summaries by your own model, with openai-python: `pip install openai`."""

from common import KEY, SUMMARIZER, URL, long_chat
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY)
print("models:", ", ".join(model.id for model in client.models.list()))

# Any tool that can name a model for its summaries can name this one: what it is given, it summarizes.
answer = client.chat.completions.create(model=SUMMARIZER, messages=long_chat()[1:7])
print("chat:", answer.choices[0].message.content, f"({answer.usage.completion_tokens} tokens)")

response = client.responses.create(
    model=SUMMARIZER, input="Nina: Monday's meeting is off. Omar: Friday at 14:30, then?"
)
print("response:", response.output_text)

# With limits, or many at once.
batch = client.post(
    "/summaries",
    body={"model": SUMMARIZER, "input": ["One text. And more.", "Another text. And more."], "max_sentences": 1},
    cast_to=object,
)
print("batch:", [summary["summary"] for summary in batch["data"]])
