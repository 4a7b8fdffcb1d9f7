"""Folding: every turn read once, every summary judged, nothing lost whatever happens meanwhile."""

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memory_fakes import MANUAL, FakeSummarizer, calls, first_sentence, random_chat, result, talk, user
from store_subjects import SqliteSubject
from tomtat.config import MemorySettings
from tomtat.errors import StoreError
from tomtat.memory import ChatMemory, Fold
from tomtat.memory.folding import BATCH
from tomtat.memory.framing import said
from tomtat.memory.turns import LONGEST_WAIT
from tomtat.store import Conflict, Span, SqlStore, open_store
from tomtat.types import Generation


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with open_store(tmp_path / "store.db") as opened:
        yield opened


def folded(store: SqlStore, summarizer: FakeSummarizer, messages: list[dict[str, Any]]) -> ChatMemory:
    memory = ChatMemory(summarizer, store, MANUAL)
    memory.append("chat", messages)
    memory.fold("chat")
    return memory


def spans(memory: ChatMemory, level: int = 0) -> list[Fold]:
    return [fold for fold in memory.folds("chat") if fold.level == level]


# -- spans and levels


@pytest.mark.parametrize("seed", range(8))
def test_each_turn_is_in_one_span_and_read_whole_exactly_once(seed: int, store: SqlStore) -> None:
    messages = random_chat(random.Random(seed), 120)
    summarizer = FakeSummarizer()
    memory = folded(store, summarizer, messages)

    places = [n for fold in spans(memory) for n in range(fold.span.first, fold.span.last + 1)]
    assert places == list(range(1, memory.report("chat").turns + 1))
    assert memory.report("chat").waiting < 40
    # What is refused is read again; each span's first reading is what counts.
    first_reading = "\n".join(summarizer.read)
    for place in places:
        message = messages[place - 1]
        is_pinned = message["role"] in ("system", "developer") or message.get("pinned")
        assert is_pinned or said(message) in first_reading


def test_a_span_is_what_the_summarizer_reads_in_one_piece(store: SqlStore) -> None:
    summarizer = FakeSummarizer(max_source_tokens=100)
    memory = folded(store, summarizer, talk(300))

    sizes = [summarizer.count_tokens(text) for text in summarizer.read]
    assert max(sizes) <= 100
    assert memory.report("chat").spans <= 300 / (spans(memory)[0].span.last - 1)


def test_spans_are_never_cut_between_a_call_and_its_results(store: SqlStore) -> None:
    messages = []
    for n in range(60):
        messages += [
            user(f"Look up number {n} for me, please."),
            calls(f"a{n}", f"b{n}"),
            result(f"a{n}"),
            result(f"b{n}"),
        ]
    memory = folded(store, FakeSummarizer(max_source_tokens=30), messages)

    roles = [messages[fold.span.first - 1]["role"] for fold in spans(memory)]
    assert len(roles) > 20
    assert "tool" not in roles


def test_a_call_without_its_results_keeps_its_span_open(store: SqlStore) -> None:
    memory = folded(store, FakeSummarizer(), [*talk(30), calls("a")])
    assert memory.report("chat").turns < 31

    memory.append("chat", [result("a", "in the cellar " * 60), *talk(10)])
    memory.fold("chat")

    [around] = [fold for fold in spans(memory) if fold.span.first <= 31 <= fold.span.last]
    assert around.span.last >= 32


def late_chat(wait: int) -> list[dict[str, Any]]:
    """A call whose result comes `wait` turns later, with more than a span of talk between and after."""
    between = talk(wait - 1, seed=1)
    return [*talk(12), calls("a"), *between, result("a", "It is in the cellar."), *talk(3 * LONGEST_WAIT, seed=2)]


@pytest.mark.parametrize("wait", [2, 5, 12, LONGEST_WAIT])
def test_a_call_that_is_answered_late_stays_with_its_result_however_it_is_folded(wait: int, store: SqlStore) -> None:
    messages = late_chat(wait)
    at_once = folded(store, FakeSummarizer(), messages)
    [around] = [fold for fold in spans(at_once) if fold.span.first <= 13 <= fold.span.last]
    stepwise = ChatMemory(FakeSummarizer(), store, MANUAL)
    for message in messages:
        stepwise.append("steps", [message])
        stepwise.fold("steps")

    assert around.span.last >= 13 + wait
    assert [fold.span for fold in stepwise.folds("steps")] == [fold.span for fold in at_once.folds("chat")]


