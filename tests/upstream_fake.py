"""An OpenAI-shaped upstream that remembers what it was asked, and fails in every way that a client may name.

    python tests/upstream_fake.py --port 9000

A model `any!stall` fails as `stall` says (see FAILURES), every other one answers: what it was told last, word for word,
in words as pieces of a stream. A user who says "look up" and brings tools gets a call of the first one.
"""

import argparse
import asyncio
import json
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Body = dict[str, Any]

JSON, HTML, EVENTS = "application/json", "text/html; charset=utf-8", "text/event-stream"
LIMITED = {"retry-after": "7", "x-ratelimit-remaining-requests": "0", "openai-processing-ms": "3"}
HUGE = 40 * 2**20
"""Bytes of an answer to `huge`."""
FAILURES = {
    "stall": "never answers",
    "stall-mid": "a stream that stops, and stays open",
    "cut": "a stream that ends in the middle of an answer",
    "cut-line": "a stream that ends in the middle of a line",
    "cut-first": "headers, and then nothing",
    "lie": "fewer bytes than content-length says",
    "html": "a page instead of an answer",
    "html-503": "a page with status 503",
    "garbage": "bytes that are no JSON",
    "empty": "no body",
    "list": "JSON that is no object",
    "list-400": "an error in a list",
    "half": "a list of models, with half a character in the id of one",
    "header": "a header beyond Latin-1",
    "null-error": "a stream whose chunks have an error of null",
    "redirect": "another address",
    "400": "the context is too long",
    "401": "the key is wrong",
    "429": "come again in 7 seconds",
    "500": "an error of the upstream's own",
    "huge": "40 MB",
}


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: Body
    query: str = ""

    @property
    def messages(self) -> list[Body]:
        return list(self.body.get("messages") or ())


@dataclass
class FakeUpstream:
    """The ASGI application."""

    asked: list[Asked] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Models whose asker hung up before the answer's end."""
    says: Callable[[Body], str] | None = None
    """The answer's text by the request's body, where it isn't what was said last."""
    lists: Any = None
    """What `/models` answers: a list of ids, or a failure's name."""
    pause: float = 0.0
    """Seconds between the pieces of a stream."""

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        data = b""
        while (event := await receive())["type"] == "http.request":
            data += event.get("body", b"")
            if not event.get("more_body"):
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = json.loads(data) if data else {}
        self.asked.append(Asked(scope["path"], headers, body, scope["query_string"].decode()))
        answering = Answering(self, scope["path"], body, receive, send)
        await answering.run()


