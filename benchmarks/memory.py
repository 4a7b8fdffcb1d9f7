"""What a chat memory keeps within a budget, what it costs, and what others keep: evidence, facts, compactions, time.

    python benchmarks/memory.py --locomo data/locomo/conversations.jsonl --beam data/beam/conversations.jsonl
    python benchmarks/memory.py --locomo data/locomo/conversations.jsonl --quick --run runs/chats --picture curve.png

Budgets are N % of a history's tokens, counted as SmolLM2 counts them, and a context is everything a model would be
sent. `evidence_at_N`: evidence turns of LoCoMo's answerable questions (and of BEAM's probes for extraction and updates)
that stand word for word in it, over all evidence turns. `facts_at_N`: of the facts of the bundled long conversations
those whose string stands in it; `no_query`, where nothing was asked. The question is what is recalled for; the
history's own last message stays the newest. The settings were chosen on LoCoMo 0 and 1 and on long-01, 02 and 07:
"held out" is the rest.

`rounds_50`: a long conversation goes on with the other long ones, five turns and a fold at a time, until 50 spans that
began after its last turn are folded; then it is asked for its own facts, still within 10 % of *its own* tokens: a
window that stays the same while the chat goes on. The others play on until they have summarized and dropped 50 times
after that turn. (JSON has `rounds_50_of_whole` too: within 10 % of all that was said by then.) No model here, for
anybody: all summaries are extracts.

`handed_over`: of the turns of the long conversations that only a summary stands for, those whose whole text the
summarizer was given. `model share`: of the spans, those told by a summary that the model wrote and the gate passed.
`CPU s`: of the processor, for each turn that is folded or dropped.

`context_p99`: composing a context of 4,000 tokens from 10,000 turns over what a store alone does for it, reading as
many newest turns and searching for as many hits; a turn is appended before each call.

Without --run all summaries are extracts: ours by design where there is no model, the others' from a fake chat model.
With --run a second table has the bundled conversations folded by that run, and the others' summaries written by it
within 10 %: with --quick two of them, else all ten, and LoCoMo too for evidence. BEAM is never folded by a model, which
would take it hours.

Others: newest turns only; BM25 over turns, in the order found those that fit; LangChain's SummarizationMiddleware and
LangMem's summarize_messages, called before each call of a chat's model would be, with their own defaults but for the
budget (pip install --target peers langchain langmem langchain-core langgraph, and --peers peers).

--quick leaves BEAM out and asks all other questions: nine to ten minutes on two slow cores; with --run a model takes
some 0.3 s a turn besides.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, lru_cache
from importlib import import_module
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from memory_chats import (
    HELD_OUT,
    SHARES,
    Chat,
    Contexts,
    Found,
    Message,
    budget_of,
    evidence_chats,
    fact_chats,
    find,
    handed,
    old_turns,
    percent,
)
from memory_peers import MODULES, PEERS, ROUNDS, Played, bm25_alone, newest_only, play, write_extract, writer_of
from memory_tables import WHOLE, Row, draw, show_all
from search_recall import read_beam, read_locomo
from store import Times, fill, is_noisy, over, p, show

from tomtat.config import MemorySettings
from tomtat.errors import BudgetError, ModelError, TomtatError
from tomtat.memory import ChatMemory, EstimatedTokens, HuggingFaceTokens, SpanSummarizer, TokenCounter
from tomtat.memory.folding import NoSummarizer
from tomtat.memory.turns import PINNED_ROLES
from tomtat.store import Embedder, Store, open_store
from tomtat.types import Generation

STARTED = time.monotonic()
LOCOMO = Path("data/locomo/conversations.jsonl")
QUICK_FOLDED = ("long-03", "long-04")
"""What a model folds with --quick: it takes about two minutes for each."""
STEP = 10
LONG, BUDGET, FOLD_EVERY = 10_000, 4_000, 8
MANUAL = MemorySettings(background=False)

OURS, VECTORS = "tomtat", "tomtat with vectors"
NEWEST, BM25 = "newest turns only", "BM25 over turns"
COMPOSE, BARE = "tomtat compose", "bare history and search"

System = Callable[[Chat], AbstractContextManager[Contexts]]
"""Opens a system on a chat."""


def say(text: str) -> None:
    print(f"{time.monotonic() - STARTED:5.0f} s  {text}", file=sys.stderr, flush=True)


# Ours


class Recorded:
    """A summarizer, and what it was given."""

    def __init__(self, inner: SpanSummarizer) -> None:
        self.inner, self.name, self.max_source_tokens = inner, inner.name, inner.max_source_tokens
        self.given: list[str] = []

    def count_tokens(self, text: str) -> int:
        return self.inner.count_tokens(text)

    def generate(self, sources: Sequence[str]) -> Sequence[Generation]:
        self.given += sources
        return self.inner.generate(sources)

    def draw(self, sources: Sequence[str], count: int) -> Sequence[Sequence[Generation]]:
        return self.inner.draw(sources, count)


class Remembered:
    """An embedder that reads no text twice: the same chats are stored several times here."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name, self.width = inner, inner.name, inner.width
        self._known: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self.inner.embed(new), strict=True)
        return np.array([self._known[text] for text in texts], np.float32).reshape(len(texts), self.width)

    def related(self, query: str) -> Any:
        return self.inner.related(query)

    def weight(self, query: str) -> float:
        return float(self.inner.weight(query))


