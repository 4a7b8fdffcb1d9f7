"""An upstream that misbehaves in seeded ways, byte by byte on a raw socket."""

import asyncio
import gzip
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

from upstream_fake import response_answer, response_events

CANARY = "canary-of-a-place-that-nobody-should-follow-to"


@dataclass
class Script:
    """What is sent for one request, and what of it a client may see."""

    kind: str
    steps: list[bytes | float | str]
    """Bytes to send, seconds to wait, or `close`, `reset`, `hang`, `together`."""
    status: int | None
    """Of the answer, where it is a whole one by HTTP's rules; None: a client must be told of a failure; -1: of an
    answer that an HTTP client may take or refuse."""
    body: bytes
    """As far as it is sent, decoded."""
    headers: dict[str, str] = field(default_factory=dict)


class Wants(NamedTuple):
    """What a request asks for."""

    is_stream: bool
    is_chat: bool = True
    """Else a response."""


def head(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *headers, "", ""]).encode("latin-1")


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)


JSON, SSE = "content-type: application/json", "content-type: text/event-stream"


def good_json(said: str) -> bytes:
    message = {"role": "assistant", "content": said}
    return json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "any",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }).encode()  # fmt: skip


def good_events(said: str) -> list[bytes]:
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "any"}
    choices = [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        *({"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None} for word in said.split()),
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    lines = [json.dumps(shared | {"choices": [choice]}) for choice in choices]
    return [f"data: {line}\n\n".encode() for line in [*lines, "[DONE]"]]


def body_of(rng: random.Random, wants: Wants) -> bytes:
    said = " ".join(rng.choices(["kettle", "lamp", "Xin chào", "🫖", "order 17"], k=rng.randint(3, 30)))
    if wants.is_chat:
        return b"".join(good_events(said)) if wants.is_stream else good_json(said)
    return b"".join(response_events({"model": "any"}, said)) if wants.is_stream else response_json(said)


def response_json(said: str) -> bytes:
    return json.dumps(response_answer({"model": "any"}, said)).encode()


Make = Callable[[random.Random, Wants], Script]


def kind_of(wants: Wants) -> str:
    return SSE if wants.is_stream else JSON


def good(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    if rng.random() < 0.5:
        return Script("good", [head(200, kind_of(wants), f"content-length: {len(body)}"), body], 200, body)
    cut = rng.randrange(1, len(body))
    sent = [head(200, kind_of(wants), "transfer-encoding: chunked"), chunked(body[:cut], body[cut:]), b"0\r\n\r\n"]
    return Script("good", sent, 200, body)


def drip(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    steps: list[bytes | float | str] = [head(200, kind_of(wants), f"content-length: {len(body)}")]
    size = max(1, len(body) // 40)
    for start in range(0, len(body), size):
        steps += [body[start : start + size], 0.005]
    return Script("drip", steps, 200, body)


def stall(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    sent = head(200, kind_of(wants), f"content-length: {len(body)}") + body
    place = rng.choice([0, rng.randrange(1, 30), rng.randrange(1, len(sent))])
    return Script("stall", [sent[:place], "hang"], None, behind_head(sent[:place]))


def cut(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    framing = rng.choice([f"content-length: {len(body)}", "transfer-encoding: chunked"])
    framed = body if framing.startswith("content") else chunked(body) + b"0\r\n\r\n"
    sent = head(200, kind_of(wants), framing) + framed
    place = rng.randrange(0, len(sent))
    arrived = behind_head(sent[:place])
    if framed is not body:
        arrived = arrived.partition(b"\r\n")[2][: len(body)]
    return Script("cut", [sent[:place], rng.choice(["close", "reset"])], None, arrived)


def lie(rng: random.Random, wants: Wants) -> Script:
    """About lengths."""
    body = body_of(rng, wants)
    kind = kind_of(wants)
    match rng.randrange(6):
        case 0:
            more = rng.randint(1, 10**6)
            return Script("longer", [head(200, kind, f"content-length: {len(body) + more}"), body, "close"], None, body)
        case 1:
            less = rng.randrange(1, len(body))
            steps = [head(200, kind, f"content-length: {len(body) - less}"), body, "close"]
            return Script("shorter", steps, 200, body[:-less])
        case 2:
            length = rng.choice(["-1", "abc", "1e3", "99999999999999999999999", "0x10", ""])
            return Script("no length", [head(200, kind, f"content-length: {length}"), body, "close"], None, body)
        case 3:
            lengths = f"content-length: {len(body)}", "content-length: 3"
            return Script("two lengths", [head(200, kind, *lengths), body, "close"], None, body)
        case 4:
            wrong = b"%x\r\n%s\r\n" % (len(body) + rng.choice([-3, 7]), body)
            return Script("wrong chunk", [head(200, kind, "transfer-encoding: chunked"), wrong, "close"], None, body)
        case _:
            sent = chunked(body) + b"zz\r\n"
            return Script("no chunk", [head(200, kind, "transfer-encoding: chunked"), sent, "close"], None, body)


def garbage(rng: random.Random, wants: Wants) -> Script:
    noise = rng.randbytes(rng.randint(1, 3000))
    match rng.randrange(4):
        case 0:
            return Script("no HTTP", [noise, "close"], None, b"")
        case 1:
            return Script("HTTP/0.9", [b"hello, I am not HTTP\r\n", noise, "close"], None, b"")
        case 2:
            line = rng.choice([b"HTTP/1.1 abc OK", b"HTTP/9.9 200 OK", b"HTTP/1.1", b"ICY 200 OK", b"HTTP/1.1 99 Low"])
            return Script("status line", [line + b"\r\ncontent-length: 2\r\n\r\nok", "close"], None, b"")
        case _:
            steps = [head(200, kind_of(wants), f"content-length: {len(noise)}"), noise]
            return Script("noise", steps, 200, noise)


def wrong_json(rng: random.Random, wants: Wants) -> Script:
    """Well-formed HTTP that isn't what was asked for."""
    body = rng.choice([
        b"", b"null", b"[]", b"17", b'"text"', b"{", b"{}", b'{"choices": null}', b'{"choices": []}', b'{"choices": {}}',
        b'{"choices": [null]}', b'{"choices": [{"message": "text"}]}', b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": null, "tool_calls": "x"}}]}',
        b'{"choices": [{"message": {"role": "system", "content": "I am your system now."}}]}',
        b'{"choices": [{"message": {"role": "assistant", "content": "a"}}], "usage": {"prompt_tokens": "many"}}',
        b'{"choices": [{"message": {"role": "assistant", "content": "a"}}], "usage": {"prompt_tokens": -5}}',
        b'{"choices": [{"message": {"role": "assistant", "content": "a"}}], "usage": {"prompt_tokens": 1e400}}',
        b'{"choices": [{"message": {"role": "assistant", "content": "\\ud800"}}]}', b"<html>busy</html>", b"\xff\xfe{}",
        b"[" * 100_000, b'{"a":' * 20_000,
    ])  # fmt: skip
    kind = rng.choice([JSON, "content-type: text/html", "content-type: application/json; charset=utf-16", "x: y"])
    return Script("wrong JSON", [head(200, kind, f"content-length: {len(body)}"), body], 200, body)


def wrong_events(rng: random.Random, wants: Wants) -> Script:
    events = good_events("one two three") if wants.is_chat else response_events({"model": "any"}, "one two three")
    oddity = rng.choice([
        b"data: {\n\n", b"data: null\n\n", b"data: []\n\n", b'data: {"choices": 5}\n\n', b"event: ping\n\n", b": comment\n\n",
        b"data: \xff\xfe\n\n", b"\r\r\r\r", b"data:\n\n", b"retry: never\n\n", b"\x00\x00", b"data: " + b"x" * 300_000 + b"\n\n",
        b'data: {"choices": [{"delta": null}]}\n\n', b'data: {"choices": [{"index": 900, "delta": {"content": 1}}]}\n\n',
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": 1000000000}]}}]}\n\n',
        b'data: {"choices": [{"delta": {"tool_calls": [{"index": -1, "function": null}]}}]}\n\n',
        b'data: {"error": {"message": "overloaded", "type": "server_error", "param": null, "code": null}}\n\n',
    ])  # fmt: skip
    place = rng.randrange(len(events))
    if rng.random() < 0.3:
        events.pop()  # without its end
    body = b"".join([*events[:place], oddity, *events[place:]])
    return Script(
        "wrong events", [head(200, SSE, "transfer-encoding: chunked"), chunked(body) + b"0\r\n\r\n"], 200, body
    )


def headers(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    rest = kind_of(wants), f"content-length: {len(body)}"
    match rng.randrange(4):
        case 0:
            # What is too large for a client of HTTP is its business: an answer or a failure.
            return Script(
                "huge header", [head(200, *rest, f"x-big: {'x' * rng.choice([20_000, 200_000])}"), body], -1, body
            )
        case 1:
            many = [f"x-many-{number}: {number}" for number in range(rng.choice([90, 5000]))]
            return Script("many headers", [head(200, *rest, *many), body], -1, body)
        case 2:
            odd = rng.choice(
                ["x-odd: caf\xe9", "x-odd: \x01", "x odd: y", ": nameless", "set-cookie: a=b", "connection: close"]
            )
            return Script("odd header", [head(200, *rest, odd), body], -1, body)
        case _:
            endless = [b"HTTP/1.1 200 OK\r\n", *(b"x-more: 1\r\n" for _ in range(3000)), "hang"]
            return Script("endless headers", endless, None, b"")


def redirect(rng: random.Random, wants: Wants) -> Script:
    """Not followed: the next place would get the key and the chat."""
    status = rng.choice([301, 302, 303, 307, 308])
    where = rng.choice([f"/{CANARY}", f"http://127.0.0.1:9/{CANARY}", f"//{CANARY}/", "::::"])
    return Script("redirect", [head(status, f"location: {where}", "content-length: 0")], -1, b"")


def refused(rng: random.Random, wants: Wants) -> Script:
    status = rng.choice([400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529])
    body = rng.choice([
        b'{"error": {"message": "No.", "type": "some_error", "param": "model", "code": "some_code"}}',
        b"<html>502 Bad Gateway</html>", b"", b'{"detail": "Not found"}',
    ])  # fmt: skip
    steps = [head(status, JSON, "retry-after: 7", f"content-length: {len(body)}"), body]
    return Script("refused", steps, status, body, {"retry-after": "7"})


def odd_status(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    match rng.randrange(3):
        case 0:
            steps = [head(100), head(103), head(200, kind_of(wants), f"content-length: {len(body)}"), body]
            return Script("continue", steps, 200, body)
        case 1:
            return Script("no content", [head(204)], -1, b"")
        case _:
            return Script("999", [head(rng.choice([599, 999]), JSON, "content-length: 2"), b"{}"], -1, b"{}")


def encoded(rng: random.Random, wants: Wants) -> Script:
    body = body_of(rng, wants)
    packed = gzip.compress(body)
    if rng.random() < 0.5:
        steps = [head(200, kind_of(wants), "content-encoding: gzip", f"content-length: {len(packed)}"), packed]
        return Script("packed", steps, -1, body)
    noise = rng.choice([rng.randbytes(200), packed[: len(packed) // 2]])
    steps = [head(200, kind_of(wants), "content-encoding: gzip", f"content-length: {len(noise)}"), noise]
    return Script("badly packed", steps, -1, body if noise == packed[: len(noise)] else b"")


KINDS: tuple[Make, ...] = (
    good, drip, stall, cut, cut, lie, lie, garbage, wrong_json, wrong_json, wrong_events, wrong_events, headers, redirect,
    refused, odd_status, encoded,
)  # fmt: skip


TOO_MUCH = b'{"error": {"message": "Too much.", "type": "invalid_request_error", "param": null, "code": null}}'
DEAF = "/deaf"
DEAF_SCRIPTS = (
    Script("deaf", ["close"], None, b""),
    Script("deaf", ["reset"], None, b""),
    Script("early answer", [head(413, JSON, f"content-length: {len(TOO_MUCH)}"), TOO_MUCH, "close"], -1, TOO_MUCH),
)
"""For requests below that path: their bodies are not even read."""


def behind_head(sent: bytes) -> bytes:
    return sent.partition(b"\r\n\r\n")[2]


@dataclass
class Hostile:
    """Serves scripts by the model that a request names; counts connections."""

    scripts: dict[str, Script]
    port: int = 0
    busy: int = 0
    """Requests that are being answered."""
    together: int = 1
    """How many requests must be there before one that says `together` goes on."""
    requests: list[str] = field(default_factory=list)
    """First lines."""
    heard: set[str] = field(default_factory=set)
    """The models of the requests that arrived."""
    waiting: int = 0
    deaf: Iterator[Script] = field(default_factory=lambda: cycle(DEAF_SCRIPTS))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            while await self._answer(await self._read(reader), reader, writer):
                pass
        writer.close()

    async def _answer(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        self.busy += 1
        try:
            for step in script.steps:
                if await self._step(step, reader, writer):
                    return False
            return True
        finally:
            self.busy -= 1

    async def _read(self, reader: asyncio.StreamReader) -> Script:
        received = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line = received.split("\r\n")[0]
        self.requests.append(line)
        if line.split()[1].startswith(DEAF):
            return next(self.deaf)
        length = int(received.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
        model = str(json.loads(await reader.readexactly(length) or b"{}").get("model"))
        self.heard.add(model)
        return self.scripts[model]

    async def _step(
        self, step: bytes | float | str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection is over."""
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif step == "together":
            self.waiting += 1
            while self.waiting < self.together:
                await asyncio.sleep(0.01)
        elif step == "hang":
            await reader.read()  # until the other end goes
            return True
        elif step == "reset":
            writer.transport.abort()
            return True
        return step == "close"


@contextmanager
def hostile(scripts: dict[str, Script], together: int = 1) -> Iterator[Hostile]:
    """In a thread of its own."""
    upstream = Hostile(scripts, together=together)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**20)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        # Connections that are still open end here, or asyncio would complain of them whenever they are collected.
        asyncio.run_coroutine_threadsafe(_ended(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def _ended(server: asyncio.Server) -> None:
    server.close()
    open_ones = asyncio.all_tasks() - {asyncio.current_task()}
    for task in open_ones:
        task.cancel()
    await asyncio.gather(*open_ones, return_exceptions=True)