def test_many_calls_of_one_turn_stay_with_all_their_results(store: SqlStore) -> None:
    ids = [f"call-{n}" for n in range(5 * LONGEST_WAIT)]
    memory = folded(store, FakeSummarizer(), [*talk(12), calls(*ids), *map(result, ids), *talk(30)])

    assert any(fold.span.first <= 13 and fold.span.last >= 13 + len(ids) for fold in spans(memory))


def test_a_call_that_nobody_answers_keeps_its_span_open_for_a_while_only(store: SqlStore) -> None:
    messages = late_chat(LONGEST_WAIT + 1)
    at_once = folded(store, FakeSummarizer(), messages)
    waited = []
    stepwise = ChatMemory(FakeSummarizer(), store, MANUAL)
    for message in messages:
        stepwise.append("steps", [message])
        stepwise.fold("steps")
        waited.append(stepwise.report("steps").waiting)

    assert LONGEST_WAIT <= max(waited) < LONGEST_WAIT + 12
    assert [fold.span for fold in stepwise.folds("steps")] == [fold.span for fold in at_once.folds("chat")]


def test_calls_of_the_older_form_are_in_ledgers_summaries_and_searches(store: SqlStore) -> None:
    summarizer = FakeSummarizer()
    call = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "find_order", "arguments": '{"id": "LM-48213"}'},
    }
    memory = folded(
        store, summarizer, [*talk(4), call, {"role": "function", "name": "find_order", "content": "shipped"}, *talk(30)]
    )

    assert said(call) == '[find_order {"id": "LM-48213"}]'
    assert said(call) in "\n".join(summarizer.read)
    assert "LM-48213" in [entry.text for fold in spans(memory) for entry in fold.ledger]
    assert memory.search("chat", "LM-48213")[0].turn.seq == 5


def test_a_turn_longer_than_one_reading_is_handed_over_whole(store: SqlStore) -> None:
    giant = "The violin is in the attic. " * 300
    summarizer = FakeSummarizer()
    folded(store, summarizer, [*talk(20), user(giant), *talk(20)])

    assert any(giant.strip() in text for text in summarizer.read)


def test_summaries_of_summaries_bound_the_depth(store: SqlStore) -> None:
    memory = folded(store, FakeSummarizer(), talk(1200))

    report = memory.report("chat")
    assert report.spans > 300
    assert 3 <= report.levels <= 6
    for fold in memory.folds("chat"):
        below = [one for one in spans(memory, fold.level - 1) if fold.span.first <= one.span.first <= fold.span.last]
        if fold.level:
            assert (below[0].span.first, below[-1].span.last) == (fold.span.first, fold.span.last)
            assert 2 <= len(below) <= 8


def test_higher_levels_are_made_from_summaries_not_from_turns(store: SqlStore) -> None:
    summarizer = FakeSummarizer()
    memory = folded(store, summarizer, talk(200))

    for fold in spans(memory, 1):
        below = [one.text for one in spans(memory) if fold.span.first <= one.span.first <= fold.span.last]
        assert "\n".join(below) in summarizer.read


def test_folding_in_steps_gives_what_folding_at_once_gives(store: SqlStore) -> None:
    messages = random_chat(random.Random(4), 150)
    at_once = folded(store, FakeSummarizer(), messages)
    stepwise = ChatMemory(FakeSummarizer(), store, MANUAL)
    for n in range(0, 150, 7):
        stepwise.append("steps", messages[n : n + 7])
        stepwise.fold("steps", limit=1 + n % 3)
    stepwise.fold("steps")

    def told(memory: ChatMemory, name: str) -> list[Any]:
        return [(fold.span, fold.level, fold.text) for fold in memory.folds(name)]

    # A call whose results came in a later append may have kept a span open: so what is equal is told up to there.
    assert [one for one in told(stepwise, "steps") if one[1] == 0] == [
        one for one in told(at_once, "chat") if one[1] == 0
    ]


def test_links_lead_both_ways_between_a_summary_and_its_turns(store: SqlStore) -> None:
    memory = folded(store, FakeSummarizer(), talk(200))

    for fold in memory.folds("chat"):
        for line in fold.lines:
            assert fold.span.first <= line.first <= line.last <= fold.span.last
        covering = store.derived("chat", kind=f"fold-{fold.level}", covering=fold.span.first)
        assert [row.span for row in covering] == [fold.span]


