"""Summarizers without a model, stores without a file, chats without a person."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from tomtat.config import MemorySettings
from tomtat.text import sentences
from tomtat.types import Generation

MANUAL = MemorySettings(background=False, small_share=0.15)
"""Nothing happens by itself, and even small contexts have every part."""

Write = Callable[[str], Generation | str]


def first_sentence(source: str) -> str:
    """What an honest, dull summarizer says: the first sentence of somebody."""
    spoken = source.split("\n")[0].split(": ", 1)[-1]
    return (sentences(spoken) or ["Nothing was said."])[0][:60]


class FakeSummarizer:
    """Counts a token for four characters, remembers what it read, and says what it is told to."""

    name = "fake"

    def __init__(self, write: Write = first_sentence, draw: Write | None = None, max_source_tokens: int = 60) -> None:
        self.write, self.drawn = write, draw
        self.max_source_tokens = max_source_tokens
        self.read: list[str] = []
        self.drew = 0

    def count_tokens(self, text: str) -> int:
        return (len(text) + 3) // 4

    def generate(self, sources: Sequence[str]) -> list[Generation]:
        self.read += sources
        return [generation(self.write(source)) for source in sources]

    def draw(self, sources: Sequence[str], count: int) -> list[list[Generation]]:
        self.drew += len(sources)
        return [[generation(self.drawn(source))] * count if self.drawn else [] for source in sources]


def generation(said: Generation | str) -> Generation:
    return said if isinstance(said, Generation) else Generation(said, 10, len(said) // 4 + 1, "stop")


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def calls(*ids: str, name: str = "look_up") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": one, "type": "function", "function": {"name": name, "arguments": f'{{"of": "{one}"}}'}}
            for one in ids
        ],
    }


def result(call: str, text: str = "found") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": text}


THINGS = "kettle lamp ladder bicycle carpet violin tent stove mirror compass saddle anchor".split()
PLACES = "cellar garden attic harbour station library market chapel bakery museum".split()


def talk(turns: int, seed: int = 0) -> list[dict[str, Any]]:
    """A chat about things and where they are, each turn with a number of its own."""
    rng = random.Random(seed)
    found: list[dict[str, Any]] = []
    for n in range(turns):
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        if n % 2 == 0:
            found.append(user(f"Please note that the {thing} number {1000 + n} is in the {place} now."))
        else:
            found.append(assistant(f"Noted. I wrote down that it went to the {place} and cost {2000 + n} crowns."))
    return found


def random_chat(rng: random.Random, turns: int) -> list[dict[str, Any]]:
    """Anything that clients send: tools, parts, names, several scripts, giants, late results, system messages."""
    texts = [
        "ok",
        "Wo liegt der Schlüssel?",
        "Đơn hàng của tôi bị vỡ, mã là LM-48213, giao ngày 12/5.",
        "请问明天几点开门？我想订两张票。",
        "Can you check https://shop.example/orders/51907 for me, please? It said 54.90 EUR.",
        "```python\nprint('a')\n```",
        "🙂🙂 family 👨‍👩‍👧 here",
        "word " * rng.randint(1, 400),
        "x" * rng.randint(1, 500),
    ]
    found: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        found.append({"role": "system", "content": "You answer briefly. " * rng.randint(1, 4)})
    while len(found) < turns:
        kind = rng.random()
        if kind < 0.15:
            ids = [f"call-{len(found)}-{n}" for n in range(rng.randint(1, 3))]
            found.append(calls(*ids))
            if rng.random() < 0.2:
                found.append(user("still there?"))
            found += [result(one, rng.choice(texts)) for one in ids]
        elif kind < 0.2:
            found.append({"role": "developer", "content": "From now on, answer in English."})
        elif kind < 0.25:
            found.append(
                user(
                    [
                        {"type": "text", "text": rng.choice(texts)},
                        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
                    ]
                )
            )  # type: ignore[arg-type]
        elif kind < 0.3:
            found.append(user(rng.choice(texts), pinned=True))
        elif kind < 0.4:
            found.append(user(rng.choice(texts), name=rng.choice(["Mehdi", "Ann"]), id=f"m{len(found)}"))
        else:
            found.append(rng.choice([user, assistant])(rng.choice(texts)))
    return found
