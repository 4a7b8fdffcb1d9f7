"""Rows of a store as JSON Lines over HTTP: exports as they are read, imports as they come."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.streams.memory import MemoryObjectSendStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tomtat.server.errors import ApiError
from tomtat.store import Store

CHUNK_BYTES = 2**16
WAITING = 2
"""Chunks that a slow reader keeps waiting; then the store's reader waits too."""
READERS = anyio.CapacityLimiter(8)
"""Threads of exports: slow readers hold up other exports, and nothing else."""


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """Raises: ApiError 400 with the line's number."""
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise ApiError(400, f"Line {number} is not a JSON object.", "invalid_json")
            rows.append(row)
    return rows


class Export(Response):
    """A conversation's rows, read in a thread as fast as they are taken: never held in memory together."""

    def __init__(self, store: Store, conversation: str, kind: str) -> None:
        super().__init__(None, 200, {"content-type": kind})
        del self.headers["content-length"]
        self._store, self._conversation = store, conversation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, receiving = anyio.create_memory_object_stream[bytes](WAITING)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks, receiving:
            tasks.start_soon(partial(anyio.to_thread.run_sync, self._read, sending, limiter=READERS))
            async for chunk in receiving:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _read(self, sending: MemoryObjectSendStream[bytes]) -> None:
        try:
            # Where nobody takes them any more, no more are read.
            with suppress(anyio.BrokenResourceError):
                for chunk in self._chunks():
                    anyio.from_thread.run(sending.send, chunk)
        finally:
            anyio.from_thread.run_sync(sending.close)

    def _chunks(self) -> Iterator[bytes]:
        lines: list[bytes] = []
        size = 0
        for row in self._store.export(conversation=self._conversation):
            lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            size += len(lines[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
        yield b"".join(lines)