class Answering:
    def __init__(self, fake: FakeUpstream, path: str, body: Body, receive: Receive, send: Send) -> None:
        self.fake, self.path, self.body, self.receive, self.send = fake, path, body, receive, send
        self.model = str(body.get("model"))
        self.failure = self.model.partition("!")[2]
        if path.endswith("/models") and isinstance(fake.lists, str):
            self.failure = fake.lists

    async def run(self) -> None:
        answer = asyncio.ensure_future(self._answer())
        while True:
            gone = asyncio.ensure_future(self.receive())
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                gone.cancel()
                answer.result()
                return
            if gone.result()["type"] == "http.disconnect":
                self.fake.gone.append(self.model)
                answer.cancel()
                return

    async def _answer(self) -> None:
        if self.failure in ("stall",):
            await asyncio.Event().wait()
        if self.failure in FAILURES and not self.failure.startswith(("cut", "stall")):
            await self._fail()
        elif self.path.endswith("/chat/completions"):
            await self._stream(chat_events(self.body, self._text())) if self.body.get("stream") else await self._whole(
                chat_answer(self.body, self._text())
            )
        elif self.path.endswith("/responses"):
            await self._stream(response_events(self.body, self._text())) if self.body.get(
                "stream"
            ) else await self._whole(response_answer(self.body, self._text()))
        elif self.path.endswith("/models") and self.fake.lists is not None:
            data = [{"id": id_, "object": "model", "created": 1, "owned_by": "them"} for id_ in self.fake.lists]
            await self._whole({"object": "list", "data": data})
        else:
            await self._error(404, "There is nothing here.", "not_found")

    def _text(self) -> str:
        return self.fake.says(self.body) if self.fake.says else said_last(self.body)

    async def _stream(self, events: list[bytes]) -> None:
        await self._start(200, EVENTS, {"openai-version": "2020-10-01", "x-request-id": "req_upstream"})
        if self.failure == "cut-first":
            return
        half = max(1, len(events) // 2)
        for number, event in enumerate(events):
            if number == half and self.failure.startswith(("cut", "stall")):
                if self.failure == "cut-line":
                    await self._part(event[: len(event) // 2])
                if self.failure == "stall-mid":
                    await asyncio.Event().wait()
                return  # without its end: the connection is closed
            await self._part(event)
            await asyncio.sleep(self.fake.pause)
        await self.send({"type": "http.response.body", "body": b""})

    async def _whole(self, answer: Body) -> None:
        data = json.dumps(answer, ensure_ascii=False).encode()
        short = self.failure.startswith(("cut", "stall"))
        await self._start(200, JSON, {"x-request-id": "req_upstream", "content-length": str(len(data))})
        if short:
            await self._part(data[: len(data) // 2] if self.failure != "cut-first" else b"")
            if self.failure.startswith("stall"):
                await asyncio.Event().wait()
            return
        await self.send({"type": "http.response.body", "body": data})

    async def _fail(self) -> None:
        match self.failure:
            case "400":
                message = "This model's maximum context length is 10 tokens. (context_length_exceeded)"
                await self._error(400, message, "context_length_exceeded")
            case "401":
                await self._error(401, "Incorrect API key provided.", "invalid_api_key")
            case "429":
                await self._error(429, "Rate limit reached.", "rate_limit_exceeded", LIMITED)
            case "500":
                await self._error(500, "The server had an error.", None)
            case "lie":
                await self._send(200, JSON, b'{"choices": [', {"content-length": "10000"})
            case "html":
                await self._send(200, HTML, b"<html><body>Welcome to nginx!</body></html>")
            case "html-503":
                await self._send(503, HTML, b"<html><body>Bad gateway</body></html>", {"retry-after": "3"})
            case "garbage":
                await self._send(200, JSON, b"\x00\xff\xfe garbage")
            case "empty":
                await self._send(200, JSON, b"")
            case "list":
                await self._send(200, JSON, b"[1, 2]")
            case "list-400":
                await self._send(400, JSON, b'[{"error": {"code": 400, "message": "No."}}]')
            case "half":
                await self._send(200, JSON, json.dumps({"data": [{"id": "half-\ud83d"}, {"id": "whole"}]}).encode())
            case "header":
                whole = json.dumps(chat_answer(self.body, "Hi")).encode()
                await self._send(200, JSON, whole, {"openai-organization": "Łódź"})
            case "null-error":
                await self._start(200, EVENTS, {})
                for event in chat_events(self.body, "a b c"):
                    await self._part(event.replace(b'{"id"', b'{"error": null, "id"'))
                    await asyncio.sleep(0.01)
                await self.send({"type": "http.response.body", "body": b""})
            case "redirect":
                await self._send(307, JSON, b"{}", {"location": "http://127.0.0.1:1/elsewhere"})
            case "huge":
                await self._send(200, JSON, json.dumps(chat_answer(self.body, "x" * HUGE)).encode())

    async def _error(self, status: int, message: str, code: str | None, headers: dict[str, str] | None = None) -> None:
        error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
        await self._send(status, JSON, json.dumps(error).encode(), headers)

    async def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self._start(status, kind, headers or {})
        await self.send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, kind: str, headers: dict[str, str]) -> None:
        all_of = {"content-type": kind, **headers}
        raw = [(name.encode(), value.encode()) for name, value in all_of.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def _part(self, data: bytes) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": True})


# -- answers


def said_last(body: Body) -> str:
    """Both endpoints' requests end with what was said last."""
    given = body.get("messages", body.get("input"))
    if isinstance(given, str):
        return f"You said: {given}"
    last = given[-1] if given else {}
    content = last.get("content", last.get("output", ""))
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content)
    return f"You said: {content}"


def wants_tool(body: Body) -> bool:
    given = body.get("messages", body.get("input"))
    last = given[-1] if isinstance(given, list) and given else {}
    return bool(body.get("tools")) and last.get("role") == "user" and "look up" in json.dumps(last)


def tokens_of(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False)) // 4


def _id(prefix: str, body: Body) -> str:
    return f"{prefix}_{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}"


def chat_message(body: Body, text: str) -> Body:
    if not wants_tool(body):
        return {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    name = body["tools"][0]["function"]["name"]
    call = {"id": _id("call", body), "type": "function", "function": {"name": name, "arguments": '{"of":"it"}'}}
    return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []}


def _chat_usage(body: Body, text: str) -> Body:
    prompt, new = tokens_of(body.get("messages")), len(text.split())
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def chat_answer(body: Body, text: str) -> Body:
    message = chat_message(body, text)
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    choices = [
        {"index": n, "message": message, "finish_reason": reason, "logprobs": None} for n in range(body.get("n") or 1)
    ]
    head = {"id": _id("chatcmpl", body), "object": "chat.completion", "created": 1, "model": body.get("model")}
    return {**head, "choices": choices, "usage": _chat_usage(body, text), "a_new_field": {"kept": True}}


def chat_events(body: Body, text: str) -> list[bytes]:
    message = chat_message(body, text)
    head = {"id": _id("chatcmpl", body), "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
    deltas: list[Body] = [{"role": "assistant", "content": "" if message["content"] else None}]
    reason = "stop"
    if message.get("tool_calls"):
        [call] = message["tool_calls"]
        function = call["function"]
        deltas.append({"tool_calls": [{"index": 0, **call, "function": {"name": function["name"], "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in _pieces(function["arguments"])
        ]
        reason = "tool_calls"
    else:
        deltas += [{"content": part} for part in _pieces(text)]
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": _chat_usage(body, text)})
    return [b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n" for chunk in chunks] + [
        b"data: [DONE]\n\n"
    ]


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word if n == 0 else f" {word}" for n, word in enumerate(words)]


def response_output(body: Body, text: str) -> list[Body]:
    if wants_tool(body):
        tool = body["tools"][0]
        return [
            {"type": "reasoning", "id": _id("rs", body), "summary": []},
            {
                "type": "function_call", "id": _id("fc", body), "call_id": _id("call", body), "name": tool["name"],
                "arguments": '{"of":"it"}', "status": "completed",
            },
        ]  # fmt: skip
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {
        "type": "message", "id": _id("msg", body), "role": "assistant", "status": "completed", "content": [part],
    }  # fmt: skip
    return [message]


def response_answer(body: Body, text: str) -> Body:
    prompt, new = tokens_of(body.get("input")), len(text.split())
    usage = {
        "input_tokens": prompt, "output_tokens": new, "total_tokens": prompt + new,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    return {
        "id": _id("resp", body), "object": "response", "created_at": 1, "status": "completed", "error": None,
        "incomplete_details": None, "instructions": body.get("instructions"), "metadata": body.get("metadata") or {},
        "model": body.get("model"), "output": response_output(body, text), "parallel_tool_calls": True,
        "temperature": 1.0, "tool_choice": "auto", "tools": body.get("tools") or [], "top_p": 1.0, "usage": usage,
    }  # fmt: skip


def response_events(body: Body, text: str) -> list[bytes]:
    whole = response_answer(body, text)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events: list[Body] = [{"type": "response.created", "response": begun}]
    for number, item in enumerate(whole["output"]):
        empty = {**item, "content": []} if item["type"] == "message" else item
        events.append({"type": "response.output_item.added", "output_index": number, "item": empty})
        if item["type"] == "message":
            where = {"item_id": item["id"], "output_index": number, "content_index": 0}
            [part] = item["content"]
            events.append({"type": "response.content_part.added", **where, "part": {**part, "text": ""}})
            events += [
                {"type": "response.output_text.delta", **where, "delta": delta, "logprobs": []}
                for delta in _pieces(text)
            ]
            events.append({"type": "response.output_text.done", **where, "text": text, "logprobs": []})
            events.append({"type": "response.content_part.done", **where, "part": part})
        events.append({"type": "response.output_item.done", "output_index": number, "item": item})
    events.append({"type": "response.completed", "response": whole})
    return [
        f"event: {event['type']}\ndata: ".encode()
        + json.dumps({**event, "sequence_number": number}, ensure_ascii=False).encode()
        + b"\n\n"
        for number, event in enumerate(events)
    ]


# -- servers


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """Serve an ASGI application from a thread, on a free port of the loopback; its address."""
    # Its own configuration of logs closes every handler there is; absl's closes what it writes to, which is pytest's.
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, log_level="critical", lifespan="auto",
        timeout_graceful_shutdown=1, **options,
    )  # fmt: skip
    server = uvicorn.Server(config)
    began = threading.Event()

    async def serve() -> None:
        serving = asyncio.ensure_future(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        began.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert began.wait(30), "The server did not begin."
    assert server.started, "The server could not begin."
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=9000)
    uvicorn.run(FakeUpstream(), host="127.0.0.1", port=arguments.parse_args().port, log_level="warning")