class Folded(NamedTuple):
    """A chat in a store of its own, folded."""

    place: Path
    spans: int
    by_model: int
    at_once: int
    """Spans whose first summary passed."""
    old: int
    handed_over: int
    seconds: float
    """Of the processor."""


def fold(chat: Chat, summarizer: SpanSummarizer | None, folder: Path) -> Folded:
    recorded = Recorded(summarizer or NoSummarizer())
    place = folder / f"{chat.name}{' by model' if summarizer else ''}.db"
    with open_store(place) as store, ChatMemory(recorded, store, MANUAL) as memory:
        memory.append("chat", chat.messages)
        started = time.process_time()
        memory.fold("chat")
        seconds = time.process_time() - started
        report = memory.report("chat")
        spans = [one for one in memory.folds("chat") if one.level == 0]
    old = old_turns(chat.messages[: report.turns])
    at_once = sum(len(one.verdicts) == 1 and one.by == "model" for one in spans)
    return Folded(place, report.spans, report.by_model, at_once, len(old), handed(old, recorded.given), seconds)


@contextmanager
def ours(place: Path, counter: TokenCounter, embedder: Embedder | None = None) -> Iterator[Contexts]:
    with open_store(place, embedder=embedder) as store, ChatMemory(None, store, MANUAL, counter) as memory:
        store.tidy()

        @lru_cache(maxsize=1)
        def contexts(budget: int, question: str) -> Sequence[Message]:
            try:
                return memory.context("chat", budget, question)
            except BudgetError:  # the system's message and the newest one alone take more
                return []

        yield contexts


# Measuring

Measured = dict[str, dict[str, list[Found]]]
"""Of each system, for each column, what was found of each chat."""


