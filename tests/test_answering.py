"""Who answers in a chat: a tiny model on this machine, and servers that stream, refuse, stall and break off."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from memory_fakes import user
from tomtat import answering
from tomtat.answering import LocalModel, Upstream
from tomtat.errors import ModelError

Reply = Callable[["Handler"], None]
HELLO = [user("hello")]


# -- a server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers.get("Authorization"), json.loads(body)))
        replies = self.server.replies
        (replies.pop(0) if len(replies) > 1 else replies[0])(self)

    def put(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = [streams("Hel", "lo!")]
        """What comes next; the last of them for ever."""
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        """Paths, keys, bodies."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is nothing to tell."""


def chunk(text: str | None, usage: dict[str, int] | None = None) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "usage": usage,
             "choices": [] if text is None else [delta]}  # fmt: skip
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def streams(*pieces: str | bytes, prompt_tokens: int | None = None) -> Reply:
    def reply(to: Handler) -> None:
        to.begin()
        for piece in pieces:
            to.put(piece if isinstance(piece, bytes) else chunk(piece))
        if prompt_tokens is not None:
            to.put(chunk(None, {"prompt_tokens": prompt_tokens, "completion_tokens": 2, "total_tokens": 2}))
        to.put(b"data: [DONE]\n\n")
        to.wfile.write(b"0\r\n\r\n")

    return reply


def answers(code: int, content: str, kind: str = "application/json") -> Reply:
    def reply(to: Handler) -> None:
        to.send_response(code)
        to.send_header("Content-Type", kind)
        to.send_header("Content-Length", str(len(content.encode())))
        to.end_headers()
        to.wfile.write(content.encode())

    return reply


def refuses(code: int, why: str) -> Reply:
    return answers(code, json.dumps({"error": {"message": why, "type": "x"}}))


def breaks_off(*pieces: str, after: float = 0.1) -> Reply:
    """Says something, then nothing for a while, and hangs up."""

    def reply(to: Handler) -> None:
        to.begin()
        for piece in pieces:
            to.put(chunk(piece))
        time.sleep(after)
        to.close_connection = True
        to.connection.shutdown(socket.SHUT_RDWR)

    return reply


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks once, and waits for a second."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI
    monkeypatch.setattr(openai, "OpenAI", lambda **how: client(**how | {"max_retries": 0, "timeout": 1.0}))


def refused(upstream: Upstream, messages: Sequence[Any] = HELLO) -> tuple[str, str]:
    """What came before an error, and the error."""
    written: list[str] = []
    with pytest.raises(ModelError) as caught:
        written.extend(upstream.stream(messages))
    return "".join(written), str(caught.value)


# -- upstream


def test_an_answer_comes_piece_by_piece_as_the_server_sends_it(server: Server) -> None:
    pytest.importorskip("openai")
    first = threading.Event()

    def reply(to: Handler) -> None:
        to.begin()
        to.put(chunk("Hel"))
        first.wait(10)
        streams_rest = [chunk("lo"), chunk(" é会🙂"), b"data: [DONE]\n\n"]
        for piece in streams_rest:
            to.put(piece)
        to.wfile.write(b"0\r\n\r\n")

    server.replies = [reply]
    pieces = Upstream(server.url, "m").stream(HELLO)

    assert next(pieces) == "Hel"
    first.set()
    assert list(pieces) == ["lo", " é会🙂"]


def test_a_request_is_as_openai_wants_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "key-1")
    messages = [{"role": "system", "content": "Be brief."}, user("Chào!", name="Ann")]
    list(Upstream(server.url, "some/model").stream(messages))

    [(path, key, body)] = server.asked
    assert path == "/v1/chat/completions"
    assert key == "Bearer key-1"
    assert body["messages"] == messages
    assert (body["model"], body["stream"], body["stream_options"]) == ("some/model", True, {"include_usage": True})


def test_no_key_is_needed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    for value in (None, ""):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("OPENAI_API_KEY", value)
        assert "".join(Upstream(server.url, "m").stream(HELLO)) == "Hello!"


