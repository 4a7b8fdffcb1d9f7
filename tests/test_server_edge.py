"""The edge: ids, hosts, keys, limits, errors in one shape, logs and figures without content."""

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from server_fakes import FakeModels
from tomtat.errors import ConfigError, DataError
from tomtat.server import ServerSettings, create_app, logs
from tomtat.server.edge import is_loopback
from tomtat.server.keys import add_key
from tomtat.server.services import TheCaller
from tomtat.store import Damaged, open_store

SECRET = "zanzibar"
"""What is said in requests here; it may be in no log and in no error."""


class Part(BaseModel):
    text: str


class Said(BaseModel):
    text: str
    parts: list[str | Part] = []
    count: int = 0


def extended(app: FastAPI) -> FastAPI:
    """With routes of our own that answer, fail and stream."""

    @app.post("/v1/said")
    async def said(body: Said, caller: TheCaller) -> dict[str, Any]:
        return {"tenant": caller.tenant, "length": len(body.text)}

    @app.get("/v1/bug")
    async def bug() -> None:
        raise KeyError(SECRET)

    @app.get("/v1/slip")
    async def slip() -> None:
        raise DataError("row 3 has no text")

    @app.get("/v1/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"data: one\n\n"
            raise KeyError(SECRET)

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return app


Client = httpx2.AsyncClient


@asynccontextmanager
async def client(tmp_path: Path, settings: ServerSettings | None = None, **headers: str) -> AsyncIterator[Client]:
    with open_store(tmp_path / "store.db") as store:
        app = extended(create_app(settings or ServerSettings(), store=store, models=FakeModels()))
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with Client(transport=transport, base_url="http://127.0.0.1:8400", headers=headers) as opened:
                yield opened


def ask(
    tmp_path: Path, method: str, path: str, settings: ServerSettings | None = None, **options: Any
) -> httpx2.Response:  # fmt: skip
    async def once() -> httpx2.Response:
        async with client(tmp_path, settings) as opened:
            return await opened.request(method, path, **options)

    return asyncio.run(once())


def is_openai_shaped(answer: httpx2.Response) -> bool:
    body = answer.json()
    return list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the server logs, as `tomtat serve` sets it up."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    logs.set_up("info", stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)


# -- request ids


def test_every_answer_has_a_request_id(tmp_path: Path):
    for path in ("/healthz", "/v1/usage", "/nowhere", "/v1/bug"):
        answer = ask(tmp_path, "GET", path)
        assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("given", "is_taken"), [("abc-123", True), ("x" * 129, False), ("a b", False), ("é", False)])
def test_a_clients_request_id_is_taken_if_it_is_sane(tmp_path: Path, given: str, is_taken: bool):
    answer = ask(tmp_path, "GET", "/healthz", headers=[(b"x-request-id", given.encode())])
    assert (answer.headers["x-request-id"] == given) is is_taken


