"""What the examples share: where the server is, what its models are called, and a chat that is long."""

import os

URL = os.environ.get("TOMTAT_URL", "http://localhost:8400/v1")
KEY = os.environ.get("TOMTAT_KEY", "none")
"""`none` where the server wants no key: clients insist on one."""
CHAT_MODEL = os.environ.get("TOMTAT_CHAT_MODEL", "qwen3")
"""A model of the upstream's."""
SUMMARIZER = os.environ.get("TOMTAT_SUMMARIZER", "chats")
"""A model of tomtat's own."""

TURNS = 60


def long_chat() -> list[dict[str, str]]:
    """An order number near its beginning, much else after it, and a question about the order at its end."""
    messages = [
        {"role": "system", "content": "You are the shop's assistant. Answer in one sentence."},
        {"role": "user", "content": "Hello, my order LM-48213 with the blue kettle came cracked on Tuesday."},
        {"role": "assistant", "content": "I am sorry to hear that! I have noted the order and its kettle."},
    ]
    for number in range(TURNS // 2):
        messages += [
            {"role": "user", "content": f"Another thing: is the lamp in picture {number} of the catalogue in stock?"},
            {
                "role": "assistant",
                "content": f"Yes, lamp {number} is in stock, in white and grey, for {30 + number} euros.",
            },
        ]
    return [*messages, {"role": "user", "content": "Which order came cracked, again?"}]
