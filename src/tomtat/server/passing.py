"""An upstream's answer on its way to the client: its status, its headers, its bytes.

What fails before the first byte is an error of 502 or 504; after it, a stream ends with an error as an event, and
anything else without its end, so that nobody takes it for whole.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tomtat.server.answers import Ears, Heard, listen
from tomtat.server.errors import KINDS, ApiError
from tomtat.server.upstream import MOST_BYTES, Answer

MOST_HELD = 2**20
"""Bytes of a line of a stream that are kept back until its end is there."""

TAIL = 4096
"""Bytes at the end of an answer that isn't read, in which its usage may stand."""
TOTAL = re.compile(rb'"total_tokens"\s*:\s*(\d{1,12})\b')

Finish = Callable[[Heard], Coroutine[Any, Any, None]]
"""Told what was heard: before the client knows that it was all, or when nothing more comes. Raises nothing."""
Later = Callable[[Coroutine[Any, Any, None]], None]
"""Does something when nobody waits for it any more."""
Read = Callable[[dict[str, Any]], Heard]


async def passed_on(
    answer: Answer, read: Read, ears: Ears, headers: dict[str, str], finish: Finish, later: Later
) -> Response:
    """The response to the client; closes the answer, at the latest when that is sent.

    Raises: ApiError 502 and 504.
    """
    is_handed_over = False
    try:
        if answer.is_events:
            first = await answer.chunk()
            if first is None:
                raise answer.upstream.unusable("ended a stream before it began", "upstream_cut")
            is_handed_over = True
            return Stream(answer, first, ears, headers, finish, later)
        body, more = await _read(answer)
        if more is not None:
            is_handed_over = True
            return Rest(answer, [*body, more], headers, finish, later)
        return await _whole(answer, b"".join(body), read, headers, finish)
    finally:
        if not is_handed_over:
            await answer.close()


async def _read(answer: Answer) -> tuple[list[bytes], bytes | None]:
    """An answer's body; of one that is too large what was read, and what came last."""
    parts: list[bytes] = []
    size = 0
    while (chunk := await answer.chunk()) is not None:
        size += len(chunk)
        if size > MOST_BYTES:
            return parts, chunk
        parts.append(chunk)
    return parts, None


async def _whole(answer: Answer, body: bytes, read: Read, headers: dict[str, str], finish: Finish) -> Response:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) and not (answer.status >= 400 and isinstance(value, list)):
        return _no_json(answer, headers)
    if answer.status < 400 and isinstance(value, dict):
        await finish(read(value))
    return Response(body, answer.status, answer.headers | headers)


def _no_json(answer: Answer, headers: dict[str, str]) -> Response:
    """A page or garbage: clients read errors of one shape."""
    what = answer.content_type or "nothing"
    if answer.status < 400:
        raise answer.upstream.unusable(f"answered with what is no JSON object ({what})")
    error = {
        "message": f"The upstream {answer.upstream.name!r} answered with status {answer.status} and {what}.",
        "type": KINDS.get(answer.status, "server_error"), "param": None, "code": "upstream_error",
    }  # fmt: skip
    kept = answer.headers | {"content-type": "application/json"} | headers
    return Response(json.dumps({"error": error}), answer.status, kept)


class Stream(Response):
    """Events, as they come. Only a line that isn't whole yet is kept back, so that one that never will be doesn't run
    into the error that is told instead."""

    def __init__(
        self, answer: Answer, first: bytes, ears: Ears, headers: dict[str, str], finish: Finish, later: Later
    ) -> None:  # fmt: skip
        super().__init__(None, answer.status, answer.headers | {"cache-control": "no-cache"} | headers)
        del self.headers["content-length"]
        self._answer, self._first, self._ears, self._finish, self._later = answer, first, ears, finish, later
        self._held = b""
        self._is_finished = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._pass(send)
            await send({"type": "http.response.body", "body": b""})
        except (asyncio.CancelledError, OSError):  # the client went
            if not self._is_finished:
                self._is_finished = True
                self._later(self._finish(self._ears.heard()))
            raise
        finally:
            await self._answer.close()

    async def _pass(self, send: Send) -> None:
        chunk: bytes | None = self._first
        try:
            while chunk is not None:
                await self._take(chunk, send)
                chunk = await self._answer.chunk()
            listen(self._ears, self._held)
            if not (self._ears.is_over or self._ears.is_whole):
                raise self._answer.upstream.unusable("ended a stream in the middle of an answer", "upstream_cut")
        except ApiError as error:
            await self._end()
            # Begins a line of its own: what came before may have ended within an event.
            event = f"\n\ndata: {json.dumps(error.body)}\n\n"
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            return
        await self._end()
        if self._held:
            await send({"type": "http.response.body", "body": self._held, "more_body": True})

    async def _take(self, chunk: bytes, send: Send) -> None:
        data = self._held + chunk if self._held else chunk
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > MOST_HELD:
            cut = len(data)
        lines, self._held = data[:cut], data[cut:]
        if not lines:
            return
        listen(self._ears, lines)
        if self._ears.is_over:
            # Before the client knows that it is over: its next request may come at once, and builds on this.
            await self._end()
        await send({"type": "http.response.body", "body": lines, "more_body": True})

    async def _end(self) -> None:
        if not self._is_finished:
            self._is_finished = True
            ending = asyncio.ensure_future(self._finish(self._ears.heard()))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:  # the client went, and the answer is kept all the same
                self._later(_ended(ending))
                raise


async def _ended(task: "asyncio.Future[Any]") -> None:
    await task


class Rest(Response):
    """An answer too large to be read whole: what there is of it, and then the rest as it comes."""

    def __init__(
        self, answer: Answer, parts: list[bytes], headers: dict[str, str], finish: Finish, later: Later
    ) -> None:  # fmt: skip
        super().__init__(None, answer.status, answer.headers | headers)
        del self.headers["content-length"]
        self._answer, self._parts, self._finish, self._later = answer, parts, finish, later
        self._heard = Heard(unread_bytes=sum(map(len, parts)))
        self._tail = parts[-1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while self._parts:
                await send({"type": "http.response.body", "body": self._parts.pop(0), "more_body": True})
            async for chunk in self._answer.chunks():
                self._heard.unread_bytes += len(chunk)
                self._tail = (self._tail + chunk)[-TAIL:]
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except ApiError:
            return  # without its end: the connection is closed
        finally:
            if self._answer.status < 400:
                if found := TOTAL.findall(self._tail[-TAIL:]):
                    self._heard.total_tokens = int(found[-1])
                self._later(self._finish(self._heard))
            await self._answer.close()
