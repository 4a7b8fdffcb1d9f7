"""What the store costs: appends, reads, searches, disk, kills and a million turns, against bare SQL and other stores.

    python benchmarks/store.py --conversations data/locomo/conversations.jsonl    # about 20 minutes on two cores
    python benchmarks/store.py --quick                                            # within 5 minutes
    python benchmarks/store.py --only kills,million

Ours and the others take turns, call by call, so that what else the machine does hits all alike: read the ratios, not
the times. Bare SQL is Python's sqlite3 with the pragmas of our own connection and one table keyed by conversation and
place that holds messages as role and text. What our appends put off and then do at once (packing, indexing) happens
within them and is counted there; conversations are filled first, each to another point of that cycle. All is on SQLite
in the folder for temporary files: `TMPDIR` names another disk. `--postgres URL` adds appends and reads there, in an
empty database.

LangGraph's and OpenAI Agents' stores take part where they are installed:
pip install langgraph-checkpoint-sqlite openai-agents
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tomtat.store import Embedder, SqlStore, open_store
from tomtat.store.packing import KEEP_ROWS, PACK_AT

LOCOMO = Path("data/locomo/conversations.jsonl")
NEWEST, LONG, HITS = 50, 10_000, 10
CHATS = 20
NOISY = 5
"""Times its p50 that the p99 of one plain statement may be: it is 2 to 4 where nothing else runs."""
NAME = 36
"""Letters in a row's name."""
BARE_INSERT, OUR_APPEND = "bare INSERT and COMMIT", "tomtat append"
WORKERS, APPENDS, KILLS = 8, 10_000, 50

Message = dict[str, Any]
Work = Callable[[int], object]
"""Something to time; it is told which round it is."""
Times = dict[str, np.ndarray]


# What is stored


class Chat(NamedTuple):
    messages: list[Message]
    questions: list[str]


def locomo(path: Path) -> Iterator[Chat]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = []
        for turn in (turn for session in row["sessions"] for turn in session["turns"]):
            image = f" [image: {turn['image_caption']}]" if turn.get("image_caption") else ""
            messages.append({"role": "user", "name": turn["speaker"], "content": turn["text"] + image})
        yield Chat(messages, [asked["question"] for asked in row["qa"] if asked.get("answerable", True)])


def bundled() -> Iterator[Chat]:
    from tomtat.data import load_examples

    for example in load_examples("chats@train"):
        messages = [{"role": turn.role, "content": turn.content} for turn in example.source]
        yield Chat(messages, [fact.question for fact in example.facts if fact.question])


def plain(chats: Sequence[Chat]) -> list[Message]:
    """All turns as role and text alone: what bare SQL keeps, and what most chats are."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": message["content"]}
        for chat in chats
        for number, message in enumerate(chat.messages)
    ]


def cycled(messages: Sequence[Message], count: int) -> list[Message]:
    return [messages[number % len(messages)] for number in range(count)]


def fill(store: SqlStore, conversation: str, messages: Sequence[Message], user: str | None = None) -> None:
    for start in range(0, len(messages), 100):
        store.append(conversation, messages[start : start + 100], user=user)


# Timing


def alternate(works: dict[str, Work], rounds: int) -> Times:
    """Milliseconds of each call, all works once a round, each in front equally often."""
    taken = {name: np.zeros(rounds) for name in works}
    order = list(works.items())
    for number in range(rounds):
        for name, work in order:
            started = time.perf_counter()
            work(number)
            taken[name][number] = (time.perf_counter() - started) * 1000
        order = [*order[1:], order[0]]
    return taken


def p(times: np.ndarray, share: int) -> float:
    return float(np.percentile(times, share))


def over(times: Times, name: str, base: str) -> float:
    """p99 over p99."""
    return round(p(times[name], 99) / p(times[base], 99), 2)


def is_noisy(times: np.ndarray) -> bool:
    """Whether its p99 is the machine's rather than its own: then a ratio of p99s says nothing, be it low or high."""
    return p(times, 99) > NOISY * p(times, 50)


def summary(times: np.ndarray) -> tuple[float, float, float]:
    return p(times, 50), p(times, 99), float(times.mean())


