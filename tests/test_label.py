"""Drafts through a server that stalls, errs and lies; what was paid for is kept, and asked for once."""

import asyncio
import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conftest import Finished, write_jsonl
from tomtat.config import LabelSettings
from tomtat.data import load_examples
from tomtat.errors import DataError, ModelError, RunError
from tomtat.labelling import accept, correct, load, publish, reject
from tomtat.labelling.journal import ROOM_BYTES, open_journal, read_events
from tomtat.labelling.pacing import Budget, Prices, Spent, believed
from tomtat.labelling.upstream import Answer, AskAgain, RefusedChat, Upstream, retry_after
from upstream_fake import running
from upstream_hostile import KINDS, Wants, hostile

Body = dict[str, Any]


@dataclass
class Reply:
    """What the server says once."""

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str | None = "stop"
    usage: Any = None
    raw: bytes | None = None
    """Instead of all that."""
    pause: float = 0.0

    def content(self, body: Body) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.text, "type": "x", "code": self.headers.get("code")}}).encode()
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text},
            "finish_reason": self.finish_reason,
        }
        usage = {"prompt_tokens": 300, "completion_tokens": 20} if self.usage is None else self.usage
        return json.dumps({"model": body.get("model"), "choices": [choice], "usage": usage}).encode()


def good(body: Body) -> str:
    """The first sentence of the chat: nothing in it is invented."""
    return chat_of(body).splitlines()[0].partition(": ")[2]


def chat_of(body: Body) -> str:
    return str(body["messages"][0]["content"]).partition("Conversation:")[2].rpartition("Summary:")[0].strip()