# -- hosts


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8400", "127.0.0.1", "[::1]:9", "bots.example:8400"])
def test_its_own_names_are_served(tmp_path: Path, host: str):
    settings = ServerSettings(hosts=("bots.example",))
    assert ask(tmp_path, "GET", "/v1/usage", settings, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1"])
def test_other_names_are_refused_on_the_loopback(tmp_path: Path, host: str):
    answer = ask(tmp_path, "GET", "/v1/usage", headers={"host": host})
    assert answer.status_code == 421
    assert is_openai_shaped(answer)
    assert "evil" not in answer.text
    assert ask(tmp_path, "GET", "/metrics", headers={"host": host}).status_code == 421
    assert ask(tmp_path, "GET", "/healthz", headers={"host": host}).status_code == 200


def test_beyond_the_loopback_keys_are_needed_and_any_name_is_taken(tmp_path: Path):
    with pytest.raises(ConfigError, match="keys are needed"):
        create_app(ServerSettings(host="0.0.0.0"))
    _, key = add_key(tmp_path / "keys.json", "acme")
    settings = ServerSettings(host="0.0.0.0", keys=str(tmp_path / "keys.json"))
    headers = {"host": "any.example", "authorization": f"Bearer {key}"}
    assert ask(tmp_path, "GET", "/v1/usage", settings, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_what_the_loopback_is(host: str, expected: bool):
    assert is_loopback(host) is expected


# -- keys


@pytest.mark.parametrize("authorization", [None, "Bearer tt-wrong", "Basic eDp5"])
def test_where_keys_are_wanted_nothing_goes_without(tmp_path: Path, authorization: str | None):
    add_key(tmp_path / "keys.json", "acme")
    settings = ServerSettings(keys=str(tmp_path / "keys.json"))
    headers = {"authorization": authorization} if authorization else {}
    for method, path in (("GET", "/v1/usage"), ("POST", "/v1/said"), ("GET", "/nowhere")):
        answer = ask(tmp_path, method, path, settings, headers=headers)
        assert answer.status_code == 401
        assert is_openai_shaped(answer)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "x-request-id" in answer.headers
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert ask(tmp_path, "GET", path, settings, headers=headers).status_code == 200
    assert ask(tmp_path, "GET", "/metrics", settings, headers=headers).status_code == 401


def test_a_key_is_its_tenant(tmp_path: Path):
    path = tmp_path / "keys.json"
    _, acme = add_key(path, "acme")
    _, bolt = add_key(path, "bolt")
    settings = ServerSettings(keys=str(path))
    for key, tenant in ((acme, "acme"), (bolt, "bolt")):
        headers = {"authorization": f"Bearer {key}"}
        answer = ask(tmp_path, "POST", "/v1/said", settings, headers=headers, json={"text": "hi"})
        assert answer.json() == {"tenant": tenant, "length": 2}


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_metrics_are_for_admins_where_there_are_keys(tmp_path: Path, host: str):
    path = tmp_path / "keys.json"
    _, plain = add_key(path, "acme")
    _, admin = add_key(path, "ops", admin=True)
    settings = ServerSettings(host=host, keys=str(path))
    expected = {plain: 403, admin: 200, "tt-wrong": 401}
    for key, status in expected.items():
        answer = ask(tmp_path, "GET", "/metrics", settings, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status


# -- bodies


def small(body_bytes: int = 100) -> ServerSettings:
    return ServerSettings.model_validate({"limits": {"body_bytes": body_bytes}})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_addresses_without_a_key_take_no_endless_bodies(tmp_path: Path, path: str):
    answer = ask(tmp_path, "GET", path, small(), content=b"x" * 101)
    assert answer.status_code == 413


def test_a_body_over_the_limit_is_413_by_its_header_and_as_it_comes(tmp_path: Path):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b'{"text":  '

    for content in (b"x" * 101, pieces()):
        answer = ask(tmp_path, "POST", "/v1/said", small(), content=content)
        assert answer.status_code == 413
        assert is_openai_shaped(answer)
        assert "100 bytes" in answer.json()["error"]["message"]


def test_a_body_that_never_ends_coming_is_408(tmp_path: Path):
    async def stalled() -> AsyncIterator[bytes]:
        yield b'{"text":'
        await asyncio.Event().wait()

    settings = ServerSettings.model_validate({"limits": {"body_seconds": 0.05}})
    answer = ask(
        tmp_path, "POST", "/v1/said", settings, content=stalled(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 408
    assert is_openai_shaped(answer)


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        '{"text": "x"}'.encode("utf-16"),
        rb'{"text": "\u0000"}',
        rb'{"text": "\ud83d"}',
        rb'{"text": "\ude00 after"}',
        rb'{"text": "\\\ud83d"}',
        rb'{"text": "\ud83d\ud83d\ude00"}',
        b'{"text": NaN}',
        b'{"text": "x", "more": [-Infinity]}',
        b'{"text": "\x00"}',
        b'{"text": ',
        b"[" * 100_000,
        b"1" * 10_000,
        b"nonsense",
    ],
)
def test_what_is_no_clean_json_is_400(tmp_path: Path, body: bytes):
    answer = ask(tmp_path, "POST", "/v1/said", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert is_openai_shaped(answer)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (rb'{"text": "\ud83d\ude00"}', 1),
        (rb'{"text": "\\u0000 \\ud83d NaN \" Infinity"}', 28),
        ('{"text": "tóm tắt 🙂 \u2028"}'.encode(), 11),
        (b' {"more" : [1e5, -0.3, true, null, {}] , "text" : ""} ', 0),
    ],
)
def test_what_only_looks_odd_is_taken(tmp_path: Path, body: bytes, length: int):
    answer = ask(tmp_path, "POST", "/v1/said", content=body, headers={"content-type": "application/json"})
    assert answer.json() == {"tenant": "default", "length": length}


@pytest.mark.parametrize("path", ["/v1/usage%00", "/v1/usage?a=%00", "/%00"])
def test_a_nul_in_the_address_is_400(tmp_path: Path, path: str):
    answer = ask(tmp_path, "GET", path)
    assert answer.status_code == 400
    assert is_openai_shaped(answer)


# -- errors


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": 7}, "text"),
        ({"text": "x", "parts": ["a", {"texd": SECRET}]}, "parts.1.text"),
        ({"text": "x", "count": SECRET}, "count"),
    ],
)
def test_what_is_wrong_with_a_body_is_one_sentence_with_its_place(tmp_path: Path, body: Any, param: str):
    answer = ask(tmp_path, "POST", "/v1/said", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{param}: ")
    assert "\n" not in error["message"]
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain; application/json"],
)  # fmt: skip
def test_no_route_takes_what_a_page_may_send_unasked(tmp_path: Path, kind: str | None):
    async def every_one() -> list[tuple[str, httpx2.Response]]:
        async with client(tmp_path) as opened:
            document = (await opened.get("/openapi.json")).json()
            paths = [path for path, operations in document["paths"].items() if "post" in operations]
            headers = {"content-type": kind} if kind else {}
            return [
                (path, await opened.post(re.sub(r"{\w+}", "x", path), content=b'{"text": "x"}', headers=headers))
                for path in paths
            ]

    answers = asyncio.run(every_one())
    assert {"/v1/chat/completions", "/v1/responses", "/v1/responses/compact", "/v1/conversations/import"} <= {
        path for path, _ in answers
    }
    for path, answer in answers:
        assert answer.status_code == 415, path
        assert is_openai_shaped(answer)
        assert answer.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"])
