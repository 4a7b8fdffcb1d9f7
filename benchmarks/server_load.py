"""What the server adds to an upstream's answer, and what it keeps when it is killed.

    python benchmarks/server_load.py                          # two minutes, fake upstream, fake engine
    python benchmarks/server_load.py --engine runs/chats      # the same with a real model folding meanwhile
    python benchmarks/server_load.py --seconds 20             # to look at; its p99 says little

100 conversations on the loopback, 30 requests a second in all through the server, and each once more straight to the
upstream, half an interval apart and in front in turn. Arrivals are fixed beforehand and a latency counts from there to
the answer's last byte, so a server that stalls can't hide it by slowing its clients down; a conversation's next turn
waits for its answer as a person would, and that wait counts too. Server, upstream and this load are three processes.
`added_p50_over_direct` and `added_p99_ms`: milliseconds, percentile less percentile; `added_p99_paired_ms` is the
percentile of what each single request took longer than its twin, and feels every hiccup of the machine.
`added_p99_outside_outage_ms` leaves out requests that were due while the server was down or within five seconds after
it was back, when it reads conversations anew; all other figures have them in.

Of ten conversations seven resend their growing history under an id, two send new turns only, one has no id. They begin
with up to 40 turns, say 20 to 60 words a turn, every fifth question makes the model call a tool, and half of all
answers are streamed. The budget is 1,000 tokens, so they fold.

In the middle the server is killed (SIGKILL) in the moment in which a client has read the last byte of a stream, and
started again. Requests under way then, or that came before it was ready again, are counted as `cut` and sent once
more. At the end every conversation is read back: `lost` counts turns that were sent or answered in a request whose
answer had arrived, and are not there in their place; `doubled` those that are there and were not said.

`memory_growth`: the server's resident memory, median of the last quarter of a process's life over that of the first
one after a warm-up (a quarter too); the larger of the two lives. `upstream_token_share`: tokens that the upstream
received through the server over those of the same requests sent whole.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2
import numpy as np
import tomli_w
from fake_upstream import LOOK_UP, Body, Message, words
from serve_fake import command_of

from server_process import ServerProcess, fake_upstream, free_port

CHATS, A_SECOND, BUDGET, EARLIER = 100, 30, 1000, 40
KINDS = ["resent"] * 7 + ["new turns"] * 2 + ["no id"]
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
SYSTEM = "You help customers of a small shop. Be brief."
TARGETS = {"errors": 0, "added_p50_over_direct": 5, "added_p99_ms": 30, "lost": 0, "memory_growth": 1.1}
"""At most."""
DEADLINE = 60
"""Seconds after which a request has failed: nothing here takes long."""
SETTLES = 5
"""Seconds after a restart that `added_p99_outside_outage_ms` leaves out too."""
NAME = 30
"""Letters in a row's name."""
THROUGH, DIRECT = "through tomtat", "upstream directly"


# Conversations


@dataclass
class Chat:
    """A client's side of a conversation, and what it may rely on."""

    number: int
    kind: str
    history: list[Message] = field(default_factory=list)
    known: int = 0
    """Of the history, how many turns an answered request held, or was."""
    id: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    cut: int = 0

    def next(self) -> Body:
        """A request with the whole history: a tool's result where one was called, else something new."""
        calls = self.history[-1].get("tool_calls") or ()
        self.asked += 1
        seed = self.number * 1000 + self.asked
        if calls:
            self.history += [{"role": "tool", "tool_call_id": calls[0]["id"], "content": words(seed)}]
        else:
            please = f" {LOOK_UP}" if self.asked % 5 == 0 else ""
            self.history += [{"role": "user", "content": words(seed) + please}]
        body: Body = {"model": "fake", "messages": list(self.history), "tools": TOOLS}
        if seed % 2:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def through(self, body: Body) -> tuple[Body, dict[str, str]]:
        """The request as this kind of client sends it to the server."""
        if self.kind == "no id":
            return body, {}
        headers = {"X-Conversation-Id": f"load-{self.number}"}
        if self.kind == "new turns":
            body = body | {"messages": body["messages"][self.known :]}
            headers["X-Conversation-Turns"] = "new"
        return body, headers

    def answered(self, message: Message) -> None:
        self.history.append(message)
        self.known = len(self.history)


