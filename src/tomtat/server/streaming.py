"""Server-sent events as OpenAI's clients read them: `data:` lines of JSON, `[DONE]` last."""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse

from tomtat.errors import TomtatError
from tomtat.server import errors
from tomtat.server.errors import ApiError

log = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "As OpenAI answers; with `stream` as events.", "content": {"text/event-stream": {}}}
}
"""What the OpenAPI document says of routes that stream when they are asked to."""

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""nginx would keep a stream back until it is over."""


def event(value: Any, name: str | None = None) -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def event_stream(events: AsyncGenerator[str]) -> StreamingResponse:
    """The first event is waited for, so that what can't begin is an error with a status of its own.

    Raises: what comes instead of the first event.
    """
    first = await anext(events)
    return StreamingResponse(_told(first, events), media_type="text/event-stream", headers=HEADERS)


async def _told(first: str, events: AsyncGenerator[str]) -> AsyncIterator[str]:
    yield first
    try:
        async with aclosing(events):
            async for one in events:
                yield one
    except (ApiError, TomtatError) as error:
        yield event((error if isinstance(error, ApiError) else errors.of(error)).body)
    except Exception as error:  # the status is sent: what can still be told goes into the stream
        log.error("a stream failed: %s", type(error).__name__)
        log.debug("a stream failed", exc_info=error)
        yield event(ApiError(500, "The server failed. This is a bug.", "internal_error").body)