def test_usage_is_that_of_the_last_request_or_none(server: Server, impatient: None) -> None:
    server.replies = [streams("a", prompt_tokens=42), streams("b"), streams("c", prompt_tokens=7), refuses(500, "no")]
    upstream = Upstream(server.url, "m")
    found = []
    for _ in range(3):
        list(upstream.stream(HELLO))
        found.append(upstream.prompt_tokens)
    refused(upstream)

    assert [*found, upstream.prompt_tokens] == [42, None, 7, None]


@pytest.mark.parametrize(
    ("code", "why"), [(401, "Incorrect API key"), (404, "no such model"), (429, "slow down"), (500, "out of\nmemory")]
)
def test_a_refusal_is_one_line_with_the_address_and_the_reason(
    server: Server, impatient: None, code: int, why: str
) -> None:
    server.replies = [refuses(code, why)]
    written, error = refused(Upstream(server.url, "m"))

    assert written == ""
    assert error.startswith(f"{server.url} answered {code}: ")
    assert " ".join(why.split()) in error
    assert "\n" not in error


@pytest.mark.parametrize("code", [429, 500])
def test_what_may_pass_is_tried_again(server: Server, code: int) -> None:
    pytest.importorskip("openai")
    server.replies = [refuses(code, "not now"), streams("Now.")]

    assert "".join(Upstream(server.url, "m").stream(HELLO)) == "Now."
    assert len(server.asked) == 2


def test_a_server_that_breaks_off_is_told_after_what_it_said(server: Server, impatient: None) -> None:
    server.replies = [breaks_off("Hel", "lo")]
    written, error = refused(Upstream(server.url, "m"))

    assert written == "Hello"
    assert error.startswith(f"{server.url} can't be reached, or broke off: ")


def test_a_server_that_stalls_is_not_waited_for_for_ever(server: Server, impatient: None) -> None:
    server.replies = [breaks_off("Hel", after=5)]
    started = time.monotonic()
    written, error = refused(Upstream(server.url, "m"))

    assert written == "Hel"
    assert server.url in error
    assert time.monotonic() - started < 4


def test_an_error_in_the_stream_is_told(server: Server, impatient: None) -> None:
    server.replies = [streams("Hel", b'data: {"error": {"message": "overloaded"}}\n\n')]
    assert refused(Upstream(server.url, "m")) == ("Hel", f"{server.url} can't be reached, or broke off: overloaded")


@pytest.mark.parametrize(
    "odd",
    [b'data: {"id": "1", "choices": null}\n\n', b'data: {"id": "1", "choices": [{"index": 0, "delta": null}]}\n\n',
     b'data: {"id": "1", "choices": [{"index": 0, "delta": {}}]}\n\n', b": ping\n\n", b'data: {"choices": []}\n\n'],
)  # fmt: skip
def test_chunks_that_say_nothing_are_passed_over(server: Server, impatient: None, odd: bytes) -> None:
    server.replies = [streams("Hel", odd, "lo")]
    assert "".join(Upstream(server.url, "m").stream(HELLO)) == "Hello"


@pytest.mark.parametrize("odd", [b"data: hello\n\n", b"data: [1]\n\n", b"data: \xff\xfe\n\n"])
def test_what_is_no_chunk_at_all_is_one_line(server: Server, impatient: None, odd: bytes) -> None:
    server.replies = [streams("Hel", odd, "lo")]
    written, error = refused(Upstream(server.url, "m"))

    assert written == "Hel"
    assert error.startswith(f"{server.url} doesn't answer as OpenAI does: ")
    assert "\n" not in error


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "localhost:8000", "ftp://x/v1", "http://[::1/v1", ""])
def test_an_address_where_nobody_is_is_one_line(url: str, impatient: None) -> None:
    with pytest.raises(ModelError) as caught:
        list(Upstream(url, "m").stream(HELLO))
    assert str(caught.value).startswith(f"{url} ")
    assert "\n" not in str(caught.value)