def begun(number: int) -> Chat:
    chance = random.Random(number)
    earlier = [
        {"role": ("user", "assistant")[place % 2], "content": words(number * 1000 + 500 + place)}
        for place in range(2 * chance.randint(0, EARLIER // 2))
    ]
    chat = Chat(
        number, KINDS[number % len(KINDS)], [{"role": "system", "content": f"{SYSTEM} Shop {number}."}, *earlier]
    )
    chat.id = None if chat.kind == "no id" else f"load-{number}"
    return chat


# Requests


class Answer(NamedTuple):
    message: Message
    usage: dict[str, int]
    headers: httpx2.Headers
    first: float
    """When its first byte of content was there."""
    end: float


class Failed(Exception):
    """A request that got a wrong answer."""


class BrokeOff(Failed):
    """A request whose connection ended before its answer did."""


async def ask(client: httpx2.AsyncClient, body: Body, headers: dict[str, str]) -> Answer:
    try:
        async with (
            asyncio.timeout(DEADLINE),
            client.stream("POST", "/chat/completions", json=body, headers=headers) as got,
        ):
            if got.status_code != 200:
                raise Failed(f"{got.status_code} {(await got.aread()).decode(errors='replace')[:300]}")
            if body.get("stream"):
                return await streamed(got)
            data = json.loads(await got.aread())
            end = time.perf_counter()
            return Answer(data["choices"][0]["message"], data["usage"], got.headers, end, end)
    except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
        raise BrokeOff(f"{type(error).__name__}: {error}") from error
    except (httpx2.HTTPError, TimeoutError, ValueError, KeyError) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error


async def streamed(got: httpx2.Response) -> Answer:
    """Ends with `[DONE]`; a stream without it is a failure."""
    message: Message = {"role": "assistant", "content": None}
    usage: dict[str, int] = {}
    first = 0.0
    async for line in got.aiter_lines():
        first = first or time.perf_counter()
        if line == "data: [DONE]":
            return Answer(message, usage, got.headers, first, time.perf_counter())
        if not line.startswith("data: "):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise Failed(f"error in the stream: {str(chunk)[:300]}")
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            take(choice["delta"], message)
    raise BrokeOff("the stream ended without [DONE]")


def take(delta: Message, message: Message) -> None:
    if delta.get("content"):
        message["content"] = (message["content"] or "") + delta["content"]
    for part in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        if part["index"] == len(calls):
            calls.append(
                {"id": part["id"], "type": "function", "function": {"name": part["function"]["name"], "arguments": ""}}
            )
        calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]


# The load


class Timed(NamedTuple):
    way: str
    kind: str
    is_stream: bool
    due: float
    seconds: float
    first_seconds: float
    tokens: int


class Load:
    """Arrivals, one after the other, and what came of them."""

    def __init__(self, options: argparse.Namespace, server: ServerProcess, upstream: ServerProcess) -> None:
        self.options, self.server = options, server
        self.chats = [begun(number) for number in range(options.chats)]
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=2)
        self.clients = {
            way: httpx2.AsyncClient(base_url=f"{process.url}/v1", limits=limits, timeout=DEADLINE)
            for way, process in ((THROUGH, server), (DIRECT, upstream))
        }
        self.pairs: list[tuple[Timed, Timed]] = []
        self.errors: list[str] = []
        self.cut = self.late = 0
        self.outcomes: Counter[str] = Counter()
        self.up = asyncio.Event()
        self.up.set()
        self.kill_is_due = False
        self.killed_at = self.back_at = float("inf")
        """Never, so far."""
        self.restart: asyncio.Task[None] | None = None

    async def run(self) -> None:
        gap = 1 / self.options.rate
        start = time.perf_counter() + 0.5
        arrivals = []
        for number in range(int(self.options.seconds * self.options.rate)):
            due = start + number * gap
            await asyncio.sleep(max(0, due - gap - time.perf_counter()))
            if number == int(self.options.seconds * self.options.rate) // 2:
                self.kill_is_due = True
            chat = self.chats[(number * 37) % len(self.chats)]  # 37 and 100 have no factor in common: all in turn
            arrivals.append(asyncio.create_task(self.arrival(number, chat, due, gap / 2)))
        await asyncio.gather(*arrivals)

    async def arrival(self, number: int, chat: Chat, due: float, half: float) -> None:
        async with chat.lock:
            body = chat.next()
            began = time.perf_counter()
            first, second = (due, due + half) if number % 2 else (due + half, due)
            # A conversation that had to wait for the server's last answer says nothing against the upstream.
            through, direct = await asyncio.gather(
                self.through(chat, body, first), self.direct(chat, body, max(second, began)), return_exceptions=True
            )
            for way, result in ((THROUGH, through), (DIRECT, direct)):
                if isinstance(result, BaseException):
                    self.errors.append(f"{way}, {chat.kind}: {type(result).__name__}: {result}")
            if isinstance(through, Timed) and isinstance(direct, Timed):
                self.pairs.append((through, direct))

    async def direct(self, chat: Chat, body: Body, due: float) -> Timed:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        answer = await ask(self.clients[DIRECT], body, {})
        return timed(DIRECT, chat, body, due, answer)

    async def through(self, chat: Chat, body: Body, due: float) -> Timed | None:
        """None for a request that the kill has cut, once it was answered after all."""
        await asyncio.sleep(max(0, due - time.perf_counter()))
        was_cut = not self.up.is_set()
        sent, headers = chat.through(body)
        retries = 0
        while True:
            await self.up.wait()
            try:
                answer = await ask(self.clients[THROUGH], sent, headers)
                break
            except Failed as error:
                if retries or not (isinstance(error, BrokeOff) and due < self.back_at and not self.is_alive):
                    chat.history = chat.history[: chat.known]
                    raise
                was_cut, retries = True, retries + 1
                chat.cut += 1
                headers["X-Stainless-Retry-Count"] = str(retries)  # as openai-python does
        if self.kill_is_due and chat.kind == "new turns" and sent.get("stream"):
            self.kill()
        self.cut += was_cut
        self.outcomes[answer.headers.get("x-memory", "none")] += 1
        self.note_id(chat, answer)
        chat.answered(answer.message)
        return None if was_cut else timed(THROUGH, chat, body, due, answer)

    @property
    def is_alive(self) -> bool:
        """Whether it was not killed yet."""
        return self.killed_at == float("inf")

    def note_id(self, chat: Chat, answer: Answer) -> None:
        said = answer.headers.get("x-conversation-id")
        if chat.kind == "no id":
            chat.id = said or chat.id

    def kill(self) -> None:
        self.kill_is_due = False
        self.up.clear()
        self.killed_at = time.perf_counter()
        self.server.kill(signal.SIGKILL)
        self.restart = asyncio.create_task(self.come_back())

    async def come_back(self) -> None:
        await asyncio.to_thread(self.server.start)
        self.back_at = time.perf_counter()
        self.up.set()

    async def read_back(self) -> tuple[int, int, list[str]]:
        """Turns lost, turns doubled, and where."""
        lost = doubled = 0
        where = []
        for chat in self.chats:
            if not chat.known:
                continue
            stored = await self.stored(chat)
            # What the system says is each request's own; and the last answer to a client without an id is kept when
            # it comes back with the next question, for until then nobody could ask for it.
            said = [message for message in chat.history[: chat.known] if message["role"] != "system"]
            missing, extra = compare(said[:-1] if chat.kind == "no id" else said, stored)
            if missing or extra:
                where.append(f"{chat.id} ({chat.kind}, cut {chat.cut} times): {missing} lost, {extra} doubled")
            lost, doubled = lost + missing, doubled + extra
        return lost, doubled, where

    async def failures(self) -> dict[str, int]:
        """Of the memory, by kind, as the second process counted them."""
        lines = (await self.clients[THROUGH].get(f"{self.server.url}/metrics")).text.splitlines()
        found = [line.split('"')[1:] for line in lines if line.startswith("tomtat_memory_failures_total{")]
        return {kind: int(float(count.removeprefix("} "))) for kind, count in found}

    async def stored(self, chat: Chat) -> list[Message]:
        found: list[Message] = []
        more = True
        while more:
            address = f"/conversations/{quote(chat.id or '-', safe='')}/messages?limit=1000&after={len(found)}"
            answer = await self.clients[THROUGH].get(address)
            if answer.status_code != 200:
                print(f"{chat.id}: {answer.text[:300]}", file=sys.stderr)
                return found
            page = answer.json()
            found += [turn["message"] for turn in page["data"]]
            more = page["has_more"]
        return found