def show(title: str, times: Times, base: str) -> None:
    print(f"\n{title}, {len(times[base]):,} each\n{'':{NAME}} {'p50 ms':>9} {'p99 ms':>9} {'mean ms':>9}   over {base}")
    for name, its in times.items():
        row = "".join(f" {value:9.3f}" for value in summary(its))
        ratios = "".join(f" {own / of:7.2f}" for own, of in zip(summary(its), summary(times[base]), strict=True))
        print(f"{name:{NAME}}{row}   {'' if name == base else ratios}")
    if is_noisy(times[base]):
        print(f"NOISY: p99 of {base} is more than {NOISY} times its p50. Repeat this where less else runs.")
    sys.stdout.flush()


# The others


def pragmas_of(store: SqlStore) -> dict[str, Any]:
    names = "page_size auto_vacuum journal_mode synchronous secure_delete temp_store cache_size wal_autocheckpoint"
    with store._db.read() as connection:
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names.split()}


class Bare:
    """Python's sqlite3 and a table, under the pragmas of a store's connections."""

    def __init__(self, path: Path, like: SqlStore) -> None:
        self.db = sqlite3.connect(path)
        for name, value in pragmas_of(like).items():
            self.db.execute(f"PRAGMA {name}={value}")
        columns = "conversation TEXT, seq INTEGER, role TEXT, text TEXT, PRIMARY KEY (conversation, seq)"
        self.db.execute(f"CREATE TABLE turns ({columns}) WITHOUT ROWID")

    def append(self, conversation: str, seq: int, message: Message) -> None:
        row = conversation, seq, message["role"], message["content"]
        self.db.execute("INSERT INTO turns VALUES (?, ?, ?, ?)", row)
        self.db.commit()

    def fill(self, conversation: str, messages: Sequence[Message]) -> None:
        rows = [(conversation, seq, one["role"], one["content"]) for seq, one in enumerate(messages, start=1)]
        self.db.executemany("INSERT INTO turns VALUES (?, ?, ?, ?)", rows)
        self.db.commit()

    def newest(self, conversation: str) -> list[Any]:
        query = f"SELECT role, text FROM turns WHERE conversation = ? ORDER BY seq DESC LIMIT {NEWEST}"
        return self.db.execute(query, (conversation,)).fetchall()


