"""An OpenAI-shaped server that answers at once and costs next to nothing: what the server's benchmarks call upstream.

    python benchmarks/fake_upstream.py --port 9000

It answers `POST .../chat/completions`, streamed or not, under any prefix. The answer hangs on the last message alone. A
token is four characters of what messages say and call; `usage` has how many were received.
"""

import argparse
import json
import random
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Body = dict[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOOK_UP = "Look it up, please."
"""A user who says this gets a call of the first tool that came with the request."""
WORDS_A_PIECE = 5

CHATS = Path(__file__).parents[1] / "src" / "tomtat" / "data" / "chats" / "train.jsonl"


@cache
def sentences() -> list[str]:
    """What people say in the bundled conversations."""
    rows = map(json.loads, CHATS.read_text(encoding="utf-8").splitlines())
    said = (turn["content"] or "" for row in rows for turn in row["messages"])
    return [one for text in said for one in re.split(r"(?<=[.!?]) +", text) if len(one.split()) > 3]


def words(seed: int, fewest: int = 20, most: int = 60) -> str:
    """Something said, with a number of its own in it."""
    chance = random.Random(seed)
    count = chance.randint(fewest, most)
    said: list[str] = []
    while len(said) < count:
        said += chance.choice(sentences()).split()
    return f"{' '.join(said[:count])} That is number {chance.randrange(10_000, 100_000)}."


def answer(body: Body) -> Message:
    last = body["messages"][-1]
    seed = zlib.crc32(json.dumps(last, sort_keys=True).encode())
    if body.get("tools") and str(last.get("content")).endswith(LOOK_UP):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps({"of": f"thing {seed}"})}
        call = {"id": f"call_{seed:08x}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": words(seed)}


def tokens(messages: list[Message]) -> int:
    return sum(map(characters, messages)) // 4 + 4 * len(messages)


def characters(message: Message) -> int:
    calls = message.get("tool_calls") or ()
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    return len(content) + sum(len(call["function"]["name"] + call["function"]["arguments"]) for call in calls)


class FakeUpstream:
    """An ASGI application. What it received is told to `heard`."""

    def __init__(
        self, reply: Callable[[Body], Message] = answer, heard: Callable[[Body], object] = lambda body: None
    ) -> None:
        self.reply, self.heard = reply, heard

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        received = await whole(receive)
        if scope["path"] == "/ready":
            await respond(send, 200, "text/plain", [b"ready"])
            return
        if scope["method"] != "POST" or not scope["path"].endswith("/chat/completions"):
            await respond(send, 404, "application/json", [b'{"error": {"message": "There is nothing here."}}'])
            return
        body = json.loads(received)
        self.heard(body)
        message = self.reply(body)
        spent, written = tokens(body["messages"]), characters(message) // 4 + 1
        usage = {"prompt_tokens": spent, "completion_tokens": written, "total_tokens": spent + written}
        shared = {"id": "chatcmpl-fake", "created": 1_700_000_000, "model": body.get("model")}
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        if body.get("stream"):
            told = usage if (body.get("stream_options") or {}).get("include_usage") else None
            chunks = streamed(shared | {"object": "chat.completion.chunk"}, message, finish, told)
            await respond(send, 200, "text/event-stream", list(chunks))
        else:
            choice = {"index": 0, "message": message, "finish_reason": finish}
            whole_answer = shared | {"object": "chat.completion", "choices": [choice], "usage": usage}
            await respond(send, 200, "application/json", [json.dumps(whole_answer).encode()])


async def whole(receive: Receive) -> bytes:
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def respond(send: Send, status: int, kind: str, parts: list[bytes]) -> None:
    headers = [(b"content-type", kind.encode())]
    if len(parts) == 1:
        headers.append((b"content-length", str(len(parts[0])).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def streamed(shared: Body, message: Message, finish: str, usage: Body | None) -> Iterator[bytes]:
    def event(delta: Message, reason: str | None = None) -> bytes:
        return line(shared | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield event({"role": "assistant", "content": "" if message["content"] else None})
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        yield event({"tool_calls": [{**call, "index": number, "function": {**function, "arguments": ""}}]})
        for piece in (function["arguments"][:5], function["arguments"][5:]):
            yield event({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    said = (message["content"] or "").split(" ")
    for start in range(0, len(said) if message["content"] else 0, WORDS_A_PIECE):
        piece = " ".join(said[start : start + WORDS_A_PIECE])
        yield event({"content": piece if start == 0 else f" {piece}"})
    yield event({}, finish)
    if usage:
        yield line(shared | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def line(chunk: Body) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(FakeUpstream(), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