class Run:
    """What all parts share, and what they found out."""

    def __init__(self, options: argparse.Namespace, folder: Path, pool: ProcessPoolExecutor) -> None:
        from tomtat.models.embedded import embedded_model

        self.options, self.folder = options, folder
        self.counter = HuggingFaceTokens.load(str(embedded_model()))
        self.counter.name = "SmolLM2's tokenizer"
        self.embedder = None if options.no_vectors else opened_embedder(options.minilm)
        self.pool = pool
        if options.run:
            pool.submit(try_run, options.run).result()
        self.best = VECTORS if self.embedder else OURS
        self.rows: dict[str, Row] = {name: {} for name in [*self.systems(), WHOLE]}
        self.figures: Row = {"quick": options.quick, "run": options.run, "noisy": []}
        self.folded: dict[str, Folded] = {}
        self.folding: dict[str, Future[Folded]] = {}
        self.plays: dict[tuple[str, str, bool], Callable[[int], Played]] = {}
        self.cuts: dict[str, list[bool]] = {}

    def fold(self, chat: Chat) -> Folded:
        if chat.name not in self.folded:
            self.folded[chat.name] = fold(chat, None, self.folder)
        return self.folded[chat.name]

    def begin_folding(self, chats: Sequence[Chat]) -> None:
        """By the model, in a process beside this one: each has a core."""
        import torch

        torch.set_num_threads(1)
        for chat in chats:
            future = self.folding[chat.name] = self.pool.submit(fold_by_run, chat, self.options.run, self.folder)
            future.add_done_callback(lambda _, name=chat.name: say(f"{name}: folded by {self.options.run}"))

    def folded_by_model(self, chat: Chat) -> Folded:
        return self.folding[chat.name].result()

    def play(self, name: str, chat: Chat, by_model: bool = False) -> Callable[[int], Played]:
        write = writer_of(summarizer_of(self.options.run)) if by_model else write_extract
        key = name, chat.name, by_model
        if key not in self.plays:

            @cache
            def played(budget: int) -> Played:
                found = play(PEERS[name](budget, write), chat.messages, budget, self.counter)
                self.cuts.setdefault(name, []).append(found.is_cut)
                return found

            self.plays[key] = played
        return self.plays[key]

    def systems(self) -> dict[str, System]:
        """Those that ask no model."""
        counter, embedder = self.counter, self.embedder
        found: dict[str, System] = {}
        if not (embedder and self.options.quick):
            found[OURS] = lambda chat: ours(self.fold(chat).place, counter)
        if embedder:
            found[VECTORS] = lambda chat: ours(self.fold(chat).place, counter, embedder)
        found[NEWEST] = lambda chat: nullcontext(newest_only(chat, counter))
        found[BM25] = lambda chat: nullcontext(bm25_alone(chat, counter))
        return found | {name: self.peer(name) for name in self.options.peers_there}

    def peer(self, name: str, by_model: bool = False) -> System:
        def contexts_of(chat: Chat) -> Contexts:
            played = self.play(name, chat, by_model)
            return lambda budget, question: played(budget).context

        return lambda chat: nullcontext(contexts_of(chat))

    def by_model(self, name: str) -> str:
        return f"{name}, {Path(self.options.run).name}"


def opened_embedder(is_asked: bool) -> Embedder | None:
    from tomtat.models.embedding import MiniLM

    try:
        return Remembered(MiniLM())
    except ModelError as error:
        if is_asked:
            raise
        say(f"Without vectors. {error}")
        return None


@cache
def summarizer_of(run: str) -> Any:
    import torch

    from tomtat import Summarizer

    torch.set_num_threads(1)  # all else is measured on the other core
    return Summarizer.load(run, device="cpu")


def try_run(run: str) -> None:
    summarizer_of(run)  # which can't be sent from process to process


def fold_by_run(chat: Chat, run: str, folder: Path) -> Folded:
    return fold(chat, summarizer_of(run), folder)


def measure(
    run: Run, what: str, chats: Sequence[Chat], systems: dict[str, System], shares: Sequence[int] = SHARES,
) -> Measured:  # fmt: skip
    """What is wanted and stands in the contexts of each size; of facts, where nothing was asked too."""
    measured: Measured = {name: {} for name in systems}
    for chat in chats:
        for name, system in systems.items():
            with system(chat) as contexts:
                for share in shares:
                    found = find(chat, contexts, budget_of(chat, share, run.counter), run.counter)
                    measured[name].setdefault(f"{what}_at_{share}", []).append(found)
                if what == "facts" and name != BM25:  # which says nothing unasked
                    found = find(chat, contexts, budget_of(chat, 10, run.counter), run.counter, is_asked=False)
                    measured[name].setdefault("facts_at_10_no_query", []).append(found)
        say(f"{chat.name}: {len(chat.probes)} questions, {what}")
    return measured


def note(run: Run, measured: Measured, kind: str, prefix: str = "") -> None:
    """Into the rows, all chats and those that nothing was chosen on."""
    for name, columns in measured.items():
        row = run.rows.setdefault(name, {})
        for column, found in columns.items():
            row[prefix + column] = percent(found)
            if kind in HELD_OUT and (held_out := percent(found, HELD_OUT[kind])) is not None:
                row[f"{prefix}{column}_held_out"] = held_out


def evidence(run: Run, kind: str, chats: Sequence[Chat]) -> None:
    prefix = "" if kind == "locomo" else f"{kind}_"
    note(run, measure(run, "evidence", chats, run.systems()), kind, prefix)
    tell_of(run, kind, chats)
    for share in SHARES:
        run.rows[WHOLE][f"{prefix}evidence_at_{share}"] = 100.0