def timed(way: str, chat: Chat, body: Body, due: float, answer: Answer) -> Timed:
    tokens = answer.usage["prompt_tokens"]
    return Timed(way, chat.kind, bool(body.get("stream")), due, answer.end - due, answer.first - due, tokens)


def compare(said: Sequence[Message], stored: Sequence[Message]) -> tuple[int, int]:
    """How many turns of what was said are not there in their order, and how many more are there."""
    place = found = 0
    known = list(map(meaning, stored))
    for message in map(meaning, said):
        if message in known[place:]:
            place = known.index(message, place) + 1
            found += 1
    return len(said) - found, len(stored) - found


def meaning(message: Message) -> str:
    """What a message says, without what a server may add."""
    kept = {name: message[name] for name in ("role", "content", "tool_calls", "tool_call_id") if message.get(name)}
    return json.dumps(kept, sort_keys=True)


# What is shown


def milliseconds(pairs: Sequence[tuple[Timed, Timed]], first: bool = False) -> dict[str, np.ndarray]:
    seconds = [[one.first_seconds if first else one.seconds for one in pair] for pair in pairs]
    through, direct = np.array(seconds).T * 1000
    return {THROUGH: through, DIRECT: direct}


def show(load: Load) -> None:
    pairs = load.pairs
    groups = {"": pairs, "streamed, to the last byte": [pair for pair in pairs if pair[0].is_stream]}
    groups |= {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in dict.fromkeys(KINDS)}
    print(f"\n{'':{NAME}} {'requests':>9} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}")
    for title, chosen in groups.items():
        if chosen:
            rows(title, milliseconds(chosen))
    rows("streamed, to the first byte", milliseconds(groups["streamed, to the last byte"], first=True))
    print(f"{'X-Memory':{NAME}} {', '.join(f'{name} {count}' for name, count in load.outcomes.most_common())}")


