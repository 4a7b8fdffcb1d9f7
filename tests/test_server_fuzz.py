"""Upstreams that misbehave and clients that vanish, in seeded ways, against the real server on real sockets."""

import asyncio
import json
import logging
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import httpx2

from server_fakes import FakeModels
from tomtat.server import ServerSettings, create_app
from tomtat.store import open_store
from upstream_fake import running
from upstream_hostile import CANARY, DEAF, KINDS, Hostile, Script, Wants, good, head, hostile

DEADLINE = 20.0
"""Seconds: what takes longer hangs. Nothing here is meant to take more than one."""
PLACES = 4
SAID = "Where did my order LM-48213 go?"


@contextmanager
def serving(folder: Path, upstream: Hostile, timeout: float, **limits: Any) -> Iterator[str]:
    root = f"http://127.0.0.1:{upstream.port}"
    settings = ServerSettings.model_validate({
        "limits": limits,
        "upstreams": {
            "deaf": {"url": f"{root}{DEAF}/v1", "models": ("deaf",), "timeout": timeout},
            "hostile": {"url": f"{root}/v1", "timeout": timeout},
        },
    })  # fmt: skip
    with (
        open_store(folder / "chats.db") as store,
        running(create_app(settings, store=store, models=FakeModels())) as url,
    ):
        yield url