class Server:
    """Answers each question as `says` does; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Body] = []
        self.keys: list[str | None] = []
        self.when: list[float] = []
        self.together = self.most_together = 0
        self.says: Callable[[Body, int], Reply] = lambda body, number: Reply(good(body))
        """By the body and how many questions came before."""
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        data = b""
        while (event := await receive())["type"] == "http.request":
            data += event.get("body", b"")
            if not event.get("more_body"):
                break
        if scope["path"].endswith("/models"):
            await self._send(send, 200, {}, b'{"data": [{"id": "only"}]}')
            return
        body = json.loads(data)
        reply = self.says(body, len(self.asked))
        self.asked.append(body)
        self.when.append(time.monotonic())
        self.keys.append({name: value.decode() for name, value in scope["headers"]}.get(b"authorization"))
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            await asyncio.sleep(reply.pause)
            await self._send(send, reply.status, reply.headers, reply.content(body))
        finally:
            self.together -= 1

    async def _send(self, send: Any, status: int, headers: dict[str, str], content: bytes) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def chats(self) -> list[str]:
        return [chat_of(body) for body in self.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    app = Server()
    with running(app) as url:
        app.url = f"{url}/v1"
        yield app


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomtat.labelling.pacing.FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def chat(number: int) -> list[Body]:
    days = "monday tuesday wednesday thursday friday".split()
    return [
        {
            "role": "user",
            "content": f"My kettle with the order number {1000 + number} came broken on {days[number % 5]}.",
        },
        {
            "role": "assistant",
            "content": "I am sorry. A new one can be sent, or you get your money back. What is better?",
        },
        {"role": "user", "content": "Please send a new one to the same address, but not in the morning."},
    ]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "chats.jsonl", [{"id": f"chat-{n}", "messages": chat(n)} for n in range(6)])


@pytest.fixture
def label(tomtat: Callable[..., Finished], server: Server, chats: Path) -> Callable[..., Finished]:
    def run(*more: object) -> Finished:
        return tomtat("label", chats, "--upstream", server.url, "--model", "m", "-j", 1, *more)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "chats.labelled.jsonl"


def rows_of(path: Path) -> list[Body]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers_once_refused(text: str, **how: Any) -> Callable[[Body, int], Reply]:
    """That for each first question; when asked again, what is right."""
    return lambda body, _: Reply(text, **how) if len(body["messages"]) == 1 else Reply(good(body))


# -- drafts


def test_accepted_drafts_are_rows_that_train(label: Callable[..., Finished], server: Server, out: Path):
    finished = label()
    assert finished.code == 0, finished.err
    examples = load_examples(str(out))
    assert [example.id for example in examples] == [f"chat-{n}" for n in range(6)]
    assert examples[0].source[0].content == chat(0)[0]["content"]
    assert examples[0].references == (chat(0)[0]["content"],)
    told = rows_of(out)[0]["draft"]
    assert (told["verdict"], told["model"]) == ("passed", "m")
    assert told["usage"] == {"prompt_tokens": 300, "completion_tokens": 20}
    assert "6 rows that train" in finished.out
    assert server.asked[0]["max_tokens"] == LabelSettings().max_new_tokens
    assert "temperature" not in server.asked[0]


def test_nothing_is_asked_twice(label: Callable[..., Finished], server: Server, out: Path):
    label()
    before = out.read_bytes()
    again = label()
    assert again.code == 0
    assert len(server.asked) == 6
    assert out.read_bytes() == before
    label("--model", "another")
    assert len(server.asked) == 12, "another model is another question"


def test_chats_of_the_same_words_are_asked_for_once(tomtat: Callable[..., Finished], server: Server, tmp_path: Path):
    path = write_jsonl(tmp_path / "same.jsonl", [{"id": n, "messages": chat(n % 2)} for n in range(6)])
    assert tomtat("label", path, "--upstream", server.url).code == 0
    assert len(server.asked) == 2
    assert server.asked[0]["model"] == "only", "the one that the server has"
    assert [row["id"] for row in rows_of(tmp_path / "same.labelled.jsonl")] == list(range(6))


@pytest.mark.parametrize(
    ("text", "how", "reason", "told"),
    [
        ("", {}, "empty", "it is empty"),
        ("My kettle came broken.", {"finish_reason": "length"}, "cut at the limit", "too long and was cut"),
        ("My kettle came broken, said Brandon.", {}, "name from nowhere: Brandon", "does not say Brandon"),
        ("My kettle came broken 17 times.", {}, "number from nowhere: 17", "does not say 17"),
        ("Ấm nước của tôi bị vỡ khi được giao đến, tôi muốn đổi một cái mới.", {}, "in vi, not en", "another language"),
        ("A new one, please. A new one, please. A new one, please.", {}, "repeats itself", "repeats itself"),
        ("kettle " + " ".join(message["content"] for message in chat(0)) * 2, {}, "not shorter", "not shorter"),
        ("Internal failure of the backend worker.", {}, "hardly a word of it was said", "hardly a word"),
        (None, {"finish_reason": "content_filter"}, "the model declined", "is wanted"),
    ],
)
def test_a_refused_draft_is_asked_for_once_more_with_the_reason(
    label: Callable[..., Finished],
    server: Server,
    chats: Path,
    out: Path,
    text: str | None,
    how: Body,
    reason: str,
    told: str,
):
    write_jsonl(chats, [{"id": 1, "messages": chat(0)}])
    server.says = answers_once_refused(text, **how)  # type: ignore[arg-type]
    label()
    first, second = server.asked
    assert second["messages"][:1] == first["messages"]
    assert second["messages"][1] == {"role": "assistant", "content": text or "..."}
    assert told in second["messages"][2]["content"]
    [draft] = load(out)
    assert any(reason in one for one in draft.attempts[0].reasons)
    assert draft.status == "passed"
    assert len(draft.attempts) == 2
    assert rows_of(out)[0]["draft"]["usage"]["prompt_tokens"] == 600, "both are paid"

    server.says = lambda body, _: Reply(text, **how)
    label("--model", "stubborn")
    refused = next(draft for draft in load_all(out) if draft.model == "stubborn")
    assert refused.is_waiting
    assert any(reason in one for one in refused.reasons)
    asked = len(server.asked)
    label("--model", "stubborn")
    assert len(server.asked) == asked, "twice refused is for people"


def load_all(out: Path) -> list[Any]:
    from tomtat.labelling.drafts import drafts_of
    from tomtat.labelling.journal import journal_path

    return list(drafts_of(read_events(journal_path(out))).values())


def test_drafts_to_review_do_not_train(label: Callable[..., Finished], server: Server, out: Path):
    server.says = lambda body, _: Reply(good(body) + (" Brandon was there." if "1003" in chat_of(body) else ""))
    finished = label()
    assert "1 drafts wait" in finished.out
    assert [row["id"] for row in rows_of(out)] == ["chat-0", "chat-1", "chat-2", "chat-4", "chat-5"]
    [waiting] = [draft for draft in load(out) if draft.is_waiting]
    assert [detail.text for detail in waiting.marks()] == ["Brandon"]


def test_thoughts_are_no_part_of_a_summary(label: Callable[..., Finished], server: Server, out: Path):
    server.says = lambda body, _: Reply(f"<think>\nA kettle, hm.\n</think>\n\n{good(body)}")
    label()
    assert {row["summary"] for row in rows_of(out)} == {chat(n)[0]["content"] for n in range(6)}


# -- servers that err


def test_a_busy_server_is_asked_again_when_it_says_so(label: Callable[..., Finished], server: Server, out: Path):
    busy = {
        0: Reply("slow down", 429, {"retry-after": "1"}), 2: Reply("oh", 500), 3: Reply(raw=b'{"choices": ['),
        4: Reply(raw=b"<html>"), 6: Reply(raw=b'{"choices": [{"message": {"content": "\\ud800"}}]}'),
        8: Reply("slow down", 429, {"retry-after-ms": "700"}),
    }  # fmt: skip
    server.says = lambda body, number: busy.get(number, Reply(good(body)))
    finished = label()
    assert finished.code == 0, finished.err
    assert len(rows_of(out)) == 6
    assert len(server.asked) == 6 + len(busy)
    assert server.when[1] - server.when[0] >= 1
    assert server.when[9] - server.when[8] >= 0.7
    assert "3 requests brought no answer and may be charged" in finished.out


def test_a_wait_that_is_asked_of_one_is_kept_by_all(label: Callable[..., Finished], server: Server):
    server.says = lambda body, number: Reply("slow", 429, {"retry-after": "1"}) if number == 0 else Reply(good(body), pause=0.05)  # fmt: skip
    label("-j", 4)
    late = [when - server.when[0] for when in server.when[4:]]
    assert late
    assert min(late) >= 0.9


def test_retry_after_is_read_in_all_its_forms():
    in_a_minute = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    assert 55 < (retry_after({"retry-after": in_a_minute}) or 0) <= 60
    for nonsense in ({}, {"retry-after": "soon"}, {"retry-after": "-1"}, {"retry-after-ms": "x"}):
        assert retry_after(nonsense) is None


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply("Incorrect API key provided: sk-secret", 401), "--key-env"),
        (Reply("The model does not exist", 404), "--model"),
        (Reply("You exceeded your quota", 429, {"code": "insufficient_quota"}), "quota is used up"),
        (Reply("come back", 429, {"retry-after": "86400"}), "86,400 seconds"),
        (Reply("elsewhere", 307, {"location": "http://127.0.0.1:1/"}), "307"),
    ],
)
def test_what_no_chat_would_change_ends_the_work_and_keeps_it(
    label: Callable[..., Finished], server: Server, out: Path, monkeypatch: pytest.MonkeyPatch, reply: Reply, told: str
):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    server.says = lambda body, number: Reply(good(body)) if number < 2 else reply
    finished = label("--key-env", "MY_KEY")
    assert finished.code == 2
    assert told in finished.err
    assert "sk-secret" not in finished.err + finished.out
    assert server.keys[0] == "Bearer sk-secret"
    assert len(server.asked) == 3
    assert len(rows_of(out)) == 2
    assert "sk-secret" not in Path(f"{out}.drafts.jsonl").read_text()
    server.says = lambda body, _: Reply(good(body))
    assert label("--key-env", "MY_KEY").code == 0
    assert len(server.asked) == 3 + 4


def test_a_chat_that_the_server_never_takes_fails_alone(label: Callable[..., Finished], server: Server, out: Path):
    server.says = lambda body, _: Reply("too long", 400) if "1002" in chat_of(body) else Reply(good(body))
    finished = label()
    assert finished.code == 2
    assert "chat-2: 400: too long" in finished.err
    assert len(server.asked) == 6
    assert len(rows_of(out)) == 5


def test_a_server_that_fails_chat_after_chat_is_left_alone(label: Callable[..., Finished], server: Server):
    server.says = lambda body, _: Reply("no", 422)
    finished = label()
    assert finished.code == 2
    assert "5 chats in a row came to nothing" in finished.err
    assert len(server.asked) == 5


def test_newer_models_that_know_no_max_tokens_are_asked_in_their_words(label: Callable[..., Finished], server: Server):
    why = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.says = lambda body, _: Reply(why, 400) if "max_tokens" in body else Reply(good(body))
    assert label().code == 0
    assert len(server.asked) == 7
    assert server.asked[-1]["max_completion_tokens"] == LabelSettings().max_new_tokens


def test_a_server_that_stalls_is_given_up_and_asked_again(label: Callable[..., Finished], server: Server, out: Path):
    server.says = lambda body, number: Reply(good(body), pause=5 if number == 1 else 0)
    finished = label("--timeout", 0.5)
    assert finished.code == 0, finished.err
    assert len(server.asked) == 7
    assert "1 requests brought no answer" in finished.out
    lost = [event for event in read_events(Path(f"{out}.drafts.jsonl")) if event["event"] == "lost"]
    assert lost[0]["usage"]["prompt_tokens"] > 100


def test_what_may_be_charged_for_nothing_is_not_tried_often(label: Callable[..., Finished], server: Server):
    server.says = lambda body, _: Reply(raw=b"<html>") if "1000" in chat_of(body) else Reply(good(body))
    finished = label()
    assert finished.code == 2
    assert "no JSON object (after 3 tries)" in finished.err
    assert len(server.asked) == 3 + 5


def test_nobody_there_is_told_at_once(tomtat: Callable[..., Finished], chats: Path):
    finished = tomtat("label", chats, "--upstream", "http://127.0.0.1:9/v1", "--model", "m")
    assert finished.code == 2
    assert "can't be reached" in finished.err


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_server_sends_is_an_answer_or_an_error_of_ours(seed: int):
    rng = random.Random(seed)
    scripts = {f"{number}": make(rng, Wants(is_stream=False)) for number, make in enumerate(KINDS * 4)}
    few = asyncio.Semaphore(8)

    async def ask(upstream: Upstream, name: str) -> Answer | Exception:
        async with few:
            try:
                return await upstream.ask(name, [{"role": "user", "content": "x"}])
            except (ModelError, AskAgain, RefusedChat) as error:
                return error

    async def all_of(url: str) -> list[Any]:
        async with Upstream(url, LabelSettings(timeout=1.5)) as upstream:
            return await asyncio.gather(*(ask(upstream, name) for name in scripts))

    with hostile(scripts) as upstream:
        found = dict(zip(scripts, asyncio.run(all_of(f"http://127.0.0.1:{upstream.port}/v1")), strict=True))
    for name, script in scripts.items():
        got = found[name]
        if script.kind in ("good", "drip"):
            said = json.loads(script.body)["choices"][0]["message"]["content"]
            assert isinstance(got, Answer), (script.kind, got)
            assert got.text == said
            assert (got.prompt_tokens, got.new_tokens) == (5, 5)
        elif script.status is None:
            assert isinstance(got, AskAgain), (script.kind, got)
        if isinstance(got, Answer):
            got.text.encode()
            assert all(count is None or count >= 0 for count in (got.prompt_tokens, got.new_tokens))


# -- limits and money


def test_the_cost_is_told_before_and_after(label: Callable[..., Finished]):
    finished = label("--price-in", 10, "--price-out", 100)
    before, after = finished.out.split("drafts", 1)
    assert "6 to ask m for" in before
    assert "At most" in before
    assert "1,800      120" in after
    assert "0.0300" in after, "6 x (300 x 10 + 20 x 100) / 1e6"


def test_a_budget_stops_between_two_questions(label: Callable[..., Finished], server: Server, out: Path):
    # An answer's 20 tokens cost 0.02; on its way it may have all 512.
    finished = label("--price-in", 0, "--price-out", 1000, "--max-cost", 0.56)
    assert finished.code == 0
    assert "The budget is used up: 3 chats are left" in finished.out
    assert len(server.asked) == 3
    assert len(rows_of(out)) == 3
    assert len(server.asked) == 3
    label("--price-in", 0, "--price-out", 1000, "--max-cost", 0.56)
    assert len(server.asked) == 3, "it is the file's budget, not the command's"
    label("--max-tokens", 3 * 320 + 800)
    assert 3 < len(server.asked) < 6
    label()
    assert len(server.asked) == 6


def test_reported_tokens_that_can_not_be_true_are_estimated(label: Callable[..., Finished], server: Server, out: Path):
    lies: list[Any] = [
        {"prompt_tokens": -5, "completion_tokens": 10}, {"prompt_tokens": "many"}, [], {},
        {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 1e300, "completion_tokens": True},
    ]  # fmt: skip
    server.says = lambda body, number: Reply(good(body), usage=lies[number])
    finished = label()
    assert "6 answers did not say what they cost" in finished.out
    for row in rows_of(out):
        assert 100 < row["draft"]["usage"]["prompt_tokens"] < 400
        assert 5 < row["draft"]["usage"]["completion_tokens"] < 60
    assert believed(10_000, 100) == (10_000, False), "what will be charged is believed"


def test_what_is_on_its_way_counts_as_the_most_it_may_cost():
    budget = Budget(Spent(100, 0), Prices(1e6, 1e6), max_cost=400, max_tokens=None)
    assert budget.take(Spent(100, 100))
    assert not budget.take(Spent(100, 100))
    budget.settle(Spent(100, 100), Spent(100, 10))
    assert not budget.is_waiting
    assert budget.take(Spent(100, 90))


def test_requests_keep_their_pace_and_their_number(label: Callable[..., Finished], server: Server):
    server.says = lambda body, _: Reply(good(body), pause=0.2)
    label("-j", 3)
    assert server.most_together == 3
    label("--model", "slow", "-j", 6, "--per-minute", 300)
    assert server.when[-1] - server.when[6] > 0.7, "five gaps of 0.2 seconds, though all might go at once"


def test_settings_that_make_no_sense_are_refused_before_anything_is_asked(
    label: Callable[..., Finished], server: Server, tmp_path: Path, out: Path
):
    template = tmp_path / "prompt.txt"
    template.write_text("Summarize it.")
    for more, told in (
        (("--max-cost", 1), "--price-in and --price-out"),
        (("--price-in", 1), "belong together"),
        (("--prompt", template), "{text} exactly once"),
        (("--key-env", "NOT_SET_ANYWHERE"), "not set"),
        (("-j", 0), "concurrency"),
    ):
        finished = label(*more)
        assert finished.code == 2
        assert told in finished.err
    out.write_text("my notes\n")
    finished = label()
    assert finished.code == 2
    assert "something else" in finished.err
    assert out.read_text() == "my notes\n"
    assert server.asked == []


# -- killed, stopped, full


@contextmanager
def started(server: Server, chats: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tomtat.cli", "label", str(chats), "--upstream", server.url, "--model", "m", *more]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def drafts_in(out: Path) -> int:
    path = Path(f"{out}.drafts.jsonl")
    return sum(event["event"] == "draft" for event in read_events(path)) if path.exists() else 0


def test_after_a_kill_the_same_command_asks_only_for_what_is_missing(
    label: Callable[..., Finished], server: Server, chats: Path, out: Path
):
    server.says = lambda body, number: Reply(good(body), pause=0.0 if number < 3 else 60)
    with started(server, chats, "-j", "1") as process:
        wait_until(lambda: len(server.asked) == 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert drafts_in(out) == 3
    server.says = lambda body, _: Reply(good(body))
    finished = label()
    assert finished.code == 0, finished.err
    assert len(server.asked) == 4 + 3, "the one that was on its way is the only one that came twice"
    assert server.chats()[3] == server.chats()[4]
    assert len(rows_of(out)) == 6


def test_ctrl_c_waits_for_answers_on_their_way(label: Callable[..., Finished], server: Server, chats: Path, out: Path):
    server.says = lambda body, number: Reply(good(body), pause=1.0)
    with started(server, chats, "-j", "2") as process:
        wait_until(lambda: len(server.asked) == 2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Repeat the command to go on" in told
    assert drafts_in(out) == len(rows_of(out)) == 2
    server.says = lambda body, _: Reply(good(body))
    label()
    assert len(server.asked) == 6


def test_a_second_ctrl_c_gives_them_up(server: Server, chats: Path, out: Path):
    server.says = lambda body, number: Reply(good(body), pause=60)
    with started(server, chats, "-j", "2") as process:
        wait_until(lambda: len(server.asked) == 2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    lost = [event for event in read_events(Path(f"{out}.drafts.jsonl")) if event["event"] == "lost"]
    assert len(lost) == 2, "they may be charged, so they count"


@pytest.mark.parametrize("torn", [b'{"event": "draft", "key": "12', b"\0\0\0\0", b'{"event": "dra\n', "ấ".encode()[:1]])
def test_a_torn_line_is_dropped_and_what_stands_before_it_is_kept(
    label: Callable[..., Finished], server: Server, out: Path, torn: bytes
):
    label()
    journal = Path(f"{out}.drafts.jsonl")
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    assert len(load(out)) == 6
    accept(out, load(out)[0].key)
    assert journal.read_bytes().startswith(whole + b'{"event": "decision"')
    journal.write_bytes(whole.removesuffix(b"\n"))
    reject(out, load(out)[0].key)
    assert [event["event"] for event in read_events(journal)][-2:] == ["draft", "decision"]


def test_damage_among_good_lines_is_told_and_nothing_is_dropped(
    label: Callable[..., Finished], server: Server, out: Path
):
    label()
    journal = Path(f"{out}.drafts.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], b"garbage\n", *lines[3:]])
    journal.write_bytes(damaged)
    finished = label()
    assert finished.code == 2
    assert "line 4" in finished.err
    assert journal.read_bytes() == damaged
    assert len(server.asked) == 6


def test_two_processes_on_one_file_are_refused(label: Callable[..., Finished], server: Server, out: Path):
    label()
    with open_journal(Path(f"{out}.drafts.jsonl")):
        finished = label("--model", "another")
        assert finished.code == 2
        assert "Another process is writing" in finished.err
        with pytest.raises(RunError, match="Another process"):
            accept(out, load(out)[0].key)
    assert len(server.asked) == 6


def test_on_a_disk_that_becomes_full_all_answers_on_their_way_are_kept(
    label: Callable[..., Finished], server: Server, chats: Path, tmp_path: Path
):
    """A real small file system, where one may be mounted: it is full when the fourth question comes."""
    longer = {"role": "assistant", "content": "Which address is it? " * 500}  # more than the block that is there
    write_jsonl(chats, [{"id": n, "messages": [*chat(n), longer]} for n in range(6)])
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("needs to mount a file system")
    here = disk / "out.jsonl"

    def fill(body: Body, number: int) -> Reply:
        if number == 3:
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while file.write(os.urandom(4096)):
                    pass
        return Reply(good(body), pause=0.3)

    server.says = fill
    try:
        finished = label("-o", here, "-j", 4)
        assert finished.code == 2
        assert "Make room" in finished.err
        assert drafts_in(here) == len(server.asked) == 4
        (disk / "filler").unlink()
        finished = label("-o", here, "-j", 4)
        assert finished.code == 0, finished.err
        assert len(server.asked) == 6
        assert len(rows_of(here)) == 6
        assert {path.name for path in disk.iterdir()} == {"out.jsonl", "out.jsonl.drafts.jsonl"}
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_a_full_disk_takes_not_at_all_goes_to_another(
    label: Callable[..., Finished], server: Server, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    label("--max-tokens", 1500)
    before, asked = drafts_in(out), len(server.asked)
    journal = Path(f"{out}.drafts.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = max(journal.stat().st_size, 2 * ROOM_BYTES) + 100  # the room fits, and the file is padded up to that
    with journal.open("ab") as file:
        file.write(b" " * (limit - 100 - journal.stat().st_size) + b"\n")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit + 200, hard))
    try:
        finished = label()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert finished.code == 2
    [saved] = (tmp_path / "elsewhere").glob("tomtat-*.drafts.jsonl")
    assert str(saved) in finished.err
    assert len(server.asked) == asked + 1
    with journal.open("ab") as file:
        file.write(saved.read_bytes())
    assert drafts_in(out) == before + 1
    assert label().code == 0
    assert len(server.asked) == 6, "appended as told, it is not asked for again"


def test_other_chats_under_the_same_ids_are_told_apart(
    label: Callable[..., Finished],
    tomtat: Callable[..., Finished],
    server: Server,
    chats: Path,
    out: Path,
    tmp_path: Path,
):
    label()
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "chat-0", "messages": chat(77)}])
    finished = tomtat("label", other, "--upstream", server.url, "--model", "m", "-o", out)
    assert finished.code == 2
    assert "another chat" in finished.err
    rows = [{"id": f"chat-{n}", "messages": chat(n if n else 88)} for n in range(6)]
    write_jsonl(chats, rows[::-1])
    assert label().code == 0
    assert len(server.asked) == 7
    assert [row["id"] for row in rows_of(out)] == [f"chat-{n}" for n in range(5, -1, -1)]
    assert "1088" in rows_of(out)[-1]["summary"], "the new text's, though the old one had a draft"


def test_rows_with_summaries_are_left_out(tomtat: Callable[..., Finished], server: Server, tmp_path: Path):
    path = write_jsonl(tmp_path / "some.jsonl", [{"messages": chat(0), "summary": "Done."}, {"messages": chat(1)}])
    tomtat("label", path, "--upstream", server.url, "--model", "m")
    assert len(server.asked) == 1
    tomtat("label", path, "--upstream", server.url, "--model", "m", "--all-rows")
    assert len(server.asked) == 2


# -- review


@pytest.fixture
def reviewable(label: Callable[..., Finished], server: Server, out: Path) -> Path:
    """Six drafts, all with an invented name."""
    server.says = lambda body, _: Reply(f"=Brandon says: {good(body)}")
    label()
    assert len([draft for draft in load(out) if draft.is_waiting]) == 6
    return out


def test_drafts_are_reviewed_as_values(reviewable: Path):
    first, second, third, *_ = load(reviewable)
    assert accept(reviewable, first.key).status == "accepted"
    assert correct(reviewable, second.key, "  A kettle came broken. ").summary == "A kettle came broken."
    assert reject(reviewable, third.key).status == "rejected"
    assert [draft.status for draft in load(reviewable)] == ["accepted", "corrected", "rejected", *["review"] * 3]
    assert publish(reviewable) == 2
    assert [row["summary"] for row in rows_of(reviewable)] == [first.text, "A kettle came broken."]
    assert rows_of(reviewable)[1]["draft"]["text"] == second.text
    assert accept(reviewable, third.key).trains, "one may think again"
    with pytest.raises(DataError, match="empty"):
        correct(reviewable, third.key, " \n")
    with pytest.raises(DataError, match="no draft"):
        accept(reviewable, "no such key")


def test_decisions_come_from_several_threads_one_after_another(reviewable: Path):
    def decide(key: str) -> None:
        while True:
            try:
                accept(reviewable, key)
                return
            except RunError:
                time.sleep(0.01)

    threads = [threading.Thread(target=decide, args=(draft.key,)) for draft in load(reviewable)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {draft.status for draft in load(reviewable)} == {"accepted"}


def test_the_terminal_review_goes_on_where_it_was(
    reviewable: Path, tomtat: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n"
        "assert 'not in the morning' in text\npath.write_text(text.replace('=Brandon', 'The customer'))\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    monkeypatch.delenv("VISUAL", raising=False)
    typed(monkeypatch, "a\nwhat\ns\ne\n")
    seen = tomtat("label", "review", reviewable)
    assert seen.code == 0
    assert "[Brandon?]" in seen.out
    assert [draft.status for draft in load(reviewable)] == [
        "accepted",
        "review",
        "corrected",
        "review",
        "review",
        "review",
    ]
    assert load(reviewable)[2].summary == "The customer says: " + chat(2)[0]["content"]
    assert len(rows_of(reviewable)) == 2, "the end of input is the end of the review, and all is kept"
    typed(monkeypatch, "r\nr\nr\nr\n")
    assert "1 of 4: chat-1" in tomtat("label", "review", reviewable).out
    assert "No draft waits" in tomtat("label", "review", reviewable).out


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.parametrize("name", ["review.csv", "review.tsv", "review.jsonl"])
def test_a_sheet_is_edited_and_read_back(reviewable: Path, tomtat: Callable[..., Finished], tmp_path: Path, name: str):
    sheet = tmp_path / name
    assert tomtat("label", "review", reviewable, "--sheet", sheet).code == 0
    assert tomtat("label", "review", reviewable, "--sheet", sheet).code == 2, "it may hold decisions"
    rows = read_sheet(sheet)
    texts = [draft.text for draft in load(reviewable)]
    assert [row["summary"].lstrip("'") for row in rows] == texts
    if name != "review.jsonl":
        assert all(row["summary"].startswith("'=") for row in rows), "no formula"
    rows[0]["decision"] = "Accept"
    rows[1]["decision"] = "reject"
    rows[2]["summary"] = "Ấm nước bị vỡ, khách muốn đổi."
    write_sheet(sheet, rows)
    finished = tomtat("label", "apply", reviewable, sheet)
    assert finished.code == 0, finished.err
    assert "1 accepted, 1 corrected, 1 rejected, 3 left" in finished.out
    assert [row["summary"] for row in rows_of(reviewable)] == [texts[0], "Ấm nước bị vỡ, khách muốn đổi."]
    assert "0 accepted, 0 corrected, 0 rejected, 6 left" in tomtat("label", "apply", reviewable, sheet).out


def read_sheet(path: Path) -> list[Body]:
    if path.suffix == ".jsonl":
        return rows_of(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def write_sheet(path: Path, rows: list[Body]) -> None:
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
        return
    # As a German spreadsheet writes it.
    with path.open("w", encoding="utf-16" if path.suffix == ".tsv" else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ";")
        writer.writeheader()
        writer.writerows(rows)


def test_a_sheet_with_a_bad_row_is_taken_not_at_all(reviewable: Path, tomtat: Callable[..., Finished], tmp_path: Path):
    sheet = tmp_path / "review.csv"
    tomtat("label", "review", reviewable, "--sheet", sheet)
    rows = read_sheet(sheet)
    rows[0]["decision"] = "accept"
    for change, told in (({"decision": "perhaps"}, "no decision"), ({"key": "x"}, "no draft with the key"), ({"decision": "ok", "summary": ""}, "empty")):  # fmt: skip
        write_sheet(sheet, [rows[0], rows[1] | change, *rows[2:]])
        finished = tomtat("label", "apply", reviewable, sheet)
        assert finished.code == 2
        assert told in finished.err
        assert all(draft.is_waiting for draft in load(reviewable))
    sheet.write_bytes(b"\xff\xd8 a picture")
    assert tomtat("label", "apply", reviewable, sheet).code == 2


def test_what_somebody_changed_in_the_output_is_taken_as_a_correction(
    label: Callable[..., Finished], server: Server, out: Path
):
    label()
    rows = rows_of(out)
    rows[1]["summary"] = "A kettle came broken; a new one is sent."
    write_jsonl(out, rows)
    label()
    assert rows_of(out)[1]["summary"] == "A kettle came broken; a new one is sent."
    assert load(out)[1].status == "corrected"
    assert len(server.asked) == 6


def test_nothing_that_a_draft_says_moves_the_terminal(
    label: Callable[..., Finished],
    server: Server,
    out: Path,
    tomtat: Callable[..., Finished],
    monkeypatch: pytest.MonkeyPatch,
):
    server.says = lambda body, _: Reply("\x1b[2J\x1b]0;owned\x07[bold]Brandon[/bold] :key: " + good(body))
    finished = label()
    typed(monkeypatch, "q\n")
    seen = tomtat("label", "review", out)
    assert "\x1b[2J" not in seen.out + finished.out + finished.err
    assert "[bold]" in seen.out
