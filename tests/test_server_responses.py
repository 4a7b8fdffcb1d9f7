"""Responses through the memory: items there and back, conversations of ours, streams."""

from typing import Any

import httpx2
import pytest

from memory_fakes import talk
from server_subjects import MODEL, anyio_backend, events, served, serving, settings, upstream  # noqa: F401
from tomtat.server import ServerSettings
from tomtat.server.items import items_of, messages_of, read_items
from tomtat.server.which import normal
from upstream_fake import FakeUpstream

pytestmark = pytest.mark.anyio
# ruff: noqa: F811

REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "look_up",
    "arguments": '{"of": "it"}',
    "status": "completed",
}
OTHER_CALL = CALL | {"id": "fc_2", "call_id": "call_2"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "found"}
OTHER_OUTPUT = OUTPUT | {"call_id": "call_2", "output": "not found"}


def message(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def as_items(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message(one["role"], one["content"]) for one in messages]


async def respond(client: httpx2.AsyncClient, given: Any, *, headers: Any = None, **body: Any) -> httpx2.Response:
    return await client.post("/v1/responses", json={"model": MODEL, "input": given, **body}, headers=headers or {})


async def test_a_text_goes_through_as_it_came(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await respond(client, "Hello", instructions="Be brief.", reasoning={"effort": "low"})

    assert answer.json()["output"][0]["content"][0]["text"] == "You said: Hello"
    assert upstream.last.body == {
        "model": MODEL,
        "input": "Hello",
        "instructions": "Be brief.",
        "reasoning": {"effort": "low"},
    }
    assert answer.headers["x-memory"] == "whole"


async def test_a_long_input_is_folded_and_its_newest_items_go_as_they_came(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    newest = [message("user", "Please look it up."), REASONING, CALL, OTHER_CALL, OUTPUT, OTHER_OUTPUT]
    given = [message("developer", "It is Friday."), *as_items(talk(200)), *newest]
    async with serving(settings) as client:
        answer = await respond(client, given, headers={"X-Memory-Budget": "600"})

    sent = upstream.last.body["input"]
    assert answer.headers["x-memory"] == "folded"
    assert int(answer.headers["x-memory-tokens-sent"]) <= 600
    assert sent[0] == given[0]
    assert sent[-5:] == newest[1:], "calls with their reasoning and ids"
    assert len(sent) < 50


async def test_a_conversation_of_ours_is_continued_with_what_is_new(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        await respond(client, "My name is Ann.", conversation="chat-1")
        answer = await respond(client, [message("user", "What is it?")], conversation={"id": "chat-1"}, stream=True)
        await respond(client, "Sure?", conversation="chat-1")

    assert answer.headers["x-conversation-id"] == "chat-1"
    sent = upstream.last.body
    assert "conversation" not in sent
    assert [item["content"] for item in sent["input"]] == [
        "My name is Ann.",
        "You said: My name is Ann.",
        "What is it?",
        "You said: What is it?",
        "Sure?",
    ]


async def test_tools_work_in_a_conversation(settings: ServerSettings, upstream: FakeUpstream) -> None:
    tools = [{"type": "function", "name": "look_up", "parameters": {}}]
    async with serving(settings) as client:
        first = await respond(client, "Please look up my order.", conversation="chat-1", tools=tools, stream=True)
        call = events(first)[-1]["response"]["output"][-1]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "It is on its way."}
        await respond(client, [result], conversation="chat-1", tools=tools)

    sent = upstream.last.body["input"]
    assert [item["type"] for item in sent] == ["message", "function_call", "function_call_output"]
    assert sent[1]["call_id"] == sent[2]["call_id"] == call["call_id"]


async def test_a_stream_passes_untouched(
    settings: ServerSettings, upstream: FakeUpstream, served: tuple[FakeUpstream, str]
) -> None:
    body = {"model": MODEL, "input": "one two three", "stream": True}
    async with httpx2.AsyncClient() as direct:
        expected = await direct.post(f"{served[1]}/v1/responses", json=body)
    async with serving(settings) as client:
        answer = await client.post("/v1/responses", json=body)

    assert answer.content == expected.content


@pytest.mark.parametrize(
    "more", [{"previous_response_id": "resp_1"}, {"input": [{"type": "item_reference", "id": "msg_1"}]}]
)
async def test_what_only_the_upstream_knows_goes_on_as_it_came(
    settings: ServerSettings, upstream: FakeUpstream, more: dict[str, Any]
) -> None:
    body = {"model": MODEL, "input": "Hello", **more}
    async with serving(settings) as client:
        answer = await client.post("/v1/responses", json=body)

    assert upstream.last.body == body
    assert answer.headers["x-memory"] == "off"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
async def test_a_previous_response_is_named_by_a_text(
    path: str, settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        body = {"model": "any", "input": "Hi", "previous_response_id": False}
        answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "previous_response_id"


async def test_what_no_conversation_can_keep_is_refused_there(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await respond(client, [{"type": "item_reference", "id": "msg_1"}], conversation="chat-1")
        both = await respond(client, "Hi", conversation="chat-1", previous_response_id="resp_1")

    assert answer.status_code == both.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_item"


ROUND_TRIPS = [
    message("user", "Hello"),
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And this?"}, {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "This?"}, {"type": "input_image", "file_id": "file_1", "detail": "auto"}]},
    {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"of": "it"}'},
    {"type": "custom_tool_call", "call_id": "call_2", "name": "run", "input": "ls -l"},
    {"type": "function_call_output", "call_id": "call_1", "output": "found"},
]  # fmt: skip


@pytest.mark.parametrize("item", ROUND_TRIPS, ids=lambda item: item["type"])
def test_an_item_comes_back_as_it_was(item: dict[str, Any]) -> None:
    [kept] = messages_of([item])
    back = items_of(kept)

    assert messages_of(back) == [kept]
    if item["type"] != "message" or len(item["content"]) > 1:
        assert back == [item]


def test_calls_made_at_once_are_one_message() -> None:
    sayings = read_items([message("user", "Look."), REASONING, CALL, OTHER_CALL, OUTPUT, OTHER_OUTPUT])

    assert [said.message["role"] for said in sayings] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sayings[1].message["tool_calls"]] == ["call_1", "call_2"]
    assert sayings[1].items == [REASONING, CALL, OTHER_CALL]


def test_a_message_is_the_same_however_its_client_writes_it() -> None:
    texts = [
        {"role": "assistant", "content": "Hi"},
        {"type": "message", "role": "assistant", "content": "Hi", "id": "msg_1", "status": "completed"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]},
    ]  # fmt: skip
    assert [said.message for said in read_items(texts)] == [normal({"role": "assistant", "content": "Hi"})] * 3