class Fts5:
    """Rows and SQLite's own full-text search over them, as its documentation sets it up."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        columns = "number INTEGER PRIMARY KEY, conversation TEXT, role TEXT, name TEXT, text TEXT"
        self.db.execute(f"CREATE TABLE turns ({columns})")
        indexed = "name, text, conversation UNINDEXED, content=turns, content_rowid=number, tokenize=unicode61"
        self.db.execute(f"CREATE VIRTUAL TABLE found USING fts5({indexed})")

    def append(self, conversation: str, message: Message) -> None:
        row = conversation, message["role"], message.get("name"), message["content"]
        number = self.db.execute("INSERT INTO turns VALUES (NULL, ?, ?, ?, ?)", row).lastrowid
        said = number, message.get("name"), message["content"], conversation
        self.db.execute("INSERT INTO found(rowid, name, text, conversation) VALUES (?, ?, ?, ?)", said)

    def search(self, query: str, conversation: str) -> list[Any]:
        words = " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", query.lower())))
        where = f"found MATCH ? AND conversation = ? ORDER BY rank LIMIT {HITS}"
        return self.db.execute(f"SELECT rowid, name, text FROM found WHERE {where}", (words, conversation)).fetchall()


class LangGraph:
    """A checkpoint a turn, with all messages so far, as a graph with a `messages` channel writes them."""

    def __init__(self, folder: Path) -> None:
        from langgraph.checkpoint.sqlite import SqliteSaver

        self.saver = SqliteSaver(sqlite3.connect(folder / "langgraph.db", check_same_thread=False))
        self.saver.setup()
        self.messages: dict[str, list[Any]] = {}
        self.configs: dict[str, Any] = {}

    def append(self, conversation: str, message: Message) -> None:
        from langchain_core.messages import AIMessage, HumanMessage
        from langgraph.checkpoint.base import empty_checkpoint

        said = self.messages.setdefault(conversation, [])
        kind = AIMessage if message["role"] == "assistant" else HumanMessage
        said.append(kind(message["content"], name=message.get("name"), id=f"{len(said)}"))
        config = self.configs.get(conversation) or {"configurable": {"thread_id": conversation, "checkpoint_ns": ""}}
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": said}
        checkpoint["channel_versions"] = {"messages": len(said)}
        about: Any = {"source": "loop", "step": len(said), "parents": {}}
        self.configs[conversation] = self.saver.put(config, checkpoint, about, {"messages": len(said)})

    def close(self) -> None:
        self.saver.conn.close()


class Agents:
    def __init__(self, folder: Path) -> None:
        from agents import SQLiteSession

        self.runner, self.path = asyncio.Runner(), folder / "agents.db"
        self.open = lambda conversation: SQLiteSession(conversation, self.path)
        self.sessions: dict[str, Any] = {}

    def append(self, conversation: str, message: Message) -> None:
        session = self.sessions.get(conversation) or self.sessions.setdefault(conversation, self.open(conversation))
        self.runner.run(session.add_items([message]))

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()
        self.runner.close()


PEERS: dict[str, Callable[[Path], Any]] = {"OpenAI Agents SQLiteSession": Agents, "LangGraph SqliteSaver": LangGraph}


def peers(folder: Path) -> dict[str, Any]:
    """Those that are installed; the others are told of."""
    found = {}
    for name, open_peer in PEERS.items():
        try:
            found[name] = open_peer(folder)
        except ImportError:
            print(f"{name:{NAME}} not installed")
    return found


# Figures


class Run(NamedTuple):
    options: argparse.Namespace
    chats: list[Chat]
    folder: Path
    """Empty, and gone after the part that it is for."""
    figures: dict[str, Any]

    def note(self, key: str, times: Times, name: str, base: str) -> None:
        """A figure, and in `noisy` those that are not to be believed."""
        self.figures[key] = over(times, name, base)
        if is_noisy(times[base]):
            self.figures["noisy"].append(key)


def append(run: Run) -> None:
    said = plain(run.chats)
    for durability in ("full", "normal"):
        for many in (1, CHATS):
            place = run.folder / f"{durability}-{many}.db"
            with open_store(place, durability=durability) as store:
                times = alternate(
                    appending(store, Bare(place.with_suffix(".bare"), store), many, said), run.options.rounds
                )
            where = "one conversation" if many == 1 else f"{many} conversations in turn"
            show(f"Append, synchronous {durability.upper()}, {where}", times, BARE_INSERT)
            key = "append" + ("_normal" if durability == "normal" else "") + ("_in_turn" if many > 1 else "")
            run.note(f"{key}_over_bare", times, OUR_APPEND, BARE_INSERT)
    others = peers(run.folder)
    # No more, for each of LangGraph's holds all before it.
    messages = said[:400]
    with open_store(run.folder / "peers.db") as store:
        works = appending(store, Bare(run.folder / "peers.bare", store), 1, messages)
        works |= {name: lambda n, peer=peer: peer.append("chat", messages[n]) for name, peer in others.items()}
        times = alternate(works, len(messages))
    show("Append a conversation's turns, each store by its own defaults", times, BARE_INSERT)
    for peer in others.values():
        peer.close()


def appending(store: SqlStore, bare: Bare, many: int, said: Sequence[Message]) -> dict[str, Work]:
    """A message to the next of so many conversations, each of them filled to another point of packing's cycle."""
    ends = [PACK_AT + (PACK_AT - KEEP_ROWS) * chat // many for chat in range(many)]
    for chat, end in enumerate(ends):
        fill(store, f"chat {chat}", cycled(said, end))
        bare.fill(f"chat {chat}", cycled(said, end))

    def insert(n: int) -> None:
        bare.append(f"chat {n % many}", ends[n % many] + n // many + 1, said[n % len(said)])

    def ours(n: int) -> None:
        store.append(f"chat {n % many}", [said[n % len(said)]])

    return {BARE_INSERT: insert, OUR_APPEND: ours}


def read(run: Run) -> None:
    long, resting = cycled(plain(run.chats), LONG), cycled(plain(run.chats), 200)
    with open_store(run.folder / "read.db") as store:
        bare = Bare(run.folder / "read.bare", store)
        fill(store, "long", long)
        bare.fill("long", long)
        # Twice the segments that a store keeps unpacked, read in turn: none is found unpacked.
        many = 2 * store._tenant.opened._size
        for number in range(many):
            fill(store, f"chat {number}", resting)
            bare.fill(f"chat {number}", resting)
        reading(run, f"Recent context of {LONG:,} turns", store, bare, lambda n: "long", "read")
    with open_store(run.folder / "read.db") as store:
        title = f"After a close, {many} conversations of {len(resting)} turns in turn, each unpacked anew"
        reading(run, title, store, bare, lambda n: f"chat {n % many}", "read_at_rest")


def reading(run: Run, title: str, store: SqlStore, bare: Bare, which: Callable[[int], str], key: str) -> None:
    base, own = f"bare SELECT of {NEWEST}", f"tomtat history(newest={NEWEST})"
    works: dict[str, Work] = {base: lambda n: bare.newest(which(n))}
    works[own] = lambda n: store.history(which(n), newest=NEWEST)
    alternate(works, 1000)
    times = alternate(works, run.options.rounds)
    show(title, times, base)
    run.note(f"{key}_over_bare", times, own, base)


def search(run: Run) -> None:
    messages = [message for chat in run.chats for message in chat.messages]
    long = [Chat(cycled(messages, LONG), [question for chat in run.chats for question in chat.questions])]
    for what, key, its in (("each conversation", "", run.chats), (f"one of {LONG:,} turns", "_10k", long)):
        with open_store(run.folder / f"search{key}.db") as store:
            bare = Fts5(run.folder / f"search{key}.bare")
            for number, chat in enumerate(its):
                fill(store, f"chat {number}", chat.messages)
                for message in chat.messages:
                    bare.append(f"chat {number}", message)
            bare.db.commit()
            asked = [(question, f"chat {number}") for number, chat in enumerate(its) for question in chat.questions]
            random.Random(0).shuffle(asked)
            asked = asked[:300] if run.options.quick else asked
            works: dict[str, Work] = {
                "FTS5, bm25()": lambda n: bare.search(*asked[n]),  # noqa: B023
                "tomtat search": lambda n: store.search(asked[n][0], conversation=asked[n][1], limit=HITS),  # noqa: B023
            }
            alternate(works, 20)
            times = alternate(works, len(asked))
        show(f"Search {what}, {HITS} hits, no embedder", times, "FTS5, bm25()")
        run.note(f"search{key}_p99_over_bm25", times, "tomtat search", "FTS5, bm25()")


class Noise:
    """As wide as all-MiniLM-L6-v2, without torch: vectors take the same room whatever they say."""

    name, width = "noise", 384

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.random.default_rng(len(texts)).standard_normal((len(texts), self.width))

    def related(self, query: str) -> dict[str, dict[str, float]]:
        return {}

    def weight(self, query: str) -> float:
        return 0.5


def embedder() -> Embedder:
    from tomtat.errors import ModelError

    try:
        from tomtat.models.embedding import MiniLM

        return MiniLM()
    except (ImportError, ModelError):
        return Noise()


def disk(run: Run) -> None:
    raw = sum(len(message["content"].encode()) for chat in run.chats for message in chat.messages)
    turns = [(f"chat {number}", message) for number, chat in enumerate(run.chats) for message in chat.messages]
    print(f"\nDisk, {len(turns):,} turns with {raw:,} bytes of text, appended one by one, closed")
    print(f"{'':{NAME}} {'bytes':>12} {'over text':>9}")

    def row(name: str, path: Path) -> float:
        size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
        print(f"{name:{NAME}} {size:12,} {size / raw:9.2f}", flush=True)
        return round(size / raw, 3)

    model = embedder()
    for key, its in (("disk_ratio_no_vectors", None), ("disk_ratio", model)):
        with open_store(run.folder / f"{key}.db", embedder=its) as store:
            for conversation, message in turns:
                store.append(conversation, [message])
        run.figures[key] = row(
            f"tomtat, vectors of {its.name}" if its else "tomtat, no vectors", run.folder / f"{key}.db"
        )
    bare = Fts5(run.folder / "disk.bare")
    for conversation, message in turns:
        bare.append(conversation, message)
        bare.db.commit()
    bare.db.close()
    row("rows and FTS5", run.folder / "disk.bare")
    (run.folder / "peers").mkdir()
    for name, peer in peers(run.folder / "peers").items():
        for conversation, message in turns:
            peer.append(conversation, message)
        peer.close()
        row(name, run.folder / "peers" / ("agents.db" if isinstance(peer, Agents) else "langgraph.db"))


# Kills


def work(number: int, folder: Path, count: int) -> None:
    """One of the processes that are killed: append the messages that its log hasn't got, and log what returned."""
    log = folder / f"{number}.log"
    # A kill can't tear a line: each is one write, and what a process has written stays when it goes.
    done = len(log.read_text().splitlines()) if log.exists() else 0
    writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open_store(folder / "kills.db") as store:
        for place in range(done, count):
            name = f"{number}-{place}"
            message = {"role": "user", "content": f"Message {place} of process {number}.", "id": name}
            outcome = store.append(conversation_of(name), [message])
            os.write(writer, f"{name} {outcome.new}\n".encode())


def conversation_of(name: str) -> str:
    return f"chat {random.Random(name).randrange(CHATS)}"


class Worker:
    def __init__(self, number: int, folder: Path, count: int) -> None:
        self.log = folder / f"{number}.log"
        flags = ["--worker", str(number), "--folder", str(folder), "--appends", str(count)]
        self.command = [sys.executable, __file__, *flags]
        self.count = count
        self.start()

    def start(self) -> None:
        self.began_with = self.acknowledged()
        self.process = subprocess.Popen(self.command)

    def acknowledged(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def is_appending(self) -> bool:
        return self.process.poll() is None and self.began_with < self.acknowledged() < self.count

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def kills(run: Run) -> None:
    count = APPENDS // WORKERS
    chance = random.Random(0)
    open_store(run.folder / "kills.db").close()
    started = time.perf_counter()
    workers = [Worker(number, run.folder, count) for number in range(WORKERS)]
    killed = 0
    for moment in sorted(chance.uniform(0.02, 0.9) * APPENDS for _ in range(KILLS)):
        while sum(worker.acknowledged() for worker in workers) < moment:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.02)
        while not (appending := [worker for worker in workers if worker.is_appending()]):
            time.sleep(0.005)
        victim = chance.choice(appending)
        if victim.process.poll() is None:
            victim.kill()
            victim.start()
            killed += 1
    codes = [worker.process.wait() for worker in workers]
    seconds = time.perf_counter() - started
    lines = [line.split() for worker in workers for line in worker.log.read_text().splitlines()]
    with open_store(run.folder / "kills.db") as store:
        stored = Counter(
            (branch.conversation, turn.message["id"])
            for branch in store.conversations()
            for turn in store.history(branch.conversation)
        )
        sound = store.check().is_sound
    run.figures["lost"] = sum((conversation_of(name), name) not in stored for name, _ in lines)
    ids = Counter(name for (_, name), times in stored.items() for _ in range(times))
    run.figures["doubled"] = sum(times > 1 for times in ids.values())
    run.figures["sound"] = sound and not any(codes)
    known = sum(new == "0" for _, new in lines)
    print(f"\nKills: {WORKERS} processes, {len(lines):,} appends acknowledged, {killed} SIGKILLs, {seconds:.0f} s")
    lost, doubled = run.figures["lost"], run.figures["doubled"]
    print(f"lost {lost}, doubled {doubled}, stored {stored.total():,}, sent again but known {known}")
    state, failed = "sound" if sound else "DAMAGED", sum(map(bool, codes))
    print(f"check() finds it {state}; processes that failed: {failed}", flush=True)


# A million turns


def build(place: Path, turns: int, said: Sequence[Message]) -> None:
    """Conversations of 100 turns and one of 5,000; of the former 100, spread evenly, are alike whatever the size."""
    count = turns // 100
    step = count // 100
    with open_store(place, durability="normal") as store:
        for number in range(count):
            mark = number // step if number % step == 0 else None
            chance = random.Random(f"other {number}" if mark is None else f"mark {mark}")
            marked = ("few", "many", "many", "many", "rest")
            user = f"user {number % (count // 20)}" if mark is None else marked[mark % 5]
            store.append(f"chat {number}", chance.choices(said, k=100), user=user)
            if number == count // 2:
                fill(store, "long", random.Random(0).choices(said, k=5000), user="long")


def million(run: Run) -> None:
    large = 200_000 if run.options.quick else 1_000_000
    said = plain(run.chats)
    asked = [question for chat in run.chats for question in chat.questions]
    random.Random(0).shuffle(asked)
    stores = {}
    for turns in (10_000, large):
        started = time.perf_counter()
        build(run.folder / f"{turns}.db", turns, said)
        took = f"built in {time.perf_counter() - started:.0f} s"
        size = (run.folder / f"{turns}.db").stat().st_size
        print(f"\n{turns:,} turns and a conversation of 5,000: {took}, {size / 1e6:.1f} MB", flush=True)
        stores[f"{turns:,} turns"] = open_store(run.folder / f"{turns}.db")
    small, big = stores

    def compare(what: str, key: str, count: int, call: Callable[[SqlStore, int], object]) -> None:
        works: dict[str, Work] = {name: lambda n, store=store: call(store, n) for name, store in stores.items()}
        alternate(works, 20)
        times = alternate(works, count)
        show(what, times, small)
        run.note(key, times, big, small)
        run.figures[f"{key}_mean"] = round(float(times[big].mean() / times[small].mean()), 2)

    def find(**where: str) -> Callable[[SqlStore, int], object]:
        return lambda store, n: store.search(asked[n % len(asked)], limit=HITS, **where)

    def put(store: SqlStore, n: int) -> object:
        return store.append("long", [said[n % len(said)]])

    compare("Append to the long conversation", "append_at_million", run.options.rounds, put)
    compare("Search the long conversation", "search_at_million", run.options.rounds // 10, find(conversation="long"))
    compare(
        "Search the 20 conversations of a user", "search_user_at_million", run.options.rounds // 40, find(user="few")
    )
    compare("Search the 60 of another", "search_heavy_user_at_million", run.options.rounds // 100, find(user="many"))
    for store in stores.values():
        store.close()


# PostgreSQL


def postgres(run: Run) -> None:
    import psycopg

    said = cycled(plain(run.chats), LONG)
    driver = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", run.options.postgres)
    # In a schema of its own: a store takes only a database that has no other tables.
    with psycopg.connect(driver) as bare, open_store(run.options.postgres, tenant="benchmark") as store:
        bare.execute("DROP SCHEMA IF EXISTS bare CASCADE")
        bare.execute("CREATE SCHEMA bare")
        columns = "conversation text, seq int, role text, text text, PRIMARY KEY (conversation, seq)"
        bare.execute(f"CREATE TABLE bare.turns ({columns})")
        bare.commit()

        def insert(n: int) -> None:
            bare.execute("INSERT INTO bare.turns VALUES ('chat', %s, %s, %s)", (n, said[n]["role"], said[n]["content"]))
            bare.commit()

        def select(n: int) -> None:
            where = f"conversation = 'chat' ORDER BY seq DESC LIMIT {NEWEST}"
            bare.execute(f"SELECT role, text FROM bare.turns WHERE {where}").fetchall()
            bare.commit()

        store.erase(conversation="chat")
        works: dict[str, Work] = {BARE_INSERT: insert, OUR_APPEND: lambda n: store.append("chat", [said[n]])}
        times = alternate(works, run.options.rounds)
        show("PostgreSQL: append", times, BARE_INSERT)
        run.note("postgres_append_over_bare", times, OUR_APPEND, BARE_INSERT)
        works = {"bare SELECT": select, "tomtat history": lambda n: store.history("chat", newest=NEWEST)}
        times = alternate(works, run.options.rounds)
        show(f"PostgreSQL: the newest {NEWEST} turns", times, "bare SELECT")
        run.note("postgres_read_over_bare", times, "tomtat history", "bare SELECT")
        store.erase(conversation="chat")
        bare.execute("DROP SCHEMA bare CASCADE")


PARTS = {"append": append, "read": read, "search": search, "disk": disk, "kills": kills, "million": million}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=Path, help=f"LoCoMo's; else {LOCOMO}, or else the bundled chats")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and 200,000 turns for a million")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--postgres", metavar="URL", help="of an empty database")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--appends", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.folder, options.appends)
        return
    path = options.conversations or (LOCOMO if LOCOMO.exists() else None)
    chats = list(locomo(path) if path else bundled())
    options.rounds = 2500 if options.quick else LONG
    turns, questions = sum(len(chat.messages) for chat in chats), sum(len(chat.questions) for chat in chats)
    load = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} processors were busy in the minute before"
    what = "LoCoMo" if path else "The bundled chats, for want of a file of conversations"
    print(f"{what}: {len(chats)} conversations, {turns:,} turns, {questions:,} questions. {load}")
    figures: dict[str, Any] = {"chats": "locomo" if path else "bundled", "quick": options.quick, "noisy": []}
    parts = [PARTS[name] for name in options.only.split(",")] + ([postgres] if options.postgres else [])
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="store-") as folder:
            part(Run(options, chats, Path(folder), figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
