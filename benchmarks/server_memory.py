"""Tokens that reach the upstream through the server, and whether what is asked about is among them.

    python benchmarks/server_memory.py --beam data/beam/conversations.jsonl
    python benchmarks/server_memory.py --beam data/beam/conversations.jsonl --engine runs/chats --only 3

The first 200 turns of each BEAM chat are played with openai-python, unmodified, against the server in a process of its
own: at each of the user's turns the whole history so far is sent, every other time as a stream, with a budget of 1,000
tokens (`X-Memory-Budget`). The upstream is a fake that answers what the chat's assistant did. `share`: tokens that it
received over those of the whole histories, both counted as SmolLM2 counts.

Then the chat's probes for extraction and updates whose evidence lies in these turns are asked, each as turn 201: the
evidence turns that stand word for word in what the upstream received, counted by the function that
`benchmarks/memory.py` counts BEAM with. There the question is beside the history and here it is its newest message, so
it costs tokens. `library` is the same of `ChatMemory` in this process: the server should lose nothing of it. Nothing
was chosen on chats 3 to 5.

Spans are told by extracts, as in the other's first table, or with --engine by that run's model.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import memory
import openai
import tomli_w
import uvicorn
from fake_upstream import FakeUpstream
from memory import MANUAL
from memory_chats import Chat, Found, evidence_chats, find
from search_recall import read_beam
from serve_fake import command_of

from server_process import ServerProcess, free_port
from tomtat.memory import ChatMemory, HuggingFaceTokens, TokenCounter
from tomtat.memory.turns import user
from tomtat.models.embedded import embedded_model
from tomtat.store import open_store

TURNS, BUDGET, HELD_OUT_FROM = 200, 1000, 3
TARGET = 15
"""Percent, at most."""

Message = dict[str, Any]


def cut(chat: Chat) -> Chat:
    """The first turns, and the probes that these answer."""
    messages = chat.messages[:TURNS]
    there = {message["content"] for message in messages}
    return Chat(chat.name, messages, [probe for probe in chat.probes if there.issuperset(probe.wanted)])


class Heard:
    """An upstream that answers as the chat's assistant did, and keeps what it received last."""

    def __init__(self, chats: Sequence[Chat]) -> None:
        self.answers = {
            one["content"]: then
            for chat in chats
            for one, then in zip(chat.messages, chat.messages[1:], strict=False)
            if one["role"] == "user"
        }
        self.last: list[Message] = []

    def reply(self, body: dict[str, Any]) -> Message:
        self.last = body["messages"]
        return self.answers.get(self.last[-1]["content"], {"role": "assistant", "content": "I see."})


