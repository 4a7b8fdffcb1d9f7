"""A summarizer as the model of a chat completion or a response: it answers with a summary of what it is given.

So any tool that can name a model for compaction names a summarizer, and stays as it is. What is read of a request says
`sources`. `max_tokens` and its kind cut a summary; `max_words`, `max_sentences` and `language` go beside OpenAI's
fields (`extra_body`). Temperature, tools and whatever else is not known here are ignored.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import anyio.to_thread
from starlette.responses import JSONResponse, Response

from tomtat.server.compaction import expanded
from tomtat.server.errors import ApiError
from tomtat.server.items import Unreadable, expanded_sayings, read_items
from tomtat.server.services import Caller, Services
from tomtat.server.sources import source_of
from tomtat.server.streaming import DONE, event, event_stream
from tomtat.server.summaries import usage_of
from tomtat.types import Source, Summary

Body = Mapping[str, Any]

OURS = ("max_words", "max_sentences", "language", "long_inputs")
"""Fields beside OpenAI's that a summarizer heeds."""


async def chat(caller: Caller, services: Services, body: Body) -> Response:
    """A chat completion, or its chunks. Raises: ApiError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages is a list of one or more objects.", "invalid_type", "messages")
    source = await anyio.to_thread.run_sync(lambda: source_of(expanded(messages)))
    answer = _Asked(caller, services, body, source, ("max_completion_tokens", "max_tokens"))
    if body.get("stream"):
        return await event_stream(_chunks(answer, _wants_usage(body)))
    summary = await answer.whole()
    message = {"role": "assistant", "content": summary.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": summary.finish_reason}
    head = _chat_head(answer.model, "chat.completion")
    return JSONResponse({**head, "choices": [choice], "usage": usage_of([summary]).model_dump()})


async def respond(caller: Caller, services: Services, body: Body) -> Response:
    """A response, or its events. Raises: ApiError."""
    source = await anyio.to_thread.run_sync(_source_of_input, body.get("input"), services)
    if body.get("background"):
        raise ApiError(400, "A summarizer answers at once, not in the background.", "unsupported", "background")
    answer = _Asked(caller, services, body, source, ("max_output_tokens",))
    response = _Response(answer, body)
    if body.get("stream"):
        return await event_stream(response.events())
    return JSONResponse(response.done(await answer.whole()))


class _Asked:
    """A request for one summary, checked. Raises: ApiError 400."""

    def __init__(self, caller: Caller, services: Services, body: Body, source: Source, limits: tuple[str, ...]) -> None:
        self.caller, self.services, self.source = caller, services, source
        self.model: str = body["model"]
        if body.get("n") not in (None, 1):
            raise ApiError(400, "A summarizer gives one answer: n is 1.", "unsupported", "n")
        if _kind_of_format(body) not in (None, "text"):
            raise ApiError(400, "A summarizer answers in plain text.", "unsupported", "response_format")
        self.generate = {name: body[name] for name in OURS if body.get(name) is not None}
        if (most := _limit(body, limits)) is not None:
            own = [card.max_new_tokens for card in services.models.cards(caller.tenant) if card.id == self.model]
            self.generate["max_new_tokens"] = min([most, *own])

    async def whole(self) -> Summary:
        (summary,) = await self.services.models.summarize(self.caller, self.model, [self.source], self.generate)
        self._count(summary)
        return summary

    async def pieces(self) -> AsyncGenerator[str | Summary]:
        async with aclosing(self.services.models.stream(self.caller, self.model, self.source, self.generate)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Summary):
                    self._count(piece)
                yield piece

    def _count(self, summary: Summary) -> None:
        self.services.admission.spent(self.caller, usage_of([summary]).total_tokens)


def _limit(body: Body, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ApiError(400, f"{name} is a whole number of at least 1.", "invalid_type", name)
        return value
    return None


def _kind_of_format(body: Body) -> Any:
    """`response_format.type`, or `text.format.type` of a response."""
    given = body.get("response_format")
    text = body.get("text")
    if given is None and isinstance(text, Mapping):
        given = text.get("format")
    return given.get("type") if isinstance(given, Mapping) else None


# -- chat completions


def _chat_head(model: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model,
        "system_fingerprint": None,
    }  # fmt: skip


def _wants_usage(body: Body) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


async def _chunks(answer: _Asked, wants_usage: bool) -> AsyncGenerator[str]:
    head = _chat_head(answer.model, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice], **more})

    begins = chunk({"role": "assistant", "content": "", "refusal": None})
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            if begins:
                # With the first piece only: until then an error has a status of its own.
                yield begins
                begins = ""
            if not isinstance(piece, Summary):
                yield chunk({"content": piece})
                continue
            usage = usage_of([piece]).model_dump()
            yield chunk({}, piece.finish_reason, **({} if wants_usage else {"usage": usage}))
            if wants_usage:
                yield event({**head, "choices": [], "usage": usage})
    yield DONE


# -- responses


def _source_of_input(given: Any, services: Services) -> Source:
    if isinstance(given, str):
        return source_of([{"role": "user", "content": given}], "input")
    most = services.settings.limits.messages
    if not isinstance(given, list) or not given:
        raise ApiError(400, "input is a text or a list of one or more items.", "invalid_type", "input")
    if len(given) > most:
        raise ApiError(400, f"A request has at most {most:,} items, not {len(given):,}.", "too_many", "input")
    try:
        sayings = expanded_sayings(read_items(given))
    except Unreadable as error:
        raise ApiError(400, f"input: items of type {error.kind!r} can't be read.", "unsupported", "input") from None
    return source_of([said.message for said in sayings], "input")


class _Response:
    """A response on its way, as OpenAI tells it."""

    def __init__(self, answer: _Asked, body: Body) -> None:
        self.answer = answer
        self.item_id = f"msg_{uuid.uuid4().hex}"
        self.number = -1
        self.head: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()),
            "model": answer.model, "error": None, "instructions": None, "metadata": _texts(body.get("metadata")),
            "max_output_tokens": body.get("max_output_tokens"), "parallel_tool_calls": False,
            "previous_response_id": None, "temperature": None, "top_p": None, "tool_choice": "none", "tools": [],
            "text": {"format": {"type": "text"}}, "truncation": "disabled", "store": False,
        }  # fmt: skip

    def begun(self) -> dict[str, Any]:
        return {**self.head, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}

    def done(self, summary: Summary) -> dict[str, Any]:
        usage = usage_of([summary])
        is_cut = summary.finish_reason == "length"
        return {
            **self.head,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [self.message(summary)],
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.total_tokens,
            },
        }

    def message(self, summary: Summary) -> dict[str, Any]:
        status = "incomplete" if summary.finish_reason == "length" else "completed"
        return {**self._message(status), "content": [_part(summary.text)]}

    async def events(self) -> AsyncGenerator[str]:
        place = {"item_id": self.item_id, "output_index": 0, "content_index": 0}
        is_begun = False
        async with aclosing(self.answer.pieces()) as pieces:
            async for piece in pieces:
                if not is_begun:
                    is_begun = True
                    yield self._event("response.created", response=self.begun())
                    yield self._event("response.in_progress", response=self.begun())
                    item = {**self._message("in_progress"), "content": []}
                    yield self._event("response.output_item.added", output_index=0, item=item)
                    yield self._event("response.content_part.added", **place, part=_part(""))
                if not isinstance(piece, Summary):
                    yield self._event("response.output_text.delta", **place, delta=piece, logprobs=[])
                    continue
                yield self._event("response.output_text.done", **place, text=piece.text, logprobs=[])
                yield self._event("response.content_part.done", **place, part=_part(piece.text))
                yield self._event("response.output_item.done", output_index=0, item=self.message(piece))
                response = self.done(piece)
                yield self._event(f"response.{response['status']}", response=response)

    def _message(self, status: str) -> dict[str, Any]:
        return {"id": self.item_id, "type": "message", "role": "assistant", "status": status}

    def _event(self, kind: str, **values: Any) -> str:
        self.number += 1
        return event({"type": kind, "sequence_number": self.number, **values}, kind)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _texts(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, Mapping):
        return {}
    return {str(name): value for name, value in metadata.items() if isinstance(value, str)}