def facts(run: Run, chats: Sequence[Chat]) -> None:
    note(run, measure(run, "facts", chats, run.systems()), "long")
    tell_of(run, "long", chats)
    run.rows[WHOLE] |= {f"facts_at_{share}": 100.0 for share in SHARES} | {"facts_at_10_no_query": 100.0}
    for name in {OURS, VECTORS} & set(run.systems()):
        reading(run.rows[name], [run.fold(chat) for chat in chats])
        run.rows[name]["handed_over_at_once"] = run.rows[name]["handed_over"]  # for so it was folded
    for name in run.options.peers_there:
        budgets = [budget_of(chat, 10, run.counter) for chat in chats]
        reading(run.rows[name], [run.play(name, chat)(budget) for chat, budget in zip(chats, budgets, strict=True)])
        at_once = [
            play(PEERS[name](budget, write_extract), chat.messages, budget, run.counter, at_once=True)
            for chat, budget in zip(chats, budgets, strict=True)
        ]
        run.rows[name]["handed_over_at_once"] = share_handed(at_once)


def reading(row: Row, parts: Sequence[Folded | Played]) -> None:
    """What summarizers were given of what only summaries stand for, and what that cost."""
    row["handed_over"] = share_handed(parts)
    row["cpu_seconds_per_turn"] = round(sum(part.seconds for part in parts) / sum(part.old for part in parts), 4)


def share_handed(parts: Sequence[Folded | Played]) -> float:
    return round(100 * sum(part.handed_over for part in parts) / sum(part.old for part in parts), 1)


def tell_of(run: Run, kind: str, chats: Sequence[Chat]) -> None:
    tokens = [run.counter.total(chat.messages) for chat in chats]
    run.figures[f"{kind}_tokens"] = round(sum(tokens) / len(tokens))
    run.figures[f"{kind}_wanted"] = sum(len(probe.wanted) for chat in chats for probe in chat.probes)
    run.figures[f"{kind}_questions"] = sum(len(chat.probes) for chat in chats)


# Fifty compactions


def outlived(run: Run, chat: Chat, others: Sequence[Message]) -> tuple[Path, list[Message], int]:
    """The chat and so much of the others behind it that 50 spans beyond it are folded: where it is stored, all
    messages, and how many such spans there are."""
    place = run.folder / f"{chat.name}, outlived.db"
    history = [*chat.messages, *others]
    spans = 0
    with open_store(place) as store, ChatMemory(None, store, MANUAL) as memory:
        for start in range(0, len(history), STEP):
            memory.append("chat", history[start : start + STEP])
            if memory.fold("chat") and start >= len(chat.messages):
                spans = sum(one.level == 0 and one.span.first > len(chat.messages) for one in memory.folds("chat"))
            if spans >= ROUNDS:
                break
    return place, history[: start + STEP], spans


def without_id(message: Message) -> Message:
    """Chats number their messages alike."""
    return {name: value for name, value in message.items() if name != "id"}


def rounds(run: Run, chats: Sequence[Chat]) -> None:
    measured: Measured = {name: {} for name in run.systems()}
    reached: dict[str, list[int]] = {}
    for number, chat in enumerate(chats):
        following = [*chats[number + 1 :], *chats[:number]]
        spoken = [one for other in following for one in other.messages if one["role"] not in PINNED_ROLES]
        others = [without_id(message) for message in spoken]
        budget = budget_of(chat, 10, run.counter)
        place, history, spans = outlived(run, chat, others)
        longer = Chat(chat.name, history, chat.probes)
        reached.setdefault(run.best, []).append(spans)
        systems: dict[str, Any] = {
            OURS: ours(place, run.counter),
            VECTORS: ours(place, run.counter, run.embedder),  # opened only where it is measured
            NEWEST: nullcontext(newest_only(longer, run.counter)),
            BM25: nullcontext(bm25_alone(longer, run.counter)),
        }
        for name in run.options.peers_there:
            peer = PEERS[name](budget, write_extract)
            played = play(peer, [*chat.messages, *others], budget, run.counter, own=len(chat.messages))
            reached.setdefault(name, []).append(played.rounds)
            systems[name] = nullcontext(lambda budget, question, context=played.context: context)
        for name, columns in measured.items():
            with systems[name] as contexts:
                columns.setdefault("rounds_50", []).append(find(longer, contexts, budget, run.counter))
                if name in (OURS, VECTORS, BM25):
                    whole = budget_of(longer, 10, run.counter)
                    columns.setdefault("rounds_50_of_whole", []).append(find(longer, contexts, whole, run.counter))
        say(f"{chat.name}: {len(history)} turns, {spans} spans after it, {len(chat.probes)} questions, rounds_50")
    note(run, measured, "long")
    run.rows[WHOLE]["rounds_50"] = 100.0
    run.figures["fewest_rounds"] = {name: min(counts) for name, counts in reached.items()}