def test_a_ledger_keeps_exact_strings_with_their_turn(store: SqlStore) -> None:
    exact = ["LM-48213", "54.90 EUR", "21 June", "/etc/hosts", "https://shop.example/x?a=1", "Filipa Nogueira", "14:40"]
    messages = [user(f"Please write down {text} for me, I need it.") for text in exact]
    memory = folded(store, FakeSummarizer(), [*messages, *talk(40)])

    held = {
        (entry.turn, text) for fold in spans(memory) for entry in fold.ledger for text in exact if text in entry.clause
    }
    assert held >= {(n, text) for n, text in enumerate(exact, start=1)}
    for fold in spans(memory):
        for entry in fold.ledger:
            assert entry.text in said(store.history("chat", first=entry.turn, last=entry.turn)[0].message)


# -- the gate


def cut(source: str) -> Generation:
    return Generation(first_sentence(source), 10, 10, "length")


BAD: dict[str, Callable[[str], Generation | str]] = {
    "empty": lambda source: "",
    "blank": lambda source: " \n ",
    "an error": lambda source: "Error: 503 upstream connect error, reset before headers.",
    "an apology": lambda source: "I'm sorry, but as an AI language model I can't help with that request.",
    "a placeholder": lambda source: "[summary of the previous conversation omitted]",
    "not shorter": lambda source: source,
    "cut": cut,
    "another language": lambda source: "Người dùng nói về cái đèn và cái thang trong hầm rượu ở ngoài vườn.",
    "a loop": lambda source: first_sentence(source) + " and went and went and went and went and went and went and went",
    "the same sentence twice": lambda source: f"{first_sentence(source)}. {first_sentence(source)}.",
    "a foreign number": lambda source: first_sentence(source).rstrip(".") + " 98765.",
    "a foreign name": lambda source: first_sentence(source).rstrip(".") + " with Gwendolyn.",
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_summary_never_stands_for_turns(kind: str, store: SqlStore) -> None:
    memory = folded(store, FakeSummarizer(BAD[kind], BAD[kind]), talk(120))
    assert memory.report("chat").model_share == 0
    for fold in spans(memory):
        assert fold.by == "extract"
        assert fold.text
        assert fold.text not in [verdict.text for verdict in fold.verdicts if not verdict.passed]
        assert not fold.verdicts[0].passed
    shown = str(memory.context("chat", 600))
    assert "Error" not in shown
    assert "[summary" not in shown
    assert "98765" not in shown


def test_a_refused_span_is_tried_in_halves_then_drawn_then_extracted(store: SqlStore) -> None:
    def only_halves(source: str) -> str:
        return first_sentence(source) if source.count("\n") < 2 else ""

    chat = [user(f"Please keep the {n} in the cellar for me.") for n in range(1000, 1060)]
    halves = spans(folded(store, FakeSummarizer(only_halves, max_source_tokens=60), chat))[0]
    assert [verdict.how for verdict in halves.verdicts] == ["whole", "smaller", "smaller"]
    assert len(halves.lines) == 2
    assert halves.lines[0].last + 1 == halves.lines[1].first
    assert halves.by == "model"


def test_drawn_summaries_come_before_the_extract_and_are_judged_too(store: SqlStore) -> None:
    summarizer = FakeSummarizer(lambda source: "", first_sentence)
    memory = folded(
        store,
        summarizer,
        [user(f"Please keep the {thing} in the cellar for me until then.") for thing in "abcdefghij" * 6],
    )

    fold = spans(memory)[0]
    assert {line.by for line in fold.lines} == {"model"}
    assert [verdict.how for verdict in fold.verdicts if verdict.passed] == ["drawn", "drawn"]
    assert memory.report("chat").model_share == 1


def test_every_verdict_is_kept_with_its_reasons(store: SqlStore) -> None:
    memory = folded(store, FakeSummarizer(BAD["a foreign number"]), talk(60))

    verdicts = [verdict for fold in memory.folds("chat") for verdict in fold.verdicts]
    assert {verdict.how for verdict in verdicts} >= {"whole", "smaller", "extract"}
    refused = [verdict for verdict in verdicts if verdict.how != "extract"]
    assert all("number from nowhere: 98765" in verdict.reasons for verdict in refused if len(verdict.text) > 20)
    assert sum("number from nowhere: 98765" in verdict.reasons for verdict in refused) > 30
    with open_store(store._db.engine.url.database) as other:
        again = ChatMemory(None, other, MANUAL)
        assert [v for fold in again.folds("chat") for v in fold.verdicts] == verdicts


def test_a_vietnamese_chat_is_not_told_in_english(store: SqlStore) -> None:
    chat = [user(f"Chị ơi, em muốn đặt {n} cái bánh mì cho ngày mai, giao trước 7 giờ nhé.") for n in range(40)]
    memory = folded(store, FakeSummarizer(lambda source: "The user wants bread for tomorrow."), chat)

    assert all("bánh mì" in fold.text for fold in spans(memory))


# -- what may happen meanwhile


def reimported(store: SqlStore, messages: list[dict[str, Any]]) -> None:
    """The conversation erased by somebody, and other turns of the same times in its place."""
    head, branch, *turns = [row for row in store.export(conversation="chat") if "span" not in row]
    store.erase(conversation="chat")
    store.import_([head, branch, *({**row, "message": new} for row, new in zip(turns, messages, strict=False))])


def test_a_conversation_imported_anew_with_the_same_times_is_not_told_by_the_old_folds(store: SqlStore) -> None:
    memory = folded(store, FakeSummarizer(), talk(100))
    assert "crowns" in str(memory.context("chat", 500))

    reimported(store, [user(f"Something else entirely, {n}.") for n in range(100)])

    assert "crowns" not in str(memory.context("chat", 500, "how many crowns?"))
    assert memory.report("chat").spans == 0


@pytest.mark.parametrize("left", [3, 100])
def test_what_was_folded_while_a_conversation_was_imported_anew_is_kept_nowhere(left: int, store: SqlStore) -> None:
    done = []

    def import_meanwhile(source: str) -> str:
        if not done:
            done.append(source)
            reimported(store, [user(f"Something else entirely, {n}.") for n in range(left)])
        return first_sentence(source)

    memory = ChatMemory(FakeSummarizer(import_meanwhile), store, MANUAL)
    memory.append("chat", talk(100))
    assert memory.fold("chat") == 0

    assert store.derived("chat") == []
    memory.fold("chat")
    assert "crowns" not in str(store.derived("chat"))


def test_which_of_two_folds_counts_hangs_on_no_clock(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ChatMemory(FakeSummarizer(), store, MANUAL)
    first.append("chat", talk(100))
    first.fold("chat")
    before = [(fold.span, fold.text) for fold in first.folds("chat")]
    monkeypatch.setattr("tomtat.store.deriving.time.time", lambda: 1.0)  # another writer, whose clock is late

    value = store.derived("chat", kind="fold-0")[0].value
    with pytest.raises(Conflict):
        store.attach("chat", Span(1, 2), "fold-0", value, alone=True)
    store.attach("chat", Span(1, 2), "fold-0", value)  # as from a branch that shares the first turns only

    after = ChatMemory(FakeSummarizer(), store, MANUAL)
    assert [(fold.span, fold.text) for fold in after.folds("chat")] == before


def test_a_long_chat_lets_others_go_first_now_and_then_and_closing_waits_for_a_few_spans(store: SqlStore) -> None:
    go_on, reads = threading.Event(), []

    def slow(source: str) -> str:
        reads.append("short" if "parrot" in source else "long")
        go_on.wait(20)
        return first_sentence(source)

    memory = ChatMemory(FakeSummarizer(slow), store, MemorySettings(background=True, small_share=0.15))
    memory.append("long", talk(1500))
    memory.append("short", [user(f"The parrot {n} is in the chapel with the lamp.") for n in range(30)])
    go_on.set()
    deadline = time.monotonic() + 30
    while "short" not in reads and time.monotonic() < deadline:
        time.sleep(0.001)
    memory.close()

    assert reads.index("short") < 3 * BATCH
    assert 0 < memory.report("long").spans < 100
    assert memory.report("short").spans > 0


# -- after a repair


@pytest.mark.parametrize("count", [60, 400])
@pytest.mark.parametrize("damaged", [1, 20, 40])
def test_folding_goes_on_over_turns_that_a_repair_set_aside(count: int, damaged: int, tmp_path: Path) -> None:
    place = str(tmp_path / "store.db")
    with open_store(place) as store:
        store.append("chat", talk(count))
        store.tidy()
    SqliteSubject().damage(place, "chat", damaged)
    with open_store(place) as store:
        store.check(repair=True)
        memory = ChatMemory(FakeSummarizer(), store, MANUAL)
        for _ in range(3):
            memory.fold("chat", limit=4)
        memory.fold("chat")

        ends = [0, *(fold.span.last for fold in spans(memory))]
        assert [fold.span.first for fold in spans(memory)] == [end + 1 for end in ends[:-1]]
        assert memory.report("chat").waiting < 10
        assert memory.fold("chat") == 0
        assert memory.context("chat", 300)


def test_summaries_of_summaries_go_over_a_turn_that_was_set_aside_after_it_was_folded(tmp_path: Path) -> None:
    place = str(tmp_path / "store.db")
    with open_store(place) as store:
        memory = ChatMemory(FakeSummarizer(), store, MANUAL)
        memory.append("chat", talk(400))
        memory.fold("chat", limit=2)
        end = spans(memory)[-1].span.last
        store.tidy()
    SqliteSubject().damage(place, "chat", end)
    with open_store(place) as store:
        store.check(repair=True)
        memory = ChatMemory(FakeSummarizer(), store, MANUAL)
        memory.fold("chat")

        assert memory.report("chat").levels > 2
        assert memory.report("chat").waiting < 10


def test_what_is_written_during_a_compaction_is_kept(store: SqlStore) -> None:
    """openai/openai-agents-python#4679: there it was deleted."""
    memory: ChatMemory

    def write_meanwhile(source: str) -> str:
        memory.append("chat", [user(f"Said meanwhile, number {len(memory.history('chat'))}.")])
        return first_sentence(source)

    memory = ChatMemory(FakeSummarizer(write_meanwhile), store, MANUAL)
    messages = talk(100)
    memory.append("chat", messages)
    memory.fold("chat")

    kept = [turn.message for turn in memory.history("chat")]
    assert kept[:100] == messages
    assert len(kept) > 110
    assert all(f"number {n}." in kept[n]["content"] for n in range(100, len(kept)))


def test_an_erased_conversation_is_not_folded_into_one_of_the_same_name(store: SqlStore) -> None:
    memory: ChatMemory

    def erase_meanwhile(source: str) -> str:
        if "number 1000" in source:
            memory.erase("chat")
            memory.append("chat", [user(f"Something else entirely, {n}.") for n in range(100)])
        return first_sentence(source)

    memory = ChatMemory(FakeSummarizer(erase_meanwhile), store, MANUAL)
    memory.append("chat", talk(100))
    memory.fold("chat")
    memory.fold("chat")

    assert memory.report("chat").turns > 80
    assert "crowns" not in str([fold.to_json() for fold in memory.folds("chat")])
    assert "crowns" not in str(store.derived("chat"))


def test_the_background_folds_ahead_and_a_context_waits_for_no_model(store: SqlStore) -> None:
    go_on = threading.Event()

    def slow(source: str) -> str:
        go_on.wait(20)
        return first_sentence(source)

    with ChatMemory(FakeSummarizer(slow), store, MemorySettings(background=True, small_share=0.15)) as memory:
        memory.append("chat", talk(100))
        began = time.monotonic()
        assert memory.context("chat", 500)
        assert time.monotonic() - began < 10
        assert memory.report("chat").spans == 0
        go_on.set()
        assert memory.wait(60)
        assert memory.report("chat").waiting < 10
        assert memory.context("chat", 500)[0]["content"].startswith("<memory")


def test_a_failing_summarizer_loses_nothing_and_is_tried_again(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomtat.memory.worker.FIRST_PAUSE", 0.01)
    failures = [0]

    def fails_twice(source: str) -> str:
        failures[0] += 1
        if failures[0] < 3:
            raise RuntimeError("out of memory")
        return first_sentence(source)

    with ChatMemory(FakeSummarizer(fails_twice), store, MemorySettings(background=True, small_share=0.15)) as memory:
        memory.append("chat", talk(100))
        deadline = time.monotonic() + 30
        while memory.report("chat").waiting > 10 and time.monotonic() < deadline:
            time.sleep(0.01)

        assert memory.report("chat").waiting <= 10
        assert [turn.message for turn in memory.history("chat")] == talk(100)


WORKER = """
import sys, time
sys.path.insert(0, {tests!r})
from memory_fakes import MANUAL, FakeSummarizer, first_sentence
from tomtat.memory import ChatMemory
from tomtat.store import open_store
pause, size = float(sys.argv[2]), int(sys.argv[3])
def slowly(source):
    time.sleep(pause)
    return first_sentence(source)
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    ChatMemory(FakeSummarizer(slowly, max_source_tokens=size), store, MANUAL).fold("chat")
"""


def start_folding(path: Path, pause: float = 0.0, size: int = 60) -> subprocess.Popen[str]:
    code = WORKER.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(pause), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize("sizes", [(60, 60), (60, 90)])
def test_two_processes_that_fold_one_conversation_end_with_one_result(sizes: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(path) as store:
        ChatMemory(None, store, MANUAL).append("chat", talk(200))
    both = [start_folding(path, 0.002, size) for size in sizes]
    for process in both:
        go(process)
    assert [process.wait(60) for process in both] == [0, 0]

    seen = []
    for _ in both:
        with open_store(path) as store:
            memory = ChatMemory(FakeSummarizer(), store, MANUAL)
            seen.append(
                ([(fold.span, fold.level, fold.text) for fold in memory.folds("chat")], memory.context("chat", 700))
            )
            places = [n for fold in spans(memory) for n in range(fold.span.first, fold.span.last + 1)]
            assert places == list(range(1, memory.report("chat").turns + 1))
            assert memory.report("chat").waiting < 15
    assert seen[0] == seen[1]


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_fold_goes_on_where_it_was_and_loses_no_turn(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with open_store(path) as store:
        ChatMemory(None, store, MANUAL).append("chat", talk(200))
    process = start_folding(path, pause=0.005)
    go(process)
    time.sleep(random.Random(seed).uniform(0.05, 0.3))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    with open_store(path) as store:
        memory = ChatMemory(FakeSummarizer(), store, MANUAL)
        before = spans(memory)
        memory.fold("chat")
        assert [turn.message for turn in memory.history("chat")] == talk(200)
        assert spans(memory)[: len(before)] == before
        assert memory.report("chat").waiting < 10
        assert store.check().is_sound


def test_folding_on_a_full_disk_is_told_and_goes_on_when_there_is_room(store: SqlStore, tmp_path: Path) -> None:
    memory = ChatMemory(FakeSummarizer(), store, MANUAL)
    memory.append("chat", talk(600))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 60_000, hard))
    try:
        with pytest.raises(StoreError):
            memory.fold("chat")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    before = spans(memory)

    memory.fold("chat")

    assert 0 < len(before) < len(spans(memory))
    assert spans(memory)[: len(before)] == before
    assert memory.report("chat").waiting < 10
    assert [turn.message for turn in memory.history("chat")] == talk(600)


def test_a_chat_that_grows_turn_by_turn_is_read_again_only_where_a_span_may_close(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    history = store.history
    monkeypatch.setattr(store, "history", lambda *a, **k: read.append(len(found := history(*a, **k))) or found)
    wide = FakeSummarizer(first_sentence, max_source_tokens=400)
    folds, turns_read = [], []
    with ChatMemory(wide, store, MANUAL) as memory:
        for name, fold in (("watched", memory._fold_some), ("always", lambda name, branch: memory.fold(name))):
            read.clear()
            for number, turn in enumerate(talk(200)):
                memory.append(name, [turn], after=number)
                fold(name, 0)
            folds.append([(fold.level, fold.span) for fold in memory.folds(name)])
            turns_read.append(sum(read))

        assert folds[0] == folds[1]
        assert len(folds[0]) > 3
        assert turns_read[0] < turns_read[1] / 2


@pytest.mark.parametrize("ends", [True, False])
def test_folding_lets_others_go_first_but_not_for_ever(
    store: SqlStore, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomtat.memory.worker.GIVES_WAY_SECONDS", 60.0 if ends else 0.05)
    are_busy, looked = threading.Event(), threading.Event()
    are_busy.set()

    def others_are_busy() -> bool:
        looked.set()
        return are_busy.is_set()

    with ChatMemory(FakeSummarizer(), store, others_are_busy=others_are_busy) as memory:
        memory.append("c", talk(60))
        assert looked.wait(30)
        if ends:
            assert not memory.wait(0.1)
            assert memory.folds("c") == []
            are_busy.clear()
        assert memory.wait(30)
        assert memory.folds("c") != []