def test_a_password_in_the_address_is_not_told(impatient: None) -> None:
    _, error = refused(Upstream("http://ann:geheim@127.0.0.1:1/v1", "m"))
    assert "geheim" not in error
    assert "127.0.0.1:1/v1" in error


def test_a_key_that_is_none_is_one_line(server: Server, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    _, error = refused(Upstream(server.url, "m"))
    assert "schlüssel" not in error


def test_a_consumer_may_stop_early(server: Server, impatient: None) -> None:
    server.replies = [streams(*["word "] * 1000)]
    upstream = Upstream(server.url, "m")
    pieces: Any = upstream.stream(HELLO)
    assert next(pieces) == "word "
    pieces.close()

    server.replies = [streams("again")]
    assert list(upstream.stream(HELLO)) == ["again"]


def test_without_the_package_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match=r"pip install 'tomtat\[upstream\]'"):
        Upstream("http://127.0.0.1:1/v1", "m")


# -- on this machine


@pytest.fixture
def local(tiny_llama: Path) -> LocalModel:
    return LocalModel(str(tiny_llama), "cpu")


def answering_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tomtat-answer"]


def forwards(local: LocalModel, work: Callable[[int], None] = lambda _: None) -> list[int]:
    """Counts the steps of the network, and does some work in each."""
    steps: list[int] = []

    def hook(*_: Any) -> None:
        steps.append(len(steps))
        work(len(steps))

    local._model.network.register_forward_pre_hook(hook)
    return steps


def says(local: LocalModel, text: str) -> None:
    """Random weights say nothing but line ends: these say a text, and end."""
    tokens = local.tokenizer(text, add_special_tokens=False)["input_ids"] + [local.tokenizer.eos_token_id]
    left = list(tokens)

    def hook(module: Any, arguments: Any, output: Any) -> None:
        output.logits[:] = -1e4
        output.logits[:, -1, left.pop(0)] = 1e4
        left[:] = left or tokens

    local._model.network.register_forward_hook(hook)


def test_a_model_on_this_machine_streams_what_it_says(local: LocalModel) -> None:
    text = "Nina is ill:\n  room four, é会🙂 Đơn hàng?"
    says(local, text)
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    pieces = list(local.stream(messages))

    assert "".join(pieces) == text
    assert len(list(filter(None, pieces))) > 5
    prompt = local.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert local.prompt_tokens == len(prompt["input_ids"])
    assert list(local.stream(messages)) == pieces
    assert not answering_threads()


def test_an_answer_has_a_greatest_length(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MAX_NEW_TOKENS", 7)
    steps = forwards(local)
    list(local.stream(HELLO))
    assert len(steps) == 7


def test_it_stops_when_nobody_reads_on(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MAX_NEW_TOKENS", 1500)
    steps = forwards(local, lambda _: time.sleep(0.01))
    pieces: Any = local.stream(HELLO)
    next(pieces)
    pieces.close()

    assert not answering_threads()
    assert 1 <= len(steps) < 300


@pytest.mark.parametrize("step", [1, 4])
def test_an_error_while_it_generates_is_raised_where_somebody_listens(local: LocalModel, step: int) -> None:
    def fail(now: int) -> None:
        if now == step:
            raise MemoryError("no room")

    forwards(local, fail)
    with pytest.raises(MemoryError, match="no room"):
        list(local.stream(HELLO))
    assert not answering_threads()


def test_a_conversation_that_its_template_cant_take_is_one_line(local: LocalModel) -> None:
    local.tokenizer.chat_template = "{{ raise_exception('Conversation roles\nmust alternate') }}"
    with pytest.raises(ModelError, match="can't read this conversation: Conversation roles must alternate"):
        list(local.stream(HELLO))


def test_a_model_that_does_not_chat_is_refused(tiny_t5: Path) -> None:
    with pytest.raises(ModelError, match="does not chat: it has no chat template") as caught:
        LocalModel(str(tiny_t5), "cpu")
    assert "\n" not in str(caught.value)
