"""`tomtat serve` as a process: it starts, answers, finishes what it took; and slips are one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tomtat.server.keys import add_key
from tomtat.store import open_store

DEADLINE = 300.0
"""Seconds until a test gives up on a process."""


SERVE = [sys.executable, "-m", "tomtat.cli", "serve"]

WITHOUT_MODEL = """
import sys
from server_fakes import FakeModels
from tomtat.server import create_app, load_settings, logs
from tomtat.server.running import run

store, url, stop_seconds = sys.argv[1:]
values = {"store": store, "port": 0, "upstreams": {"slow": {"url": url}}, "limits": {"stop_seconds": float(stop_seconds)}}
settings = load_settings(overrides=values)
logs.set_up()
run(create_app(settings, models=FakeModels()), settings, lambda address: print(address, "base_url", flush=True))
"""
"""What `tomtat serve` does, without the half minute that a model may take."""


class Server:
    """A server of its own, ended by its process id."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=Path(__file__).parent,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
            )  # fmt: skip
        self.greeting = ""
        threading.Thread(target=self._read, daemon=True).start()
        self.until(lambda: "base_url" in self.greeting)
        self.url = re.search(r"http://\S+", self.greeting)[0]  # type: ignore[index]

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.greeting += line

    def until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not is_so():
            assert self.process.poll() is None or is_so(), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def is_refusing(self) -> bool:
        host, port = self.url.removeprefix("http://").split(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError:
            return True
        return False

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@contextmanager
def served(folder: Path, command: list[str]) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    server = Server(folder, command)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


class SlowUpstream:
    """Answers when it is allowed to."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()
        body = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "big",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "At last."}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
        }  # fmt: skip
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                outer.asked.set()
                outer.may_answer.wait(DEADLINE)
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def upstream() -> Iterator[SlowUpstream]:
    opened = SlowUpstream()
    yield opened
    opened.may_answer.set()
    opened.server.shutdown()
    opened.server.server_close()


def ask_in_background(url: str) -> tuple[threading.Thread, list[httpx2.Response | Exception]]:
    answers: list[httpx2.Response | Exception] = []

    def ask() -> None:
        body = {"model": "big", "messages": [{"role": "user", "content": "Hello?"}]}
        try:
            headers = {"x-conversation-id": "chat-1"}
            answers.append(httpx2.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=DEADLINE))
        except httpx2.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def before(upstream: SlowUpstream, store: Path, stop_seconds: float = 60) -> list[str]:
    return [sys.executable, "-c", WITHOUT_MODEL, str(store), upstream.url, str(stop_seconds)]


def test_it_starts_says_where_and_stops_when_told(tmp_path: Path, tiny_llama: Path):
    store = str(tmp_path / "store.db")
    with served(tmp_path / "one", [*SERVE, f"tiny={tiny_llama}", "--port", "0", "--store", store]) as server:
        assert "summarizers  tiny" in server.greeting
        assert store in server.greeting
        assert httpx2.get(f"{server.url}/readyz").status_code == 200
        health = httpx2.get(f"{server.url}/healthz")
        assert health.json() == {"status": "ok"}
        assert "server" not in health.headers
        tried = re.search(r"try +(curl .*)", server.greeting)
        assert tried
        said = subprocess.run(tried[1], shell=True, capture_output=True, text=True, timeout=DEADLINE)
        assert "summary" in said.stdout, said
        assert server.end() == 0
        routes = [line["route"] for line in server.lines() if line["logger"] == "tomtat.access"]
        assert routes == ["/readyz", "/healthz", "/v1/summaries"]
        assert "Nina" not in server.log.read_text()


def test_a_memory_alone_loads_no_model(tmp_path: Path, upstream: SlowUpstream):
    upstream.may_answer.set()
    command = [*SERVE, "--no-summarizer", "--upstream", upstream.url, "--port", "0", "--store", str(tmp_path / "s.db")]
    with served(tmp_path / "one", command) as server:
        assert "summarizers  none" in server.greeting
        tried = re.search(r"try +(curl .*)", server.greeting)
        assert tried
        said = subprocess.run(tried[1], shell=True, capture_output=True, text=True, timeout=DEADLINE)
        assert json.loads(said.stdout)["data"] == []
        body = {"model": "big", "messages": [{"role": "user", "content": "Hello"}]}
        answer = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=DEADLINE)
        assert answer.headers["x-memory"] == "whole"
        assert httpx2.post(f"{server.url}/v1/summaries", json={"input": "Hello"}).status_code == 404
        assert server.end() == 0


def test_what_it_took_is_finished_and_nothing_more_is_taken(tmp_path: Path, upstream: SlowUpstream):
    store = tmp_path / "store.db"
    with served(tmp_path / "one", before(upstream, store)) as server:
        thread, answers = ask_in_background(server.url)
        assert upstream.asked.wait(DEADLINE)
        server.process.send_signal(signal.SIGTERM)
        server.until(server.is_refusing)
        assert not answers
        upstream.may_answer.set()
        assert server.process.wait(DEADLINE) == 0
        thread.join(DEADLINE)
        (answer,) = answers
        assert isinstance(answer, httpx2.Response), answer
        assert answer.json()["choices"][0]["message"]["content"] == "At last."
    with open_store(store) as opened:
        said = [turn.message["content"] for turn in opened.history("chat-1")]
    assert said == ["Hello?", "At last."]


def test_what_takes_too_long_to_finish_is_told_so(tmp_path: Path, upstream: SlowUpstream):
    with served(tmp_path / "one", before(upstream, tmp_path / "store.db", 0.2)) as server:
        thread, answers = ask_in_background(server.url)
        assert upstream.asked.wait(DEADLINE)
        assert server.end() == 0
        thread.join(DEADLINE)
        (answer,) = answers
        assert isinstance(answer, httpx2.Response), answer
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "stopping"


def test_a_second_signal_ends_it_at_once(tmp_path: Path, upstream: SlowUpstream):
    with served(tmp_path / "one", before(upstream, tmp_path / "store.db")) as server:
        thread, answers = ask_in_background(server.url)
        assert upstream.asked.wait(DEADLINE)
        server.process.send_signal(signal.SIGTERM)
        server.until(server.is_refusing)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 128 + signal.SIGTERM
        thread.join(DEADLINE)
        assert isinstance(answers[0], Exception)


# -- slips, before it says that it listens


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "store.db"
    monkeypatch.setenv("TOMTAT_STORE", str(place))
    monkeypatch.setattr("uvicorn.Server.serve", _listens)
    return place


async def _listens(*_: object, **__: object) -> None:
    raise AssertionError("it listens")


def is_one_line(result: Any, expected: str) -> bool:
    assert result.code == 2, result.err
    assert expected in result.err
    assert "Listening" not in result.out
    *before, last = result.err.strip().splitlines()
    return last.startswith("tomtat: ") and all(line.startswith("loading ") for line in before)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_for_others_needs_keys(tomtat: Callable[..., Any], place: Path, host: str):
    assert is_one_line(tomtat("serve", "--host", host), "keys are needed")


def test_a_port_in_use_is_told(tomtat: Callable[..., Any], place: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert is_one_line(tomtat("serve", "--port", port), f"127.0.0.1:{port} can't be taken")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("runs/nowhere",), "runs/nowhere"),
        (("a=",), "NAME=FOLDER"),
        (("a=runs/x", "a=runs/y"), "Two summarizers can't both be called 'a'"),
        (("--tokenizer", "x"), "belong to --upstream"),
        (("--log-level", "loud"), "--log-level loud"),
        (("--keys", "nowhere.json"), "There is no file of keys nowhere.json"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
        (("--store", "mysql://x/y"), "SQLite or PostgreSQL, not on mysql"),
        (("--store", "postgresql://tomtat:geheim@127.0.0.1:1/none"), "does not answer"),
        (("--upstream", "not a url"), "upstream"),
        (("--upstream", "http://127.0.0.1:1/v1", "--upstream-key", "NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE"),
    ],
)
def test_slips_are_one_line(
    tomtat: Callable[..., Any], tmp_path: Path, place: Path, arguments: tuple[str, ...], expected: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = tomtat("serve", "--port", 0, *arguments)
    assert is_one_line(result, expected), result.err
    assert "geheim" not in result.err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("prot = 1\n", "prot is not a setting; did you mean port?"),
        ('budget_tokens = "8400"\n', "budget_tokens: "),
        ("[limits]\nqueue = -1\n", "limits.queue: "),
        ("port = \n", "not valid TOML"),
        ('folds_with = "x"\n', "folds_with"),
    ],
)
def test_a_slip_in_the_settings_names_its_place(
    tomtat: Callable[..., Any], tmp_path: Path, place: Path, content: str, expected: str
):
    path = tmp_path / "serve.toml"
    path.write_text(content)
    assert is_one_line(tomtat("serve", "--port", 0, "--config", path), expected)


def test_a_store_that_is_none_is_told(tomtat: Callable[..., Any], place: Path):
    place.write_bytes(b"this is no database, and longer than a header of one would be" * 100)
    assert is_one_line(tomtat("serve", "--port", 0), "a file of another kind")


def test_keys_without_a_key_still_let_it_start_beyond_the_loopback_check(tmp_path: Path):
    from tomtat.server import ServerSettings
    from tomtat.server.app import check_address

    add_key(tmp_path / "keys.json", "acme")
    check_address(ServerSettings(host="0.0.0.0", keys=str(tmp_path / "keys.json")))
