"""The examples: released clients, unmodified, against the real server in another process.

What the upstream got is looked at too: a client would not notice if the memory did nothing.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server_process import END_SECONDS, serving
from upstream_fake import Asked, FakeUpstream, running

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
CLIENTS = ROOT / ".venv/clients/bin/python"
IN_CLIENTS = ("langchain", "langgraph", "llamaindex")
"""What their files begin with that run there."""
SECONDS = 120
"""Of an example; LangChain alone takes ten to import on a busy machine."""
QUESTION = "Which order came cracked, again?"
FACT = "my order LM-48213 with the blue kettle came cracked on Tuesday"
LAMPS = "in the catalogue in stock"
WHOLE_TURNS = 64


class Busy:
    """An upstream that refuses so many requests at first."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.still, self.refused = 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self.still:
            self.still -= 1
            self.refused += 1
            headers = [(b"content-type", b"application/json"), (b"retry-after-ms", b"20")]
            body = b'{"error": {"message": "Slow down.", "type": "rate_limit_error", "param": null, "code": "busy"}}'
            await send({"type": "http.response.start", "status": 429, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self.upstream(scope, receive, send)


@dataclass
class Ran:
    """What an example printed, by the words before the colon, and what the upstream was asked meanwhile."""

    printed: str
    lines: dict[str, list[str]]
    asked: list[Asked]

    def __getitem__(self, label: str) -> str:
        [value] = self.lines[label]
        return value

    @property
    def sent(self) -> list[str]:
        """The texts of each request's messages or items, as they reached the upstream."""
        return [json.dumps(one.body.get("messages", one.body.get("input")), ensure_ascii=False) for one in self.asked]


@dataclass
class Served:
    url: str
    busy: Busy

    def run(self, command: Sequence[str | Path], folder: Path, url: str | None = None) -> Ran:
        before = len(self.busy.upstream.asked)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TOMTAT_"))},
            "TOMTAT_URL": url or self.url, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = defaultdict(list)
        for line in done.stdout.splitlines():
            label, _, value = line.partition(": ")
            lines[label].append(value)
        # Which models there are is asked for the server's own list, once a minute.
        asked = [one for one in self.busy.upstream.asked[before:] if one.path != "/v1/models"]
        return Ran(done.stdout, lines, asked)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    busy = Busy(FakeUpstream())
    store = tmp_path_factory.mktemp("served") / "store.db"
    with running(busy) as upstream, serving("--upstream", f"{upstream}/v1", "--store", store, "--budget", "400") as url:
        yield Served(url, busy)


@pytest.fixture
def run(served: Served, tmp_path: Path) -> Callable[[str], Ran]:
    """Run an example in an empty folder."""

    def run_example(name: str) -> Ran:
        if name.endswith(".sh"):
            return served.run(["sh", EXAMPLES / name], tmp_path)
        return served.run([_python(name), EXAMPLES / name], tmp_path)

    return run_example


def _python(name: str) -> str | Path:
    if not name.startswith(IN_CLIENTS):
        return sys.executable
    _need_clients()
    return CLIENTS


def _need_clients() -> None:
    if not CLIENTS.exists():
        pytest.skip("LangChain, LangGraph and LlamaIndex are not there: `make .venv/clients/installed` gets them")


def assert_folded(sent: str) -> None:
    """Of a chat with 64 turns: the one that the question asks about is there, most others are not."""
    assert FACT in sent
    assert QUESTION in sent
    assert sent.count("of the catalogue in stock") < 10


def assert_saved(line: str) -> None:
    """`123 of 456`."""
    sent, whole = map(int, line.split(" of "))
    assert 0 < sent <= 400 < whole


# -- openai-python


@pytest.mark.slow
def test_openai_chat(run: Callable[[str], Ran]):
    ran = run("openai_chat.py")
    assert ran["answer"] == ran["whole"] == f"You said: {QUESTION}"
    assert ran["memory"] == "folded"
    assert_saved(ran["tokens sent"])
    first, second, third = ran.sent
    assert_folded(first)
    assert_folded(second)
    assert "".join(ran.lines["delta"]) == ran["stream"] == "You said: And what colour was its kettle?"
    assert FACT in third  # which this request did not bring


@pytest.mark.slow
def test_openai_async_streams_and_errors(run: Callable[[str], Ran], served: Served):
    served.busy.still, served.busy.refused = 2, 0
    ran = run("openai_async.py")
    assert ran.lines["stream"] == [f"You said: What did I order? - {name}" for name in ("ann", "bob", "cem")]
    assert served.busy.refused == 2  # and asked again
    assert len(ran.asked) == 3
    assert all(FACT in sent for sent in ran.sent)
    assert len(ran.lines["usage"]) == 3
    assert ran["refused"].startswith("invalid_header - ")
    assert "X-Memory-Budget" in ran["refused"]
    assert ran["missing"].startswith("conversation_not_found - ")


@pytest.mark.slow
def test_openai_summaries(run: Callable[[str], Ran]):
    ran = run("openai_summaries.py")
    assert ran["models"] == "chats"
    assert "order LM-48213" in ran["chat"]
    assert "Friday at 14:30" in ran["response"]
    assert ran["batch"] == "['One text.', 'Another text.']"
    assert ran.asked == []  # it all stays here


@pytest.mark.slow
def test_openai_responses_and_conversations(run: Callable[[str], Ran]):
    ran = run("openai_responses.py")
    assert ran["answer"] == f"You said: {QUESTION}"
    assert_saved(ran["tokens sent"])
    assert_folded(ran.sent[0])
    assert "conversation" not in ran.asked[0].body  # which only this server knows
    assert "".join(ran.lines["delta"]) == ran["stream"] == "You said: And what colour was it?"
    assert ran["newest item"] == "message assistant You said: And what colour was it?"
    assert "order" in ran["found"]


# -- LangChain and LangGraph


@pytest.mark.slow
def test_langchain_chat(run: Callable[[str], Ran]):
    ran = run("langchain_chat.py")
    assert ran["answer"] == ran["stream"] == f"You said: {QUESTION}"
    assert ran["memory"] == "folded"
    assert_saved(ran["tokens sent"])
    for sent in ran.sent:
        assert_folded(sent)


@pytest.mark.slow
def test_langchains_summarization_by_our_model(run: Callable[[str], Ran]):
    ran = run("langchain_summarization.py")
    assert ran["messages left"] == "6"
    assert "order LM-48213" in ran.printed.partition("answer: ")[0]
    assert ran["answer"] == f"You said: {QUESTION}"
    [sent] = ran.sent
    assert "Here is a summary of the conversation" in sent


@pytest.mark.slow
def test_langchains_agent_with_the_memory_inside(run: Callable[[str], Ran]):
    ran = run("langchain_memory.py")
    assert ran["messages in the state"] == str(WHOLE_TURNS)
    assert ran["turns kept"] == str(WHOLE_TURNS - 1)
    assert ran["answer"] == f"You said: {QUESTION}"
    assert_folded(ran.sent[0])


@pytest.mark.slow
def test_langgraph_agent_with_a_tool(run: Callable[[str], Ran]):
    ran = run("langgraph_agent.py")
    assert ran["tool said"] == "it is on its way back to us."
    assert ran["answer"] == "You said: it is on its way back to us."
    assert ran["messages in the state"] == "69"
    chat, called, _ = ran.sent
    assert_folded(chat)
    assert FACT in called
    assert ran.asked[-1].messages[-1]["role"] == "tool"
    assert ran.asked[-1].messages[-2]["tool_calls"]


# -- OpenAI Agents SDK


@pytest.mark.slow
def test_agents_session(run: Callable[[str], Ran]):
    ran = run("agents_session.py")
    assert ran["answer"] == "You said: it is on its way back to us."
    assert ran.lines["item"] == [
        "message user", "message assistant", "message user", "reasoning ", "function_call ", "function_call_output ",
        "message assistant",
    ]  # fmt: skip
    assert ran["found"] == "My order LM-48213 came cracked."


@pytest.mark.slow
def test_agents_own_compaction(run: Callable[[str], Ran]):
    ran = run("agents_compaction.py")
    assert ran["items before"] == ran["turns kept"] == "62"
    assert int(ran["items after"]) < 20
    assert ran["kinds"] == "['compaction', 'message']"
    assert ran["answer"] == f"You said: {QUESTION}"
    assert_folded(ran.sent[-1])  # its original is back, though the session has only the compaction item


@pytest.mark.slow
def test_agents_own_remote_session(run: Callable[[str], Ran]):
    ran = run("agents_remote.py")
    assert ran["answer"] == f"You said: {QUESTION}"
    assert ran["items"] == "64"
    assert ran["taken back"] == f"You said: {QUESTION}"
    assert_folded(ran.sent[0])
    assert int(ran["what a model is sent"].split()[0]) <= 400


# -- LlamaIndex


@pytest.mark.slow
def test_llamaindex_chat(run: Callable[[str], Ran]):
    ran = run("llamaindex_chat.py")
    assert ran["answer"] == f"You said: {QUESTION}"
    assert ran["stream"] == "You said: And what colour was it?"
    assert_folded(ran.sent[0])


# -- curl, and the command itself


def assert_curls_answers(printed: str, model: str) -> None:
    parts = dict(zip(*[iter(re.split(r"^([\w ]+):$", printed, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert model in [one["id"] for one in json.loads(parts["models"])["data"]]
    assert json.loads(parts["summary"])["data"][0]["summary"]
    assert json.loads(parts["turns kept"])["turns"] == 1
    head, _, body = parts["chat"].strip().partition("\n\n")
    assert "x-memory: whole" in head
    answer = json.loads(body)["choices"][0]["message"]["content"]
    assert answer == "You said: Which order was it?"
    events = re.findall(r"^data: (.*)$", parts["stream"], flags=re.MULTILINE)
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(deltas) == "You said: Sure?"
    assert json.loads(parts["found"])["data"][0]["message"]["content"] == "My order LM-48213 came cracked."
    assert json.loads(parts["erased"])["turns"] == 5


@pytest.mark.slow
def test_curl(run: Callable[[str], Ran]):
    ran = run("curl.sh")
    assert_curls_answers(ran.printed.replace("\r\n", "\n"), "chats")
    assert "My order LM-48213 came cracked." in ran.sent[0]


@pytest.mark.slow
def test_the_command_serves_them_with_a_model_of_its_own(served: Served, tiny_t5: Path, tmp_path: Path):
    """`tomtat serve`, as people type it; the model has random weights, so its words are none."""
    with running(FakeUpstream()) as upstream:
        command = [
            sys.executable, "-m", "tomtat.cli", "serve", f"chats={tiny_t5}", "--port", "0", "--budget", "400",
            "--store", tmp_path / "store.db", "--upstream", f"{upstream}/v1", "--log-level", "warning",
        ]  # fmt: skip
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            begun = re.match(r"Listening on (http\S+)", process.stdout.readline())
            assert begun
            url = f"{begun[1]}/v1"
            ran = served.run(["sh", EXAMPLES / "curl.sh"], tmp_path, url)
            assert_curls_answers(ran.printed.replace("\r\n", "\n"), "chats")
        finally:
            process.terminate()
            process.wait(END_SECONDS)
    assert process.returncode == 0


# -- what they need, and what the page says


@pytest.mark.slow
def test_integrations_beside_langchain_and_llamaindex():
    _need_clients()
    done = subprocess.run(
        [str(CLIENTS), "-m", "pytest", "-p", "no:cacheprovider", "-rs", "tests/test_integrations.py"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = re.findall(r"^SKIPPED.*?: (.*)$", done.stdout, flags=re.MULTILINE)
    assert all(reason.startswith("the OpenAI Agents SDK") for reason in skipped), done.stdout


def snippets() -> list[str]:
    page = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    return re.findall(r"```(?:python|sh)\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.split("\n")[0][:40])
def test_snippets_of_the_page_stand_in_the_examples(snippet: str):
    """Each paragraph of a snippet does, so that what people copy is what is run here."""
    examples = [textwrap.dedent(path.read_text(encoding="utf-8")) for path in EXAMPLES.iterdir() if path.is_file()]
    squeezed = [" ".join(text.split()) for text in examples]
    for paragraph in snippet.split("\n\n"):
        assert any(" ".join(paragraph.split()) in text for text in squeezed), paragraph


def test_every_example_is_run_here_and_told_of_on_the_page():
    page = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".sh") and path.name != "common.py":
            assert f'run("{path.name}")' in here
            assert f"examples/{path.name}" in page