@contextmanager
def listening(heard: Heard) -> Iterator[str]:
    """In a thread of this process; its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(FakeUpstream(heard.reply), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(10)


class Play:
    """A chat through the server."""

    def __init__(self, client: openai.OpenAI, heard: Heard, chat: Chat, counter: TokenCounter) -> None:
        self.client, self.heard, self.chat, self.counter = client, heard, chat, counter
        self.headers = {"X-Conversation-Id": chat.name, "X-Memory-Budget": str(BUDGET)}
        self.sent = self.whole = self.requests = self.over_budget = 0
        self.outcomes: Counter[str] = Counter()

    def play(self) -> None:
        for place, message in enumerate(self.chat.messages[:-1]):
            if message["role"] != "user":
                continue
            history = self.chat.messages[: place + 1]
            answer = self.ask(history, stream=place % 4 == 0)
            wanted = self.chat.messages[place + 1]
            if wanted["role"] == "assistant" and answer != wanted["content"]:
                raise AssertionError(f"{self.chat.name}, turn {place + 2}: not what the upstream answered")
            sent = self.counter.total(self.heard.last)
            self.sent, self.whole = self.sent + sent, self.whole + self.counter.total(history)
            self.requests, self.over_budget = self.requests + 1, self.over_budget + (sent > BUDGET)

    def ask(self, messages: list[Any], stream: bool = False) -> str:
        create = self.client.chat.completions.with_raw_response.create
        got = create(model="fake", messages=messages, stream=stream, extra_headers=self.headers)
        self.outcomes[got.headers.get("x-memory", "none")] += 1
        if not stream:
            return got.parse().choices[0].message.content or ""
        return "".join(chunk.choices[0].delta.content or "" for chunk in got.parse() if chunk.choices)  # type: ignore[attr-defined]

    def contexts(self, budget: int, question: str) -> list[Message]:
        """What the upstream receives for a question, the question left out, for it can't be evidence; nothing where
        that takes more than the budget."""
        self.ask([*self.chat.messages, {"role": "user", "content": question}])
        return self.heard.last[:-1] if self.counter.total(self.heard.last) <= budget else []


def settings_of(folder: Path, port: int, upstream: str) -> Path:
    tokenizer = str(embedded_model())
    settings = {
        "port": port, "store": str(folder / "chats.db"),
        "upstreams": {"fake": {"url": upstream, "tokenizer": tokenizer}},
    }  # fmt: skip
    path = folder / "serve.toml"
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return path


def by_library(chat: Chat, folder: Path, counter: TokenCounter) -> Found:
    with open_store(memory.fold(chat, None, folder).place) as store, ChatMemory(None, store, MANUAL, counter) as kept:

        def contexts(budget: int, question: str) -> list[Message]:
            asked = [*chat.messages, user(question)]
            return kept.context("chat", budget, branch=kept.append("chat", asked, after=0, fork=True).branch)[:-1]

        return find(chat, contexts, BUDGET, counter)


def wait_until_folded(url: str, chat: Chat, quiet_seconds: float) -> int:
    """Until no fold was added for so long; how many turns only folds stand for then."""
    address = f"{url}/v1/conversations/{quote(chat.name, safe='')}/folds"
    last, since = 0, time.monotonic()
    while time.monotonic() - since < quiet_seconds:
        time.sleep(0.5)
        folds, more = [], True
        while more:
            page = httpx2.get(address, params={"limit": 100, "after": len(folds)}, timeout=60).raise_for_status().json()
            folds, more = [*folds, *page["data"]], page["has_more"]
        now = max((fold["last"] for fold in folds if fold["level"] == 0), default=0)
        if now > last:
            last, since = now, time.monotonic()
    return last


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    chats = [cut(chat) for chat in evidence_chats("beam", options.beam, read_beam)]
    chosen = [chats[number] for number in options.only or range(len(chats))]
    counter = HuggingFaceTokens.load(str(embedded_model()))
    heard, port = Heard(chosen), free_port()
    rows = []
    with listening(heard) as upstream:
        command = command_of(settings_of(folder, port, upstream), options.engine, folding="extract")
        with ServerProcess(command, port, "/readyz", folder / "server.log") as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
            for chat in chosen:
                play = Play(client, heard, chat, counter)
                play.play()
                folded = wait_until_folded(server.url, chat, 60 if options.engine else 3)
                found, alone = find(chat, play.contexts, BUDGET, counter), by_library(chat, folder, counter)
                rows.append({
                    "chat": chat.name, "requests": play.requests, "sent": play.sent, "whole": play.whole,
                    "over_budget": play.over_budget, "folded": folded, "probes": len(chat.probes),
                    "wanted": found.wanted, "found": found.found, "library": alone.found,
                    "outcomes": dict(play.outcomes),
                })  # fmt: skip
                print(row(rows[-1]), flush=True)
    return rows


HEAD = f"{'':12}{'requests':>9}{'tokens sent':>13}{'whole':>12}{'share':>8}{'over':>6}{'evidence':>10}{'library':>9}"


def row(of: dict[str, Any]) -> str:
    found, library = (f"{of[name]}/{of['wanted']}" for name in ("found", "library"))
    share = f"{100 * of['sent'] / of['whole']:.1f} %"
    return (
        f"{of['chat']:12}{of['requests']:9}{of['sent']:13,}{of['whole']:12,}{share:>8}{of['over_budget']:6}"
        f"{found:>10}{library:>9}"
    )


def total(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    counted = ("requests", "sent", "whole", "over_budget", "probes", "wanted", "found", "library")
    outcomes: Counter[str] = sum((Counter(one["outcomes"]) for one in rows), Counter())
    return {"chat": name, **{key: sum(one[key] for one in rows) for key in counted}, "outcomes": dict(outcomes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beam", type=Path, required=True)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="chats, from 0")
    parser.add_argument("--engine", metavar="RUN", help="a run whose model folds")
    options = parser.parse_args()
    if not options.beam.exists():
        memory.refuse(f"{options.beam} is not there")
    print(f"First {TURNS} turns of BEAM's chats, a budget of {BUDGET:,} tokens as SmolLM2 counts\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory(prefix="server-memory-") as folder:
        rows = measure(options, Path(folder))
    whole = total(rows, "all")
    print(row(whole))
    held_out = [one for one in rows if int(one["chat"].split()[1]) >= HELD_OUT_FROM]
    if held_out:
        print(row(total(held_out, "held out")))
    print(f"to reach: share at most {TARGET} %. X-Memory: {whole['outcomes']}")
    print(json.dumps({
        "upstream_token_share": round(100 * whole["sent"] / whole["whole"], 1),
        "evidence_at_budget": round(100 * whole["found"] / max(1, whole["wanted"]), 1),
        "evidence_library": round(100 * whole["library"] / max(1, whole["wanted"]), 1), **whole, "chats": rows,
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