def test_json_is_taken_by_any_of_its_names(tmp_path: Path, kind: str):
    answer = ask(tmp_path, "POST", "/v1/said", content=b'{"text": "x"}', headers={"content-type": kind})
    assert answer.status_code == 200


def test_nothing_in_place_of_json_is_400(tmp_path: Path):
    assert ask(tmp_path, "POST", "/v1/said").status_code == 400


def test_a_damaged_conversation_is_not_named_in_the_log(tmp_path: Path, logged: io.StringIO):
    async def damaged() -> httpx2.Response:
        with open_store(tmp_path / "store.db") as store:
            app = create_app(ServerSettings(), store=store, models=FakeModels())

            @app.get("/v1/damaged")
            async def fails() -> None:
                raise Damaged(f"Conversation {SECRET!r} is damaged.")

            async with (
                app.router.lifespan_context(app),
                Client(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as opened,
            ):
                return await opened.get("/v1/damaged")

    assert asyncio.run(damaged()).status_code == 500
    told = next(json.loads(line) for line in logged.getvalue().splitlines() if '"error"' in line)
    assert told["kind"] == "Damaged"
    assert SECRET not in logged.getvalue()


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/nowhere", 404, "Unknown address: GET /v1/nowhere."),
        ("GET", "/v1/usage/", 404, "Unknown address: GET /v1/usage/."),
        ("DELETE", "/v1/usage", 405, "/v1/usage does not take DELETE."),
        ("GET", "/v1/slip", 400, "row 3 has no text"),
    ],
)
def test_errors_have_openais_shape(tmp_path: Path, method: str, path: str, status: int, message: str):
    answer = ask(tmp_path, method, path)
    assert answer.status_code == status
    assert is_openai_shaped(answer)
    assert answer.json()["error"]["message"] == message