# With a model


def with_model(run: Run, chosen: Sequence[Chat], locomo: Sequence[Chat]) -> None:
    """What a run's summaries change. The others' are only written by it in the long run: each takes minutes a chat."""
    row = run.by_model("tomtat")
    own: System = lambda chat: ours(run.folded_by_model(chat).place, run.counter, run.embedder)  # noqa: E731
    note(run, measure(run, "facts", chosen, {row: own}), "long")
    folded = [run.folded_by_model(chat) for chat in chosen]
    reading(run.rows[row], folded)
    spans = sum(one.spans for one in folded)
    run.rows[row]["model_summary_share"] = round(100 * sum(one.by_model for one in folded) / spans, 1)
    run.rows[row]["first_summary_share"] = round(100 * sum(one.at_once for one in folded) / spans, 1)
    run.figures["folded_by_model"] = [chat.name for chat in chosen]
    same = measure(run, "facts", chosen, {run.best: run.systems()[run.best]}, shares=[10])[run.best]
    run.figures["same_chats_no_model"] = {column: percent(found) for column, found in same.items()}
    if run.options.quick:
        return
    note(run, measure(run, "evidence", locomo, {row: own}), "locomo")
    for name in run.options.peers_there:
        its = run.by_model(name)
        note(run, measure(run, "facts", chosen, {its: run.peer(name, by_model=True)}, shares=[10]), "long")
        plays = [run.play(name, chat, by_model=True)(budget_of(chat, 10, run.counter)) for chat in chosen]
        reading(run.rows[its], plays)


# Time


class Watched:
    """A store that notes how many hits were asked for."""

    def __init__(self, store: Store) -> None:
        self._store, self.limit = store, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def search(self, query: str, *, limit: int, **where: Any) -> Any:
        self.limit = limit
        return self._store.search(query, limit=limit, **where)


def latency(run: Run, chats: Sequence[Chat]) -> None:
    questions = [probe.question for chat in chats for probe in chat.probes]
    random.Random(0).shuffle(questions)
    history = varied([message for chat in chats for message in chat.messages])
    with open_store(run.folder / "latency.db") as store:
        fill(store, "chat", [next(history) for _ in range(LONG)])
        with ChatMemory(None, store, MANUAL) as memory:
            memory.fold("chat")
        say(f"{LONG:,} turns filled and folded")
        ratios = {}
        for key, counter in (("estimate", EstimatedTokens()), ("smollm2", run.counter)):
            times = composing(store, counter, history, questions, 150 if run.options.quick else 2000)
            show(f"A context of {BUDGET:,} tokens from {LONG:,} turns, counted by {counter.name}", times, BARE)
            medians = {name: p(taken, 50) for name, taken in times.items()}
            run.figures[f"context_p50_{key}"] = round(medians[COMPOSE] / medians[BARE], 2)
            ratios[key] = over(times, COMPOSE, BARE)
            run.figures[f"context_p99_{key}"] = ratios[key]
            run.figures["noisy"] += [f"context_p99_{key}"] * is_noisy(times[BARE])
            say(f"{len(times[BARE])} contexts, {key}")
    run.rows[run.best]["context_p99"] = max(ratios.values())