def rows(title: str, times: dict[str, np.ndarray]) -> None:
    if title:
        print(title)
    for way, its in times.items():
        name = f"  {way}" if title else way
        p50, p99, worst = np.percentile(its, [50, 99, 100])
        print(f"{name:{NAME}} {len(its):9,} {p50:9.2f} {p99:9.2f} {worst:9.2f}")


def added(times: dict[str, np.ndarray], share: int) -> float:
    """Percentile less percentile."""
    return round(float(np.subtract(*(np.percentile(its, share) for its in times.values()))), 2)


def figures(load: Load, lost: int, doubled: int) -> dict[str, Any]:
    times = milliseconds(load.pairs)
    outside = [pair for pair in load.pairs if not load.killed_at <= pair[0].due <= load.back_at + SETTLES]
    through, direct = (sum(one.tokens for one in ones) for ones in zip(*load.pairs, strict=True))
    requests = len(load.pairs) + load.cut
    return {
        "errors": len(load.errors), "added_p50_over_direct": added(times, 50), "added_p99_ms": added(times, 99),
        "lost": lost, "memory_growth": load.server.growth(), "upstream_token_share": round(through / direct, 3),
        "added_p99_outside_outage_ms": added(milliseconds(outside), 99) if outside else None,
        "added_p99_paired_ms": round(float(np.percentile(times[THROUGH] - times[DIRECT], 99)), 2),
        "cut": load.cut, "doubled": doubled, "requests": requests,
        "back_after_seconds": round(load.back_at - load.killed_at, 2),
        "server_cpu_ms_per_request": round(1000 * load.server.cpu_seconds / requests, 2),
        "outcomes": dict(load.outcomes),
    }  # fmt: skip


# The server


def settings_of(folder: Path, port: int, upstream: str) -> Path:
    """What a user would write."""
    settings = {
        "port": port, "store": str(folder / "chats.db"), "budget_tokens": BUDGET,
        "upstreams": {"fake": {"url": f"{upstream}/v1"}},
    }  # fmt: skip
    path = folder / "serve.toml"
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--chats", type=int, default=CHATS)
    parser.add_argument("--rate", type=float, default=A_SECOND, help="requests a second through the server, in all")
    parser.add_argument("--engine", metavar="RUN", help="a run whose model folds, in place of the fake engine")
    return parser.parse_args()


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    port = free_port()
    with fake_upstream(folder) as upstream:
        settings = settings_of(folder, port, upstream.url)
        with ServerProcess(command_of(settings, options.engine), port, "/readyz", folder / "server.log") as server:
            load = Load(options, server, upstream)
            await load.run()
            lost, doubled, where = await load.read_back()
            failures = await load.failures()
    show(load)
    for line in [*load.errors[:10], *where[:10]]:
        print(line)
    return {**figures(load, lost, doubled), "memory_failures": failures}


def main() -> None:
    options = parse()
    busy = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} processors were busy in the minute before"
    print(
        f"{options.chats} conversations, {options.rate:g} requests a second, {options.seconds:g} s. {busy}", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="server-load-") as folder:
        found = asyncio.run(measure(options, Path(folder)))
    print(f"{'to reach, at most':{NAME}} {', '.join(f'{name} {most}' for name, most in TARGETS.items())}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
