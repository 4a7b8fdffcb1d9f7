"""The edge behind a real uvicorn, spoken to over a socket: requests in a row on one connection, clients that don't read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from server_fakes import FakeModels
from tomtat.server import ServerSettings, create_app
from tomtat.server.admission import Gate
from tomtat.server.services import TheCaller, TheServices

HANG_SECONDS = 20
"""Nothing here takes long; what never ends is a failure."""
USAGE = b"GET /v1/usage HTTP/1.1\r\nhost: localhost\r\n\r\n"


def app_of(tmp_path: Path, **limits: Any) -> Any:
    settings = ServerSettings.model_validate({"store": str(tmp_path / "store.db"), "limits": limits})
    return create_app(settings, models=FakeModels())


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[int]:
    """Its port. It runs in the loop at hand, asyncio's own: there the next request on a connection begins inside the one
    before, in its context."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def statuses(port: int, sent: bytes, count: int) -> list[int]:
    """Of the answers on one connection; their bodies are short."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    found = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        await reader.readexactly(length)
        found.append(int(head.split()[1]))
    writer.close()
    return found


def within(seconds: float, test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, seconds))


def test_requests_in_a_row_on_one_connection_are_counted_each(tmp_path: Path):
    async def in_a_row() -> None:
        app = app_of(tmp_path, requests_per_minute=3)
        async with listening(app) as port:
            assert await statuses(port, USAGE * 8, 8) == [200] * 3 + [429] * 5

    within(HANG_SECONDS, in_a_row())


def test_a_days_tokens_are_looked_at_for_each_request_in_a_row(tmp_path: Path):
    async def in_a_row() -> None:
        app = app_of(tmp_path, tokens_per_day=10)

        @app.get("/v1/spend")
        async def spend(caller: TheCaller, services: TheServices) -> None:
            services.admission.spent(caller, 10)

        async with listening(app) as port:
            assert await statuses(port, USAGE.replace(b"usage", b"spend") + USAGE * 3, 4) == [200] + [429] * 3

    within(HANG_SECONDS, in_a_row())


async def free(gate: Gate) -> None:
    while gate.under_way:
        await asyncio.sleep(0.01)


async def to_end(reader: asyncio.StreamReader) -> bytes:
    """What is read until the server has ended the connection."""
    last = b""
    while more := await reader.read(2**20):
        last = (last + more)[-5:]
    return last


def test_a_client_that_does_not_read_is_given_up_and_its_place_is_free(tmp_path: Path):
    async def deaf() -> None:
        app = app_of(tmp_path, requests=1, send_seconds=0.2)

        @app.get("/v1/endless")
        async def endless() -> StreamingResponse:
            async def pieces() -> AsyncIterator[bytes]:
                while True:
                    yield b"x" * 2**16

            return StreamingResponse(pieces())

        async with listening(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            writer.write(USAGE.replace(b"usage", b"endless"))
            await reader.readexactly(100)
            await free(app.state.services.admission)
            assert await statuses(port, USAGE, 1) == [200]
            assert await to_end(reader) != b"0\r\n\r\n"
            writer.close()
            figures = app.state.services.metrics.text().decode()
        assert 'tomtat_requests_total{route="/v1/endless",status="499"} 1.0' in figures

    within(HANG_SECONDS, deaf())
