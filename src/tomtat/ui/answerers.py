"""Who answers in the page's chat: a model of an upstream, or a small one on this machine."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import anyio
import anyio.to_thread

from tomtat.answering import DEFAULT_MODEL, LocalModel
from tomtat.memory import HuggingFaceTokens, TokenCounter
from tomtat.server.answers import ChatEars, chat_heard, listen
from tomtat.server.bodies import dumped
from tomtat.server.errors import ApiError
from tomtat.server.services import Caller, Services
from tomtat.server.upstream import Answer, Upstream, elapsed

MOST_OF_ERROR = 300
"""Characters of what an upstream says of its own failure."""


class Answerer(Protocol):
    name: str

    @property
    def prompt_tokens(self) -> int | None:
        """What the last request cost, as far as the answer said."""

    async def counter(self) -> TokenCounter: ...

    def stream(self, messages: Sequence[Mapping[str, Any]]) -> AsyncGenerator[str]:
        """Raises: ApiError or TomtatError where it does not answer, or breaks off."""


class OfUpstream:
    """A model behind one of the server's upstreams."""

    def __init__(self, services: Services, caller: Caller, upstream: Upstream, model: str) -> None:
        self._services, self._caller, self._upstream, self.name = services, caller, upstream, model
        self._prompt_tokens: int | None = None

    @property
    def prompt_tokens(self) -> int | None:
        return self._prompt_tokens

    async def counter(self) -> TokenCounter:
        counters = self._services.memories.counters
        return await anyio.to_thread.run_sync(counters.of, self._caller.tenant, self._upstream, self.name)

    async def stream(self, messages: Sequence[Mapping[str, Any]]) -> AsyncGenerator[str]:
        body = {
            "model": self.name, "messages": list(messages), "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        answer = await self._ask(dumped(body))
        try:
            if answer.status >= 400:
                raise await self._refused(answer)
            async for piece in self._events(answer) if answer.is_events else self._whole(answer):
                yield piece
        finally:
            await answer.close()

    async def _ask(self, body: bytes) -> Answer:
        began, status = time.perf_counter(), 0
        try:
            answer = await self._upstream.ask("/chat/completions", body, {}, "", has_keys=True)
            status = answer.status
            return answer
        finally:
            self._services.metrics.upstream(status, elapsed(began))

    async def _events(self, answer: Answer) -> AsyncGenerator[str]:
        ears, held, told = ChatEars(), b"", 0
        async for chunk in answer.chunks():
            lines, end, rest = (held + chunk).rpartition(b"\n")
            held = rest if end else held + chunk
            listen(ears, lines)
            text = _text(ears.heard().messages)
            if len(text) > told:
                yield text[told:]
                told = len(text)
        listen(ears, held)
        self._prompt_tokens = ears.heard().prompt_tokens
        if not ears.is_whole:
            raise self._upstream.unusable("broke off in the middle of its answer", "upstream_cut")

    async def _whole(self, answer: Answer) -> AsyncGenerator[str]:
        try:
            heard = chat_heard(json.loads(await _read(answer)))
        except (ValueError, AttributeError, RecursionError):
            raise self._upstream.unusable("answered with what is no chat completion") from None
        self._prompt_tokens = heard.prompt_tokens
        yield _text(heard.messages)

    async def _refused(self, answer: Answer) -> ApiError:
        said = ""
        with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
            said = " ".join(str(json.loads(await _read(answer))["error"]["message"]).split())[:MOST_OF_ERROR]
        return self._upstream.unusable(f"answered with status {answer.status}" + (f": {said}" if said else ""))


class OfMachine:
    """A small model, untuned, in this process: loaded when it is first asked, one answer at a time."""

    name = DEFAULT_MODEL

    def __init__(self, device: str) -> None:
        self._device = device
        self._lock = asyncio.Lock()
        self._model: LocalModel | None = None

    @property
    def is_loaded(self) -> bool:
        return self._model is not None

    @property
    def prompt_tokens(self) -> int | None:
        return self._model.prompt_tokens if self._model else None

    async def counter(self) -> TokenCounter:
        return HuggingFaceTokens((await self._loaded()).tokenizer, self.name)

    async def stream(self, messages: Sequence[Mapping[str, Any]]) -> AsyncGenerator[str]:
        model = await self._loaded()
        async with self._lock:
            pieces = model.stream(messages)
            try:
                while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
                    yield piece
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(pieces.close)  # type: ignore[attr-defined]

    async def _loaded(self) -> LocalModel:
        async with self._lock:
            if self._model is None:
                self._model = await anyio.to_thread.run_sync(LocalModel, self.name, self._device)
            return self._model


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    return str(messages[0].get("content") or messages[0].get("refusal") or "") if messages else ""


async def _read(answer: Answer, most: int = 1 << 22) -> bytes:
    data = b""
    async for chunk in answer.chunks():
        data += chunk
        if len(data) > most:
            break
    return data
