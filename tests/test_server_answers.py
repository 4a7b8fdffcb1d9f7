"""A summarizer named as the model of chat completions and responses, by OpenAI's own client."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from memory_fakes import assistant, calls, result, user
from server_fakes import FakeModels
from server_process import serving as serving_process
from server_subjects import anyio_backend, events, serving  # noqa: F401
from tomtat.server import ServerSettings
from tomtat.server.errors import ApiError

CHAT = [
    user("My kettle LM-48213 came cracked. It leaks. It is new."),
    assistant("I am sorry. A new one leaves on Friday."),
    user("Create a summary of the conversation above:"),
]
SUMMARY = "User: My kettle LM-48213 came cracked. It leaks."
"""The fake's first two sentences."""
READ, WORDS = 21, len(SUMMARY.split())
"""Its tokens."""


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(store=str(tmp_path / "store.db"))


@pytest.fixture
def models() -> FakeModels:
    return FakeModels({"chats": None, "of-others": ("others",)})


async def post(settings: ServerSettings, models: FakeModels, path: str, **body: Any) -> Any:
    async with serving(settings, models=models) as client:
        return await client.post(path, json={"model": "chats", **body})


async def chat(settings: ServerSettings, models: FakeModels, **body: Any) -> Any:
    return await post(settings, models, "/v1/chat/completions", **{"messages": CHAT, **body})


# -- chat completions


@pytest.mark.anyio
async def test_a_completion_is_a_summary_of_the_chat(settings: ServerSettings, models: FakeModels):
    answer = await chat(settings, models, temperature=0.7, tools=[{"type": "function"}], a_field_nobody_knows=1)
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0, "finish_reason": "stop", "logprobs": None,
            "message": {"role": "assistant", "content": SUMMARY, "refusal": None},
        }
    ]  # fmt: skip
    assert body["usage"] == {"prompt_tokens": READ, "completion_tokens": WORDS, "total_tokens": READ + WORDS}
    assert models.asked[0][3] == {}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_of_tokens_cuts_and_says_so(settings: ServerSettings, models: FakeModels, name: str):
    choice = (await chat(settings, models, **{name: 3})).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("User: My kettle", "length")
    assert models.asked[0][3] == {"max_new_tokens": 3}


@pytest.mark.anyio
async def test_a_limit_is_no_wish_for_more_than_was_trained(settings: ServerSettings, models: FakeModels):
    await chat(settings, models, max_tokens=4096, max_words=9, max_sentences=1, language="en", long_inputs="tree")
    assert models.asked[0][3] == {
        "max_new_tokens": 64, "max_words": 9, "max_sentences": 1, "language": "en", "long_inputs": "tree",
    }  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [user("hello"), {"role": "user", "content": 7}]}, "messages.1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_answered_is_refused_before_anything_is_sent(
    settings: ServerSettings, models: FakeModels, wrong: dict[str, Any], param: str, stream: bool
):
    answer = await chat(settings, models, stream=stream, **wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not models.asked


@pytest.mark.anyio
@pytest.mark.parametrize("include_usage", [False, True])
async def test_chunks_are_a_role_deltas_a_finish_and_the_usage(
    settings: ServerSettings, models: FakeModels, include_usage: bool
):
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    answer = await chat(settings, models, stream=True, **options)
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, *deltas, end = events(answer)
    assert end == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    usage = {"prompt_tokens": READ, "completion_tokens": WORDS, "total_tokens": READ + WORDS}
    if include_usage:
        *deltas, last = deltas
        assert (last["choices"], last["usage"]) == ([], usage)
    *deltas, finish = deltas
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish.get("usage") == (None if include_usage else usage)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in deltas) == SUMMARY
    assert len({chunk["id"] for chunk in (first, *deltas, finish)}) == 1


@pytest.mark.anyio
async def test_an_error_in_the_middle_of_a_stream_is_told_in_it(settings: ServerSettings, models: FakeModels):
    models.fails = ApiError(504, "too slow", "timeout")
    *_, last = events(await chat(settings, models, stream=True))
    assert last["error"]["code"] == "timeout"
    models.fails = KeyError("what was said")
    answer = await chat(settings, models, stream=True)
    assert events(answer)[-1]["error"]["code"] == "internal_error"
    assert "what was said" not in answer.text


# -- responses


async def respond(settings: ServerSettings, models: FakeModels, **body: Any) -> Any:
    return await post(settings, models, "/v1/responses", **{"input": CHAT, **body})


@pytest.mark.anyio
async def test_a_response_is_a_summary_of_its_input(settings: ServerSettings, models: FakeModels):
    body = (await respond(settings, models, instructions="Summarize.", metadata={"of": "me"})).json()
    assert (body["object"], body["status"], body["incomplete_details"]) == ("response", "completed", None)
    assert body["output"][0]["content"][0]["text"] == SUMMARY
    assert body["metadata"] == {"of": "me"}
    assert (body["usage"]["input_tokens"], body["usage"]["total_tokens"]) == (READ, READ + WORDS)
    text = (await respond(settings, models, input="Summarize this: Nina is ill. It rains.")).json()
    assert text["output"][0]["content"][0]["text"] == "Nina is ill. It rains."


