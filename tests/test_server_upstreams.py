"""Upstreams that fail, clients that go, memories that break: what a client gets then."""

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from memory_fakes import talk, user
from server_fakes import MODEL as OUR_MODEL
from server_fakes import FakeModels
from server_subjects import MODEL, anyio_backend, ask, events, said, served, serving, settings, settings_for, upstream  # noqa: F401
from test_server_responses import respond
from test_server_which import NAMED, ONLY_NEW, kept
from tomtat.errors import ConfigError, StoreError
from tomtat.memory import ChatMemory
from tomtat.server import ServerSettings, create_app, which
from tomtat.server.answers import ChatEars, Heard
from tomtat.server.keys import add_key
from tomtat.server.passing import Stream
from tomtat.server.settings import LimitSettings, UpstreamSettings
from tomtat.server.through import tokens_of
from tomtat.server.upstream import Upstreams
from tomtat.store import open_store
from upstream_fake import HUGE, FakeUpstream, running

pytestmark = pytest.mark.anyio
# ruff: noqa: F811


@pytest.fixture
def hasty(served: tuple[FakeUpstream, str], tmp_path: Path) -> ServerSettings:
    """With an upstream that is given up after half a second."""
    settings = settings_for(served[1], tmp_path)
    return settings.model_copy(update={"upstreams": {"big": UpstreamSettings(url=f"{served[1]}/v1", timeout=0.5)}})


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


@pytest.mark.parametrize(
    ("failure", "code"),
    [("400", "context_length_exceeded"), ("401", "invalid_api_key"), ("429", "rate_limit_exceeded"), ("500", None)],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_error_comes_back_as_it_is(
    settings: ServerSettings,
    upstream: FakeUpstream,
    served: tuple[FakeUpstream, str],
    failure: str,
    code: str | None,
    stream: bool,
) -> None:
    model = f"{MODEL}!{failure}"
    async with httpx2.AsyncClient() as direct:
        expected = await direct.post(
            f"{served[1]}/v1/chat/completions", json={"model": model, "messages": said("Hi"), "stream": stream}
        )
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=model, stream=stream)

    assert (answer.status_code, answer.content) == (int(failure), expected.content)
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-upstream"] == "big", "so that its 401 isn't taken for ours"
    if failure == "429":
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert answer.headers["openai-processing-ms"] == "3"


@pytest.mark.parametrize("failure", ["lie", "html", "garbage", "empty", "list", "redirect", "cut", "cut-first"])
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
async def test_what_is_no_answer_is_a_502(
    settings: ServerSettings, upstream: FakeUpstream, failure: str, endpoint: str
) -> None:
    async with serving(settings) as client:
        send = ask if endpoint == "chat" else respond
        answer = await send(client, said("Hi"), model=f"{MODEL}!{failure}")

    assert answer.status_code == 502
    assert error_of(answer)["type"] == "upstream_error"
    assert "127.0.0.1" not in answer.text, "its address is nobody's business"
    assert answer.headers["x-memory"] == "whole"


@pytest.mark.parametrize("failure", ["cut-first", "html", "lie"])
async def test_a_stream_that_does_not_begin_is_a_502(
    settings: ServerSettings, upstream: FakeUpstream, failure: str
) -> None:
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!{failure}", stream=True)

    assert answer.status_code == 502
    error_of(answer)


