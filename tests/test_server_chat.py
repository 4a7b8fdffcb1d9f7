"""Chat completions through the memory: what goes upstream, what comes back, what is kept."""

from pathlib import Path

import httpx2
import pytest

from memory_fakes import talk
from server_subjects import MODEL, anyio_backend, ask, events, said, served, serving, settings, upstream  # noqa: F401
from tomtat.server import ServerSettings
from tomtat.server.settings import UpstreamSettings
from upstream_fake import FakeUpstream

pytestmark = pytest.mark.anyio
# ruff: noqa: F811


async def test_a_short_chat_goes_through_as_it_came(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await ask(client, said("Hello"), temperature=0.5, a_field_nobody_knows={"x": [1]})

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Hello"
    assert answer.json()["a_new_field"] == {"kept": True}
    assert upstream.last.body == {
        "model": MODEL,
        "messages": said("Hello"),
        "temperature": 0.5,
        "a_field_nobody_knows": {"x": [1]},
    }
    assert answer.headers["x-memory"] == "whole"
    assert answer.headers["x-memory-tokens-saved"] == "0"
    assert answer.headers["x-memory-counter"].startswith("estimate")
    assert answer.headers["x-upstream-request-id"] == "req_upstream"
    assert answer.headers["x-conversation-id"].startswith("~")


async def test_a_long_chat_is_folded_to_its_budget(settings: ServerSettings, upstream: FakeUpstream) -> None:
    history = talk(200) + said("In which place is the kettle number 1004?")
    system = {"role": "system", "content": "Today is Friday."}
    async with serving(settings) as client:
        answer = await ask(client, [system, *history], headers={"X-Memory-Budget": "500"})

    sent = upstream.last.messages
    assert answer.headers["x-memory"] == "folded"
    assert int(answer.headers["x-memory-tokens-sent"]) <= 500 < int(answer.headers["x-memory-tokens-whole"])
    assert sent[0] == system
    assert sent[-1] == history[-1]
    assert len(sent) < 40


async def test_a_stream_passes_untouched(
    settings: ServerSettings, upstream: FakeUpstream, served: tuple[FakeUpstream, str]
) -> None:
    body = {
        "model": MODEL,
        "messages": said("one two three"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with httpx2.AsyncClient() as direct:
        expected = await direct.post(f"{served[1]}/v1/chat/completions", json=body)
    async with serving(settings) as client:
        answer = await client.post("/v1/chat/completions", json=body)

    assert answer.content == expected.content
    assert answer.headers["content-type"] == "text/event-stream"
    assert events(answer)[-1] == "[DONE]"


async def test_only_new_turns_and_the_answers_between_are_kept(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    headers = {b"X-Conversation-Id": "chat/one é".encode(), b"X-Conversation-Turns": b"new"}
    async with serving(settings) as client:
        first = await ask(client, said("My name is Ann."), headers=headers)
        second = await ask(client, said("What is it?"), headers=headers, stream=True)
        third = await ask(client, said("Sure?"), headers=headers)

    assert first.headers["x-conversation-id"] == "chat/one é"
    assert second.status_code == third.status_code == 200
    assert [message["content"] for message in upstream.last.messages] == [
        "My name is Ann.",
        "You said: My name is Ann.",
        "What is it?",
        "You said: What is it?",
        "Sure?",
    ]


async def test_an_unknown_model_says_what_there_is(served: tuple[FakeUpstream, str], tmp_path: Path) -> None:
    only = UpstreamSettings(url=f"{served[1]}/v1", models=("gpt-*",))
    settings = ServerSettings(store=str(tmp_path / "s.db"), upstreams={"a": only})
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"))

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "fake-chats" in answer.json()["error"]["message"]
    assert "gpt-*" in answer.json()["error"]["message"]
