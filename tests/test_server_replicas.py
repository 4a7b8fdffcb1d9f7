"""Two servers on one PostgreSQL: what one is told, the other knows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from server_fakes import FakeModels
from store_subjects import PostgresSubject
from tomtat.server import ServerSettings, create_app

pytestmark = pytest.mark.slow


@pytest.fixture
def place(postgres: str, tmp_path: Path) -> str:
    return PostgresSubject().new_place(tmp_path)


@asynccontextmanager
async def replica(place: str) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(ServerSettings(store=place), models=FakeModels())
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1/v1") as client,
    ):
        yield client


def said(number: int) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": f"My order number {number} came cracked."}]}


def test_what_one_replica_is_told_the_other_reads_finds_and_erases(place: str):
    async def both() -> None:
        async with replica(place) as one, replica(place) as other:
            for number, client in enumerate([one, other, one]):
                answer = await client.post("/conversations/chat-1/messages", json=said(number))
                assert answer.status_code == 200, answer.text
            read = [(await client.get("/conversations/chat-1/messages")).json() for client in (one, other)]
            assert read[0] == read[1]
            assert str(read[0]).count("came cracked") == 3
            found = await other.get("/conversations/chat-1/search", params={"query": "which order number 2?"})
            assert "number 2" in found.text
            assert (await one.delete("/conversations/chat-1")).status_code == 200
            assert (await other.get("/conversations/chat-1/messages")).status_code == 404
            assert (await other.get("http://127.0.0.1/readyz")).status_code == 200

    asyncio.run(both())


def test_both_at_once_lose_and_double_nothing(place: str):
    async def both() -> list[str]:
        async with replica(place) as one, replica(place) as other:
            posts = [
                client.post("/conversations/chat-2/messages", json=said(number))
                for number, client in enumerate([one, other] * 20)
            ]
            answers = await asyncio.gather(*posts)
            assert {answer.status_code for answer in answers} == {200}, {answer.text for answer in answers}
            page = await one.get("/conversations/chat-2/messages", params={"limit": 100})
            return [row["message"]["content"] if "message" in row else row["content"] for row in page.json()["data"]]

    contents = asyncio.run(both())
    assert sorted(contents) == sorted(said(number)["messages"][0]["content"] for number in range(40))