async def test_a_page_with_an_errors_status_becomes_an_error(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!html-503")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["content-type"] == "application/json"
    error_of(answer)


async def test_an_upstream_that_stalls_is_a_504_and_is_hung_up_on(
    hasty: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(hasty) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!stall")

        assert answer.status_code == 504
        assert error_of(answer)["code"] == "upstream_timeout"
        await until(lambda: upstream.gone == [f"{MODEL}!stall"])


@pytest.mark.parametrize(
    ("failure", "code"), [("stall-mid", "upstream_timeout"), ("cut", "upstream_cut"), ("cut-line", "upstream_cut")]
)
async def test_a_stream_that_breaks_off_ends_with_an_error(
    hasty: ServerSettings, upstream: FakeUpstream, failure: str, code: str
) -> None:
    text = "one two three four five six seven"
    async with serving(hasty) as client:
        answer = await ask(client, said(text), model=f"{MODEL}!{failure}", stream=True, headers=NAMED)
        cut = (await client.get("/v1/conversations/chat-1/messages")).json()["data"]
        theirs = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)
        with pytest.raises(openai.APIError, match="upstream"):
            async for _ in await theirs.chat.completions.create(
                model=f"{MODEL}!{failure}", messages=said(text), stream=True
            ):  # type: ignore[call-overload]
                pass

    *chunks, last = events(answer)
    assert answer.status_code == 200
    assert last["error"]["code"] == code
    assert all("choices" in chunk for chunk in chunks)
    heard = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert heard
    assert f"You said: {text}".startswith(heard)
    assert cut[-1]["message"] == {"role": "assistant", "content": heard}
    assert cut[-1]["is_cut"] is True


async def test_a_stream_of_a_response_that_breaks_off_is_kept_as_far_as_it_came(
    hasty: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(hasty) as client:
        answer = await respond(
            client, "one two three four five six", model=f"{MODEL}!cut", stream=True, conversation="chat-1"
        )
        cut = (await client.get("/v1/conversations/chat-1/messages")).json()["data"]

    assert events(answer)[-1]["error"]["code"] == "upstream_cut"
    assert cut[-1]["message"]["content"].startswith("You said: one")
    assert cut[-1]["is_cut"] is True


async def test_an_answer_too_large_to_be_read_passes_all_the_same(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!huge")

    assert len(answer.json()["choices"][0]["message"]["content"]) == HUGE


async def test_nobody_at_the_other_end_is_a_502(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = settings_for(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path)
        async with serving(settings) as client:
            answer = await ask(client, said("Hi"))

    assert answer.status_code == 502
    assert error_of(answer)["code"] == "upstream_unreachable"


async def test_a_proxy_of_the_environment_is_asked(
    served: tuple[FakeUpstream, str], upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", served[1])
    for no_proxy, status in (("", 200), ("nowhere.invalid", 502)):
        monkeypatch.setenv("no_proxy", no_proxy)
        async with serving(settings_for("http://nowhere.invalid", tmp_path)) as client:
            assert (await ask(client, said("Hi"))).status_code == status

    assert upstream.last.headers["host"] == "nowhere.invalid"


def test_a_proxy_that_cant_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigError, match=r"^[^\n]+NO_PROXY=nowhere\.invalid\.$"):
        Upstreams(settings_for("http://nowhere.invalid", tmp_path))


# -- headers


async def test_only_what_says_something_to_an_upstream_goes_there(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    headers = {
        "Authorization": "Bearer sk-mine", "OpenAI-Organization": "org-1", "Cookie": "a=b", "X-Conversation-Id": "chat-1",
        "X-Forwarded-For": "10.0.0.1", "Connection": "close", "Idempotency-Key": "k-1", "X-Api-Key": "k", "TE": "trailers",
    }  # fmt: skip
    async with serving(settings) as client:
        await client.post(
            "/v1/chat/completions?api-version=2", json={"model": MODEL, "messages": said("Hi")}, headers=headers
        )

    sent = upstream.last.headers
    assert sent["authorization"] == "Bearer sk-mine"
    assert sent["openai-organization"] == "org-1"
    assert sent["idempotency-key"] == "k-1"
    assert sent["accept-encoding"] == "identity"
    assert not {"cookie", "x-conversation-id", "x-forwarded-for", "x-api-key", "te"} & set(sent)
    assert upstream.last.query == "api-version=2"


async def test_a_key_of_ours_goes_nowhere_and_the_upstreams_own_is_used(
    served: tuple[FakeUpstream, str], upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-theirs")
    ours = add_key(tmp_path / "keys.json", "ann")[1]
    upstreams = {
        "paid": UpstreamSettings(url=f"{served[1]}/v1/", models=("paid-*",), key="THEIR_KEY"),
        "free": UpstreamSettings(url=f"{served[1]}/v1"),
    }
    settings = settings_for(served[1], tmp_path, keys=str(tmp_path / "keys.json")).model_copy(
        update={"upstreams": upstreams}
    )
    async with serving(settings) as client:
        for model in ("paid-1", "any"):
            await ask(client, said("Hi"), headers={"Authorization": f"Bearer {ours}"}, model=model)

    assert upstream.asked[0].headers["authorization"] == "Bearer sk-theirs"
    assert "authorization" not in upstream.asked[1].headers


# -- a memory that fails


@pytest.mark.parametrize("error", [StoreError("the disk is full of secrets"), RuntimeError("a bug"), MemoryError()])
async def test_with_memory_failing_the_request_goes_out_unchanged(
    settings: ServerSettings,
    upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ChatMemory, "append", fail)
    async with serving(settings) as client:
        answer = await ask(client, talk(100), headers={"X-Memory-Budget": "300"}, top_p=0.1)
        metrics = client.app.state.services.metrics.text().decode()  # type: ignore[attr-defined]

    assert answer.status_code == 200
    assert upstream.last.body == {"model": MODEL, "messages": talk(100), "top_p": 0.1}
    assert answer.headers["x-memory"] == "failed"
    assert f'kind="{type(error).__name__}"' in metrics
    assert "secrets" not in caplog.text


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("a bug"), 503), (StoreError("no such role"), 400)])
async def test_with_memory_failing_a_request_of_new_turns_alone_is_refused(
    settings: ServerSettings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ChatMemory, "append", fail)
    async with serving(settings) as client:
        answer = await ask(client, said("And then?"), headers={"X-Conversation-Id": "a", "X-Conversation-Turns": "new"})

    assert (answer.status_code, answer.headers["x-memory"]) == (status, "failed")
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    assert not upstream.asked
    error_of(answer)


async def test_a_store_that_hangs_holds_nobody_up(
    settings: ServerSettings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    began = []

    def hang(*_: Any, **__: Any) -> None:
        began.append(1)
        asyncio.run_coroutine_threadsafe(released.wait(), loop).result(60)
        raise StoreError("late")

    monkeypatch.setattr(ChatMemory, "append", hang)
    settings = settings.model_copy(update={"memory_seconds": 0.05})
    async with serving(settings) as client:
        for _ in range(40):
            answer = await ask(client, said("Hi"))
            assert (answer.status_code, answer.headers["x-memory"]) == (200, "failed")
        threads = len(began)
        released.set()

    assert threads == 32, "no more threads than that wait for it"


async def test_what_was_given_up_adds_nothing_after_its_retry_was_answered(
    settings: ServerSettings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, calls, released = which.newest, [], threading.Event()

    def slow(*given: Any) -> Any:
        calls.append(1)
        assert len(calls) > 1 or released.wait(60)
        return newest(*given)

    monkeypatch.setattr(which, "newest", slow)
    async with serving(settings.model_copy(update={"memory_seconds": 0.05})) as client:
        services = client.app.state.services  # type: ignore[attr-defined]
        refused = await ask(client, said("a"), headers=ONLY_NEW)
        services.settings = settings
        answered = await ask(client, said("a"), headers=ONLY_NEW)
        released.set()
        await until(lambda: not services.memories._running)

    assert (refused.status_code, answered.status_code) == (503, 200)
    assert kept(settings, "chat-1") == ["a", "You said: a"]


async def test_an_answer_that_cant_be_kept_is_given_all_the_same(
    settings: ServerSettings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomtat.server import through

    def fail(*_: Any) -> None:
        raise StoreError("no")

    monkeypatch.setattr(through, "keep_answer", fail)
    async with serving(settings) as client:
        whole = await ask(client, said("Hi"), headers=ONLY_NEW)
        stream = await ask(client, said("there"), headers=ONLY_NEW, stream=True)

    assert whole.status_code == 200
    assert events(stream)[-1] == "[DONE]"


async def test_memory_can_be_switched_off_for_a_request(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await ask(client, talk(100), headers={"X-Memory": "off", "X-Memory-Budget": "300"})
        listed = await client.get("/v1/conversations")

    assert upstream.last.messages == talk(100)
    assert answer.headers["x-memory"] == "off"
    assert listed.json()["data"] == []


async def test_a_message_alone_over_the_budget_goes_out_and_says_so(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        answer = await ask(client, [*talk(50), user("word " * 500)], headers={"X-Memory-Budget": "100"})

    assert answer.status_code == 200
    assert answer.headers["x-memory"] == "over-budget"
    assert int(answer.headers["x-memory-tokens-sent"]) > 100
    assert [message["content"] for message in upstream.last.messages] == ["word " * 500]


async def test_an_estimate_learns_from_what_answers_report(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        first = await ask(client, talk(30))
        for _ in range(3):
            last = await ask(client, talk(30))

    reported = int(last.json()["usage"]["prompt_tokens"])
    before, after = (abs(int(answer.headers["x-memory-tokens-sent"]) - reported) for answer in (first, last))
    assert after < before
    assert " x " in last.headers["x-memory-counter"]


# -- clients that go


async def test_a_client_that_goes_ends_the_upstreams_work(settings: ServerSettings, upstream: FakeUpstream) -> None:
    app = create_app(settings, models=FakeModels())
    with running(app) as address:
        async with httpx2.AsyncClient(base_url=address) as client:
            for stream, model in ((False, "stall"), (True, "stall-mid")):
                body = {"model": f"{MODEL}!{model}", "messages": said("one two three four"), "stream": stream}
                with pytest.raises(httpx2.ReadTimeout):
                    await client.post("/v1/chat/completions", json=body, headers=ONLY_NEW, timeout=0.7)
                await until(lambda model=model: f"{MODEL}!{model}" in upstream.gone)  # type: ignore[misc]
            await until(lambda: len(kept(settings)) == 2)
            alive = await ask(client, said("Still there?"))

    assert alive.status_code == 200
    assert kept(settings, "chat-1")[-1].startswith("You said:"), "what was heard until then"


async def until(is_so: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.02)


# -- limits


async def test_a_request_with_too_many_messages_is_refused(settings: ServerSettings, upstream: FakeUpstream) -> None:
    settings = settings.model_copy(update={"limits": LimitSettings(messages=10)})
    async with serving(settings) as client:
        answer = await ask(client, talk(11))

    assert answer.status_code == 400
    assert not upstream.asked


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"x"',
        b'{"model": 5}',
        json.dumps({"model": MODEL}).encode(),
        json.dumps({"model": MODEL, "messages": []}).encode(),
        json.dumps({"model": MODEL, "messages": ["x"]}).encode(),
        b'{"model": "m", "messages": [' + b"[" * 100_000,
    ],
)
async def test_a_body_that_is_none_is_told(settings: ServerSettings, upstream: FakeUpstream, body: bytes) -> None:
    async with serving(settings) as client:
        answer = await client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    error_of(answer)


async def test_what_memory_cant_read_goes_out_unchanged(settings: ServerSettings, upstream: FakeUpstream) -> None:
    odd = [{"role": "critic", "content": "Hm."}, {"role": "user", "content": {"text": "x"}}]
    async with serving(settings) as client:
        answer = await ask(client, odd)

    assert upstream.last.messages == odd
    assert answer.headers["x-memory"] == "failed"


async def test_what_is_kept_is_what_was_said(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        await ask(client, said("Xin chào 🙂"), headers=ONLY_NEW)
    assert settings.store is not None
    with open_store(settings.store) as store:
        assert [turn.message["content"] for turn in store.history("chat-1")] == ["Xin chào 🙂", "You said: Xin chào 🙂"]


# -- lists of models


async def listed(client: httpx2.AsyncClient) -> list[str]:
    return [model["id"] for model in (await client.get("/v1/models")).json()["data"]]


async def test_upstreams_models_are_listed_behind_ours_and_asked_for_once_a_minute(
    served: tuple[FakeUpstream, str], upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-theirs")
    upstream.lists = ["gpt-9", OUR_MODEL, "odd/one", 7, "gpt-9", "other"]
    first = UpstreamSettings(url=f"{served[1]}/v1/", models=("gpt-*", OUR_MODEL), key="THEIR_KEY")
    second = UpstreamSettings(url=f"{served[1]}/v1", models=("gpt-*", "odd/*"))
    settings = settings_for(served[1], tmp_path).model_copy(update={"upstreams": {"a": first, "b": second}})
    async with serving(settings) as client:
        found = await listed(client)
        other = await client.get("/v1/models/odd/one", headers={"Authorization": "Bearer sk-mine"})
        unlisted = await client.get("/v1/models/other")

    assert found == [OUR_MODEL, "gpt-9", "odd/one"]
    assert other.json() | {"owned_by": "them", "created": 1} == other.json()
    assert unlisted.status_code == 404
    assert [one.path for one in upstream.asked] == ["/v1/models"] * 2
    assert {one.headers.get("authorization") for one in upstream.asked} == {"Bearer sk-theirs", None}


@pytest.mark.parametrize(
    "failure", ["stall", "cut", "lie", "html", "garbage", "empty", "list", "redirect", "401", "500", "huge"]
)
async def test_an_upstream_that_lists_nothing_leaves_ours_and_what_it_said_before(
    settings: ServerSettings, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr("tomtat.server.upstream.LIST_SECONDS", 0.2)
    upstream.lists = failure
    async with serving(settings) as client:
        without = await listed(client)
        upstream.lists = ["gpt-9"]
        upstreams = client.app.state.services.upstreams  # type: ignore[attr-defined]
        upstreams._listed_until = 0.0
        monkeypatch.undo()
        found = await listed(client)
        upstream.lists, upstreams._listed_until = "500", 0.0
        again = await listed(client)

    assert without == [OUR_MODEL]
    assert found == again == [OUR_MODEL, "gpt-9"]


async def test_an_error_in_a_list_comes_back_as_it_is(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!list-400")

    assert (answer.status_code, answer.json()) == (400, [{"error": {"code": 400, "message": "No."}}])


async def test_headers_of_any_script_go_to_and_fro(served: tuple[FakeUpstream, str], tmp_path: Path) -> None:
    one = UpstreamSettings(url=f"{served[1]}/v1")
    settings = ServerSettings(store=str(tmp_path / "s.db"), upstreams={"Łódź": one})
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!header", headers={b"User-Agent": "Žofie".encode()})
        failed = await ask(client, said("Hi"), model=f"{MODEL}!html")

    assert answer.status_code == 200
    assert answer.headers["x-upstream"] == failed.headers["x-upstream"] == "Łódź"
    assert answer.headers["openai-organization"] == "Łódź"
    assert served[0].asked[-2].headers["user-agent"].encode("latin-1").decode() == "Žofie"
    assert failed.status_code == 502


async def test_a_model_whose_id_cant_be_written_is_not_listed(settings: ServerSettings, upstream: FakeUpstream) -> None:
    upstream.lists = "half"
    async with serving(settings) as client:
        assert await listed(client) == [OUR_MODEL, "whole"]


async def test_an_error_of_null_is_none(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await ask(client, said("Hi"), model=f"{MODEL}!null-error", stream=True, headers=NAMED)

    assert events(answer)[-1] == "[DONE]"
    assert kept(settings, "chat-1")[-1] == "a b c"


class Cut:
    """An answer that breaks off in the middle of an event."""

    def __init__(self, upstream: Any) -> None:
        self.upstream, self.status, self.headers = upstream, 200, dict[str, str]()

    async def chunk(self) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.mark.parametrize("first", [b'data: {"choices": []}\n', b"data: " + b"x" * 2**20 + b"x"])
async def test_an_error_never_melts_into_an_event_that_was_not_finished(settings: ServerSettings, first: bytes) -> None:
    sent = await _streamed(Upstreams(settings).for_model(MODEL), first, _nothing)

    *_, last, empty = sent.split(b"\n\n")
    assert json.loads(last.strip().removeprefix(b"data: "))["error"]["code"] == "upstream_cut"
    assert empty == b""


async def _nothing(heard: Heard) -> None:
    return None


async def _streamed(upstream: Any, first: bytes, finish: Any) -> bytes:
    sent: list[bytes] = []

    async def send(event: Any) -> None:
        sent.append(event.get("body", b""))

    stream = Stream(Cut(upstream), first, ChatEars(), {}, finish, lambda later: later.close())  # type: ignore[arg-type]
    await stream({}, _nothing, send)  # type: ignore[arg-type]
    return b"".join(sent)


async def test_a_client_that_goes_while_the_answer_is_kept_stops_nothing(settings: ServerSettings) -> None:
    waits, begun, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks: list[Any] = []

    async def finish(heard: Heard) -> None:
        begun.set()
        await waits.wait()
        ended.set()

    async def send(event: Any) -> None:
        return None

    stream = Stream(  # type: ignore[call-arg]
        Cut(None), b"data: [DONE]\n\n", ChatEars(), {}, finish,  # type: ignore[arg-type]
        lambda later: tasks.append(asyncio.ensure_future(later)),
    )  # fmt: skip
    passing = asyncio.ensure_future(stream({}, _nothing, send))  # type: ignore[arg-type]
    await begun.wait()
    passing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await passing
    waits.set()
    [task] = tasks
    await task

    assert ended.is_set(), "before the server ends, since it waits for what was handed over"


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}!huge"])
@pytest.mark.parametrize("headers", [{}, {"X-Memory": "off"}])
async def test_what_reports_no_usage_counts_all_the_same(
    settings: ServerSettings, upstream: FakeUpstream, model: str, headers: dict[str, str]
) -> None:
    async with serving(settings) as client:
        await ask(client, said("word " * 400), model=model, stream=True, headers=headers)
        services = client.app.state.services  # type: ignore[attr-defined]
        tenant = "default"
        await until(lambda: services.admission.tokens_today(tenant) >= 400)


def test_what_an_exchange_cost_is_never_negative() -> None:
    assert tokens_of(Heard(total_tokens=-5), 10) == 0
    assert tokens_of(Heard([{"role": "assistant", "content": "x" * 400}]), 10) > 100
