"""The server in this process, in front of a fake upstream that is really asked over HTTP."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server_fakes import FakeModels
from tomtat.config import MemorySettings
from tomtat.server import ServerSettings, create_app
from tomtat.server.settings import UpstreamSettings
from upstream_fake import FakeUpstream, running

MODEL = "big-model"
"""No tokenizer has that name: tokens are estimated."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeUpstream, str]]:
    fake = FakeUpstream()
    with running(fake) as address:
        yield fake, address


@pytest.fixture
def upstream(served: tuple[FakeUpstream, str]) -> FakeUpstream:
    fake, _ = served
    fake.asked.clear()
    fake.gone.clear()
    fake.says = fake.lists = None
    return fake


def settings_for(address: str, tmp_path: Path, **more: Any) -> ServerSettings:
    return ServerSettings(
        store=str(tmp_path / "store.db"),
        upstreams={"big": UpstreamSettings(url=f"{address}/v1", timeout=5.0)},
        memory=more.pop("memory", MemorySettings(background=False)),
        **more,
    )


@asynccontextmanager
async def serving(settings: ServerSettings, **parts: Any) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings, models=parts.pop("models", FakeModels()), **parts)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            client.app = app  # type: ignore[attr-defined]
            yield client


@pytest.fixture
def settings(served: tuple[FakeUpstream, str], tmp_path: Path) -> ServerSettings:
    return settings_for(served[1], tmp_path)


async def ask(
    client: httpx2.AsyncClient, messages: list[dict[str, Any]], *, headers: Any = None, **body: Any
) -> httpx2.Response:
    return await client.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": messages, **body}, headers=headers or {}
    )


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def events(answer: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