def composing(
    store: Any, counter: TokenCounter, history: Iterator[Message], questions: Sequence[str], rounds: int
) -> Times:
    """Contexts, and the store alone doing what each of them took; in front in turn, each right after an append."""
    watched = Watched(store)
    with ChatMemory(None, watched, MANUAL, counter) as memory:  # type: ignore[arg-type]
        taken = {name: np.zeros(rounds) for name in (BARE, COMPOSE)}
        newest = len(memory.compose("chat", BUDGET, questions[0]).newest)
        for number in range(rounds):
            question = questions[number % len(questions)]
            for name in (BARE, COMPOSE) if number % 2 else (COMPOSE, BARE):
                store.append("chat", [next(history)])
                started = time.perf_counter()
                if name == COMPOSE:
                    composed = memory.compose("chat", BUDGET, question)
                else:
                    store.history("chat", newest=newest)
                    store.search(question, conversation="chat", limit=watched.limit)
                taken[name][number] = (time.perf_counter() - started) * 1000
            newest = len(composed.newest)
            if number % FOLD_EVERY == 0:
                memory.fold("chat")  # what the background does while nobody waits
    return taken


def varied(messages: Sequence[Message]) -> Iterator[Message]:
    """The same turns over and over, each with another number."""
    chance = random.Random(0)
    while True:
        for message in messages:
            yield {**message, "content": f"{message['content']} ({chance.randrange(1000, 100_000)})"}


def headline(run: Run) -> Row:
    """Ours, at its best: with vectors where there are any, and of the run what it was measured on."""
    row = dict(run.rows[run.best])
    if run.options.run:
        by_model = run.rows[run.by_model("tomtat")]
        row |= by_model if not run.options.quick else {
            name: by_model[name] for name in ("model_summary_share", "cpu_seconds_per_turn", "handed_over")
        }  # fmt: skip
    return {"model_summary_share": None} | row


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--locomo", type=Path, default=LOCOMO)
    parser.add_argument("--beam", type=Path)
    parser.add_argument("--conversations", type=Path, help="others of LoCoMo's format")
    parser.add_argument("--long", type=Path, help="other long conversations with facts than the bundled ones")
    parser.add_argument("--run", help="a run folder whose model folds")
    parser.add_argument("--quick", action="store_true")
    vectors = parser.add_mutually_exclusive_group()
    vectors.add_argument("--minilm", action="store_true", help="vectors are a must; else they are taken if there")
    vectors.add_argument("--no-vectors", action="store_true")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where LangChain and LangMem are installed")
    parser.add_argument("--picture", type=Path, metavar="curve.png")
    options = parser.parse_args()
    for path in (options.locomo, options.beam, options.conversations, options.long, options.run, options.peers):
        if path is not None and not Path(path).exists():
            refuse(f"{path} is not there")
    if options.peers:
        sys.path.append(str(options.peers))  # behind ours: what both need is the environment's own
    options.peers_there = [name for name, module in MODULES.items() if is_there(module)]
    return options


def is_there(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def refuse(message: object) -> NoReturn:
    print(f"memory.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))  # a fork could hang where torch has threads


def main() -> None:
    options = parse()
    warnings.filterwarnings("ignore", module="langmem")  # what it says of turns that are longer than a budget
    load = f"{os.getloadavg()[0]:.1f} of {os.cpu_count()} processors were busy in the minute before"
    print(f"Chat memory, tokens by SmolLM2's tokenizer. {load}", flush=True)
    sets = {"locomo": evidence_chats("locomo", options.locomo, read_locomo)}
    if options.beam and not options.quick:
        sets["beam"] = evidence_chats("beam", options.beam, read_beam)
    if options.conversations:
        sets["others"] = evidence_chats("others", options.conversations, read_locomo)
    long = fact_chats(options.long or files("tomtat.data") / "chats" / "long.jsonl")
    with tempfile.TemporaryDirectory(prefix="memory-") as folder, one_process() as pool:
        run = Run(options, Path(folder), pool)
        latency(run, sets["locomo"])
        chosen = [chat for chat in long if not options.quick or chat.name in QUICK_FOLDED] or long[:2]
        if options.run:
            run.begin_folding([*chosen, *([] if options.quick else sets["locomo"])])
        for kind, chats in sets.items():
            evidence(run, kind, chats)
        facts(run, long)
        rounds(run, long)
        if options.run:
            with_model(run, chosen, sets["locomo"])
    show_all(run, [*sets, "long"])
    if options.picture:
        draw(run, options.picture)
    print(json.dumps({**run.figures, **headline(run), "table": run.rows}))


if __name__ == "__main__":
    try:
        main()
    except TomtatError as error:
        refuse(error)