def scripts(count: int, path: str, seed: int = 17) -> dict[str, Script]:
    """By name; every kind, streamed and not, in turn."""
    found = {}
    for number in range(count):
        is_stream = bool(number % 2)
        make = KINDS[number // 2 % len(KINDS)]
        found[f"{'stream' if is_stream else 'whole'}-{number}"] = make(
            random.Random(seed * 10_000 + number), Wants(is_stream, path == CHAT)
        )
    return found


CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def request(model: str, path: str = CHAT, **more: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": SAID}]} if path == CHAT else {"input": SAID}
    return {"model": model, "stream": model.startswith("stream"), **said, **more}


async def ask(
    client: httpx2.AsyncClient, model: str, path: str = CHAT, **more: Any
) -> tuple[httpx2.Response, bytes, str | None]:
    """The answer with all bytes that came, and how it broke off if it did."""
    body = request(model, path, **more)
    async with asyncio.timeout(DEADLINE), client.stream("POST", path, json=body) as answer:
        got = b""
        try:
            async for part in answer.aiter_bytes():
                got += part
        except httpx2.HTTPError as error:
            return answer, got, repr(error)
        return answer, got, None


def openai_error(body: bytes) -> dict[str, Any]:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str), error
    assert isinstance(error["type"], str), error
    for word in ("Traceback", "httpx", "Error(", SAID, CANARY, 'File "'):
        assert word not in error["message"], error
    return dict(error)


def is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def judge(script: Script, answer: httpx2.Response, body: bytes, broke: str | None) -> None:
    """Raises AssertionError unless the client got the upstream's own answer, or was told of a failure in OpenAI's
    shape, and was not given an end that the upstream's answer did not have."""
    assert broke is None, broke
    if answer.status_code == script.status and body == script.body:
        for name, value in script.headers.items():
            assert answer.headers[name] == value
        return
    if script.status == -1 and body == script.body:
        return
    assert not (script.status == 200 and is_answer(script.body)), (answer.status_code, body[:200], "a good answer")
    if answer.status_code == 200:
        # A stream that had begun: all of what came, and then the error as an event.
        told, _, error = body.rpartition(b"data: ")
        assert script.body.startswith(told.rstrip(b"\r\n")) or told.strip() == script.body.strip(), told[-200:]
        openai_error(error)
        return
    if script.status in (None, -1) or script.status < 400:
        assert answer.status_code in (502, 504), answer.status_code
    else:
        assert answer.status_code == script.status
        assert not is_object(script.body)
    openai_error(body)


def judge_unheard(answer: httpx2.Response, body: bytes, broke: str | None) -> None:
    """What an upstream that lied about its length still sends stands in the way of the next request on the connection,
    which is never heard, as is one that a busy machine lets wait for its connection: no answer can come then."""
    assert broke is None, broke
    assert answer.status_code == 502, answer.status_code
    assert openai_error(body)["code"] in ("upstream_cut", "upstream_unreachable")


def is_answer(body: bytes) -> bool:
    """Whether a client could read it: JSON, or a stream with its end."""
    return is_object(body) or b"data: [DONE]" in body or (b"response.completed" in body and body.endswith(b"\n\n"))


async def play(
    url: str, upstream: Hostile, wanted: dict[str, Script], path: str = CHAT, at_once: int = 32
) -> list[str]:
    """What went wrong."""
    wrong: list[str] = []
    places = asyncio.Semaphore(at_once)

    async def one(client: httpx2.AsyncClient, name: str, script: Script) -> None:
        async with places:
            try:
                conversation = f"chat-{zlib.crc32(name.encode()) % 20}"
                came = await ask(client, name, path, metadata={"conversation_id": conversation})
                if name in upstream.heard:
                    judge(script, *came)
                else:
                    judge_unheard(*came)
            except TimeoutError:
                wrong.append(f"{name}, {script.kind}: hangs")
            except (AssertionError, httpx2.HTTPError, ValueError, KeyError) as error:
                wrong.append(f"{name}, {script.kind}: {type(error).__name__} {str(error)[:400]}")

    async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await asyncio.gather(*(one(client, name, script) for name, script in wanted.items()))
    return wrong


def bugs(caplog: pytest.LogCaptureFixture) -> list[Any]:
    told = [getattr(record, "fields", record.getMessage()) for record in caplog.records if record.levelname == "ERROR"]
    # Answers that are no text can't be kept: that is said, and is no bug.
    return [one for one in told if not (isinstance(one, dict) and one.get("kind") == "StoreError")]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("count", [144, pytest.param(1200, marks=pytest.mark.slow)])
def test_whatever_an_upstream_does_a_client_gets_its_bytes_or_an_error(
    count: int, path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = scripts(count, path)
    with hostile(wanted) as upstream, serving(tmp_path, upstream, timeout=2) as url, caplog.at_level(logging.WARNING):
        wrong = asyncio.run(play(url, upstream, wanted, path))
        assert asyncio.run(play(url, upstream, {"whole-0": wanted["whole-0"]}, path)) == [], (
            "a good answer after all that"
        )
        assert not any(CANARY in line for line in upstream.requests), "a redirect was followed"
        metrics = httpx2.get(f"{url}/metrics").text
        assert figure(metrics, "tomtat_requests_under_way") == 0
        assert len(upstream.heard) > 0.95 * count
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    assert not bugs(caplog)
    assert SAID not in caplog.text
    assert figure(metrics, "tomtat_requests_total") >= count


def test_upstreams_that_do_not_read_the_request(tmp_path: Path) -> None:
    with hostile({}) as upstream, serving(tmp_path, upstream, timeout=2) as url:

        async def all_of_them() -> list[int]:
            async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
                answers = [
                    await ask(client, "deaf", metadata={"x": "y" * 400}, padding="z" * 400_000) for _ in range(30)
                ]
            for answer, body, broke in answers:
                assert broke is None
                assert answer.status_code in (413, 502), answer.status_code
                assert json.loads(body)["error"]["message"]
            return [answer.status_code for answer, _, _ in answers]

        assert 502 in asyncio.run(all_of_them())


def figure(metrics: str, name: str) -> float:
    """Summed over labels."""
    lines = [line for line in metrics.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


# Clients that vanish


def raw_request(rng: random.Random, model: str) -> bytes:
    more = {"metadata": {"conversation_id": f"gone-{rng.randrange(20)}"}, "stream": rng.random() < 0.5}
    body = json.dumps(request(model, **more)).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {len(body)}",
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


def vanish(address: tuple[str, int], rng: random.Random, model: str) -> socket.socket | None:
    """A client that ends too early; the socket where it is left open."""
    connection = socket.create_connection(address, timeout=DEADLINE)
    sent = raw_request(rng, model)
    match rng.randrange(5):
        case 0:  # in the middle of its request
            connection.sendall(sent[: rng.randrange(len(sent))])
        case 1:  # right after it
            connection.sendall(sent)
        case 2:  # in the middle of the answer
            connection.sendall(sent)
            connection.settimeout(0.3)
            with suppress(TimeoutError):
                connection.recv(rng.randrange(1, 400))
        case 3:  # says that nothing more comes, and goes
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        case _:  # sends a part, and nothing ever after
            connection.sendall(sent[: rng.randrange(len(sent))])
            return connection
    if rng.random() < 0.5:
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # a reset in place of an end
    connection.close()
    return None


class Together:
    """An upstream's answer that comes only when so many requests are there at once."""

    def __init__(self, upstream: Hostile, count: int) -> None:
        self.upstream, self.count = upstream, count

    async def all_answered(self, url: str) -> list[int]:
        async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
            answers = await asyncio.gather(*(ask(client, "together") for _ in range(self.count)))
        return [answer.status_code for answer, _, _ in answers]


def test_clients_that_vanish_free_their_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Four places, an upstream that never ends by itself, two hundred clients that go away."""
    rng = random.Random(5)
    endless: list[bytes | float | str] = [head(200, "content-type: text/event-stream", "transfer-encoding: chunked")]
    for _ in range(20_000):
        endless += [b"7\r\ndata: \n\r\n", 0.05]
    names = {
        "hang": Script("hang", ["hang"], None, b""),
        "endless": Script("endless", endless, None, b""),
        "good": good(random.Random(1), Wants(False)),
        "together": Script("together", ["together", *good(random.Random(1), Wants(False)).steps], 200, b""),
    }
    with (
        hostile(names, together=PLACES) as upstream,
        serving(tmp_path, upstream, timeout=600, requests=PLACES) as url,
        caplog.at_level(logging.WARNING),
    ):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        half_open = [vanish(address, rng, rng.choice(["hang", "endless", "good"])) for _ in range(200)]
        until(lambda: under_way(url) <= sum(map(bool, half_open)), "places of those who went are free")
        for connection in filter(None, half_open):
            connection.close()
        until(lambda: under_way(url) == 0, "all places are free")
        statuses = asyncio.run(Together(upstream, PLACES).all_answered(url))
        assert statuses == [200] * PLACES, "all places can be taken at once"
        until(lambda: upstream.busy == 0, "requests to the upstream ended with those that they were for")
        metrics = httpx2.get(f"{url}/metrics").text
    assert figure(metrics, "tomtat_requests_under_way") == 0
    assert not bugs(caplog)


def under_way(url: str) -> float:
    return figure(httpx2.get(f"{url}/metrics").text, "tomtat_requests_under_way")