@pytest.mark.anyio
async def test_items_of_agents_are_read(settings: ServerSettings, models: FakeModels):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Where is it?"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "in Hamburg"},
    ]
    assert (await respond(settings, models, input=items)).status_code == 200
    (source,) = models.asked[0][2]
    assert [(message.role, message.content) for message in source] == [
        ("user", "Where is it?"), ("assistant", ""), ("tool", "in Hamburg"),
    ]  # fmt: skip


@pytest.mark.anyio
async def test_a_response_that_was_cut_is_incomplete(settings: ServerSettings, models: FakeModels):
    body = (await respond(settings, models, max_output_tokens=3)).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    *_, last = events(await respond(settings, models, max_output_tokens=3, stream=True))
    assert last["type"] == "response.incomplete"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [7]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_schema"}}}, "response_format"),
    ],
)
async def test_a_response_that_cannot_be_given_is_refused(
    settings: ServerSettings, models: FakeModels, wrong: dict[str, Any], param: str
):
    answer = await respond(settings, models, **wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not models.asked


@pytest.mark.anyio
async def test_a_model_of_another_tenant_is_none(settings: ServerSettings, models: FakeModels):
    for path, more in (("chat/completions", {"messages": CHAT}), ("responses", {"input": CHAT})):
        mine, nobodys = [
            await post(settings, models, f"/v1/{path}", **{**more, "model": name})
            for name in ("of-others", "of-nobody")
        ]
        assert mine.status_code == nobodys.status_code == 404
        assert mine.text.replace("of-others", "of-nobody") == nobodys.text


# -- OpenAI's client, unmodified, over HTTP


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server in another process."""
    with serving_process(
        "--upstream", "http://127.0.0.1:9/v1", "--store", tmp_path_factory.mktemp("served") / "store.db"
    ) as url:
        yield url


def test_openais_client_reads_completions(address: str):
    with openai.OpenAI(base_url=address, api_key="none") as client:
        answer = client.chat.completions.create(model="chats", messages=CHAT, max_completion_tokens=50)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == SUMMARY
        assert answer.usage
        assert answer.usage.total_tokens == READ + WORDS
        chunks = list(
            client.chat.completions.create(
                model="chats", messages=CHAT, stream=True, stream_options={"include_usage": True},  # type: ignore[arg-type]
            )
        )  # fmt: skip
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert said == SUMMARY
        assert chunks[-1].usage
        assert chunks[-1].usage.completion_tokens == WORDS
        with client.chat.completions.stream(model="chats", messages=CHAT) as stream:  # type: ignore[arg-type]
            assert stream.get_final_completion().choices[0].message.content == SUMMARY


def test_openais_client_reads_responses(address: str):
    with openai.OpenAI(base_url=address, api_key="none") as client:
        answer = client.responses.create(model="chats", input=CHAT)  # type: ignore[arg-type]
        assert answer.output_text == SUMMARY
        assert answer.usage
        assert answer.usage.output_tokens == WORDS
        with client.responses.stream(model="chats", input=CHAT) as stream:  # type: ignore[arg-type]
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output_text == SUMMARY
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_openais_client_asks_at_the_same_time(address: str):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=address, api_key="none") as client:

            async def once(number: int) -> str:
                messages: Any = [user(f"The kettle {number} leaks."), assistant("Oh.")]
                said = ""
                async for chunk in await client.chat.completions.create(model="chats", messages=messages, stream=True):
                    said += chunk.choices[0].delta.content or ""
                response = await client.responses.create(model="chats", input=messages)
                assert response.output_text == said
                return said

            return await asyncio.gather(*map(once, range(20)))

    assert asyncio.run(ask()) == [f"User: The kettle {number} leaks. Assistant: Oh." for number in range(20)]


def test_openais_client_reads_errors_and_models(address: str):
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="has no messages") as raised:
            client.chat.completions.create(model="chats", messages=[{"role": "user", "content": ""}])
        assert raised.value.param == "messages"
        assert [model.id for model in client.models.list()] == ["chats"]
        assert client.models.retrieve("chats").owned_by == "tomtat"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nothing")
        answer: Any = client.post("/summaries", body={"input": "It rains. Nina is ill. So be it."}, cast_to=object)
        assert answer["data"][0]["summary"] == "It rains. Nina is ill."
        assert json.dumps(answer)


def test_calls_of_tools_are_summarized_through_openais_client(address: str):
    with openai.OpenAI(base_url=address, api_key="none") as client:
        messages: Any = [user("Where is it?"), calls("x"), result("x", "in Hamburg")]
        answer = client.chat.completions.create(model="chats", messages=messages)
        assert answer.choices[0].message.content