def test_a_bug_is_told_by_its_number_and_logged_without_what_was_said(tmp_path: Path, logged: io.StringIO):
    answer = ask(tmp_path, "GET", "/v1/bug")
    assert answer.status_code == 500
    assert is_openai_shaped(answer)
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    told = next(line for line in lines if line["level"] == "error")
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["exception"][0] == "KeyError"
    assert any("test_server_edge.py" in line for line in told["exception"])
    assert SECRET not in logged.getvalue()
    assert SECRET not in answer.text


# -- logs and figures


def test_a_request_is_one_line_of_log_without_content(tmp_path: Path, logged: io.StringIO):
    answer = ask(tmp_path, "POST", f"/v1/said?q={SECRET}", json={"text": SECRET}, headers={"x-request-id": "r-1"})
    ask(tmp_path, "GET", f"/v1/{SECRET}")
    lines = [json.loads(line) for line in logged.getvalue().splitlines() if '"tomtat.access"' in line]
    first = lines[0]
    assert first["seconds"] >= 0
    expected = {
        "request_id": "r-1", "tenant": "default", "key": "-", "method": "POST", "route": "/v1/said", "status": 200,
        "bytes": len(answer.content),
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert lines[1]["route"] == "-"
    assert SECRET not in logged.getvalue()


def test_exceptions_of_libraries_are_logged_without_their_messages(logged: io.StringIO):
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise ExceptionGroup(SECRET, [KeyError(SECRET)]) from error
    except ExceptionGroup:
        logging.getLogger("somebody").exception("it failed")
    logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: {SECRET}")
    first, second = (json.loads(line) for line in logged.getvalue().splitlines())
    assert [line for line in first["exception"] if not line.startswith(" ")] == [
        "ExceptionGroup",
        "KeyError",
        "ValueError",
    ]
    assert second["message"] == "Task exception was never retrieved"
    assert SECRET not in logged.getvalue()


def test_metrics_count_by_route_and_name_no_tenant(tmp_path: Path):
    async def several() -> str:
        async with client(tmp_path) as opened:
            for path in ("/v1/usage", "/v1/usage", f"/v1/{SECRET}", "/v1/bug"):
                await opened.get(path)
            return (await opened.get("/metrics")).text

    text = asyncio.run(several())
    assert 'tomtat_requests_total{route="/v1/usage",status="200"} 2.0' in text
    assert 'tomtat_requests_total{route="-",status="404"} 1.0' in text
    assert 'tomtat_requests_total{route="/v1/bug",status="500"} 1.0' in text
    assert "tomtat_requests_under_way 0.0" in text
    assert SECRET not in text
    assert "default" not in text


def test_usage_is_the_tenants_own(tmp_path: Path):
    path = tmp_path / "keys.json"
    keys = {name: add_key(path, name)[1] for name in ("acme", "bolt")}

    async def several() -> dict[str, int]:
        async with client(tmp_path, ServerSettings(keys=str(path))) as opened:
            found = {}
            for name, times in (("acme", 3), ("bolt", 1)):
                headers = {"authorization": f"Bearer {keys[name]}"}
                for _ in range(times):
                    found[name] = (await opened.get("/v1/usage", headers=headers)).json()["requests"]
            return found

    assert asyncio.run(several()) == {"acme": 3, "bolt": 1}


# -- health


class Waiting(FakeModels):
    waits_for = "the model chats"


class Silent:
    """A store whose server is down."""

    def branches(self, name: str) -> None:
        raise OSError(f"postgresql://tomtat:{SECRET}@db does not answer")

    def close(self) -> None:
        pass


def test_what_is_missing_makes_it_unready_but_alive(tmp_path: Path, logged: io.StringIO):
    async def ready() -> list[Any]:
        app = create_app(ServerSettings(), store=Silent(), models=Waiting())  # type: ignore[arg-type]
        async with app.router.lifespan_context(app), Client(transport=httpx2.ASGITransport(app=app)) as opened:
            app.state.is_stopping = True
            answers = [await opened.get(f"http://10.0.0.7{path}") for path in ("/readyz", "/healthz")]
            return [(answer.status_code, answer.json()) for answer in answers]

    unready, alive = asyncio.run(ready())
    missing = ["the server is stopping", "the model chats", "the store does not answer"]
    assert unready == (503, {"status": "waiting", "missing": missing})
    assert alive == (200, {"status": "ok"})
    assert SECRET not in logged.getvalue()


# -- clients that go, streams that break; spoken in plain ASGI, for httpx's transport can't go


Messages = list[dict[str, Any]]


async def spoken(
    tmp_path: Path, path: str, receive: Callable[[FastAPI], Callable[[], Awaitable[dict[str, Any]]]], method: str = "GET",
    prepare: Callable[[FastAPI], Any] = lambda app: None,
) -> tuple[Messages, str]:  # fmt: skip
    """The answer's messages, and the figures afterwards."""
    sent: Messages = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    with open_store(tmp_path / "store.db") as store:
        app = extended(create_app(ServerSettings(), store=store, models=FakeModels()))
        prepare(app)
        async with app.router.lifespan_context(app):
            headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
            scope = {
                "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 1), "root_path": "",
                "asgi": {"version": "3.0", "spec_version": "2.3"}, "client": None,
            }  # fmt: skip
            await app(scope, receive(app), send)
            return sent, app.state.services.metrics.text().decode()


def test_a_stream_that_breaks_has_no_end_and_its_place_is_free(tmp_path: Path, logged: io.StringIO):
    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def body() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    def receive(app: FastAPI) -> Any:
        first = iter([body])
        return lambda: next(first, never)()

    sent, text = asyncio.run(spoken(tmp_path, "/v1/broken-stream", receive))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"] is True
    assert "tomtat_requests_under_way 0.0" in text
    assert SECRET not in logged.getvalue()


@pytest.mark.parametrize("is_stream", [False, True])
def test_work_for_a_client_that_went_is_ended_and_its_place_is_free(tmp_path: Path, is_stream: bool):
    events: dict[str, asyncio.Event] = {}
    ended: list[str] = []

    def prepare(app: FastAPI) -> None:
        events["began"] = asyncio.Event()

        async def wait_for_ever() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                events["began"].set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("ended")
                raise

        @app.post("/v1/long")
        async def long(body: Said) -> Any:
            if is_stream:
                return StreamingResponse(wait_for_ever())
            return [piece async for piece in wait_for_ever()]

    def receive(app: FastAPI) -> Any:
        async def gone() -> dict[str, Any]:
            await events["began"].wait()
            return {"type": "http.disconnect"}

        async def body() -> dict[str, Any]:
            return {"type": "http.request", "body": b'{"text": "x"}'}

        first = iter([body])
        return lambda: next(first, gone)()

    _, text = asyncio.run(spoken(tmp_path, "/v1/long", receive, "POST", prepare))
    assert ended == ["ended"]
    assert 'tomtat_requests_total{route="/v1/long",status="499"} 1.0' in text
    assert "tomtat_requests_under_way 0.0" in text


# -- the document


def test_the_document_knows_errors_and_keys(tmp_path: Path):
    add_key(tmp_path / "keys.json", "acme")
    document = ask(tmp_path, "GET", "/openapi.json").json()
    with_keys = ask(tmp_path, "GET", "/openapi.json", ServerSettings(keys=str(tmp_path / "keys.json"))).json()
    assert document["info"]["title"] == "tomtat"
    assert document["security"] == [{"key": []}, {}]
    assert with_keys["security"] == [{"key": []}]
    assert with_keys["paths"]["/healthz"]["get"]["security"] == []
    names = []
    for operations in document["paths"].values():
        for operation in operations.values():
            names.append(operation["operationId"])
            shape = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert shape == {"$ref": "#/components/schemas/ErrorBody"}
            assert "422" not in operation["responses"]
    assert len(set(names)) == len(names)


def test_a_store_that_fails_is_503_and_does_not_say_where_it_lies():
    from tomtat.errors import StoreError
    from tomtat.server.errors import of

    try:
        try:
            raise OSError("connection refused")
        except OSError as cause:
            raise StoreError(f"The store at postgresql://db/{SECRET} does not answer.") from cause
    except StoreError as error:
        answer = of(error)
    assert (answer.status, answer.code) == (503, "store_unavailable")
    assert SECRET not in answer.message
    assert of(StoreError("A message's role is one of ...")).status == 400
