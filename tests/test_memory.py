"""Contexts: what is in them, in which order, within which budget, and what stays the same from turn to turn."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memory_fakes import MANUAL, FakeSummarizer, assistant, calls, random_chat, result, talk, user
from tomtat.config import MemorySettings
from tomtat.errors import BudgetError
from tomtat.memory import ChatMemory, EstimatedTokens, HuggingFaceTokens
from tomtat.memory.chat_memory import Trees
from tomtat.memory.framing import _OUR_DELIMITER, CLOSE, QUOTES_OPEN, SUMMARY_OPEN, _with_signs, quotable
from tomtat.memory.kept import Kept
from tomtat.memory.ledger import Entry
from tomtat.memory.ranked import Strings
from tomtat.memory.turns import groups
from tomtat.store import SqlStore, Turn, UnknownConversation, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with open_store(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def memory(store: SqlStore) -> ChatMemory:
    return ChatMemory(FakeSummarizer(), store, MANUAL)


def filled(memory: ChatMemory, messages: list[dict[str, Any]], name: str = "chat") -> ChatMemory:
    memory.append(name, messages)
    memory.fold(name)
    return memory


def is_memory(message: dict[str, Any]) -> bool:
    return isinstance(message["content"], str) and message["content"].startswith((SUMMARY_OPEN, QUOTES_OPEN))


# -- what is in a context


def test_a_history_that_fits_comes_as_it_is(memory: ChatMemory) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *talk(6), calls("a"), result("a"), user("And now?")]
    filled(memory, messages)

    composed = memory.compose("chat", 4000)

    assert composed.messages == messages
    assert composed.is_whole
    assert composed.tokens == memory.counter.total(messages)


def test_the_order_is_system_summaries_newest_recalled_and_the_newest_message(memory: ChatMemory) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *talk(80), user("Where is number 1004 now?")]
    filled(memory, messages)

    composed = memory.compose("chat", 700)
    system, summary, *newest, recalled, last = composed.messages

    assert system == messages[0]
    assert summary["role"] == "user"
    assert summary["content"].startswith(SUMMARY_OPEN)
    assert newest == messages[-1 - len(newest) : -1]
    assert recalled["role"] == "user"
    assert QUOTES_OPEN in recalled["content"]
    assert last == messages[-1]
    assert messages[5]["content"] in recalled["content"]
    assert composed.newest == (*range(82 - len(newest), 82), 82)
    assert sum(composed.shares.values()) + memory.counter.base == composed.tokens <= 700


def test_what_is_shown_already_is_not_quoted_again(memory: ChatMemory) -> None:
    filled(memory, [*talk(80), user("Where is the ladder number 1078 now?")])

    composed = memory.compose("chat", 700)

    assert 79 in composed.newest
    assert not set(composed.recalled) & set(composed.newest)


def test_what_is_quoted_again_is_not_made_again(memory: ChatMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(memory, talk(60))
    memory.fold("chat")
    known = memory.compose("chat", 500, "Where is the ladder?")
    monkeypatch.setattr("tomtat.memory.recall.quoted", lambda message: pytest.fail("it was known"))

    assert known.recalled
    assert memory.compose("chat", 500, "Where is the ladder?") == known

    memory.forget("chat")
    with pytest.raises(pytest.fail.Exception):
        memory.compose("chat", 500, "Where is the ladder?")


def test_a_query_is_searched_for_in_the_place_of_the_newest_message(memory: ChatMemory) -> None:
    filled(memory, [*talk(80), user("Thanks, that is all for today.")])

    text = str(memory.context("chat", 500, "Where is number 1010?"))

    assert "number 1010 is" in text
    assert "number 1010 is" not in str(memory.context("chat", 500))


def test_an_empty_query_recalls_nothing_and_leaves_the_room_to_exact_strings(memory: ChatMemory) -> None:
    filled(memory, [*talk(80), user("Where is number 1010?")])

    composed = memory.compose("chat", 700, "")

    assert composed.recalled == ()
    assert composed.tokens > 600
    assert len(set(re.findall(r"[12]\d\d\d", str(composed.messages)))) > 30


def test_a_short_question_is_searched_with_the_one_before(memory: ChatMemory) -> None:
    filled(memory, [*talk(60), user("Tell me about number 1010."), assistant("It is there."), user("And the price?")])

    assert 11 in memory.compose("chat", 500).recalled


def test_pinned_and_late_system_messages_stay_word_for_word_wherever_they_stood(memory: ChatMemory) -> None:
    chat = talk(90)
    chat[10] = user("My allergy is penicillin.", pinned=True)
    chat[40] = {"role": "developer", "content": "From now on, answer in Czech."}
    filled(memory, [{"role": "system", "content": "Be brief."}, *chat])

    first = memory.context("chat", 600)[:3]

    assert first == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My allergy is penicillin."},
        {"role": "developer", "content": "From now on, answer in Czech."},
    ]


def test_fields_that_providers_do_not_know_are_left_out_and_others_kept(memory: ChatMemory) -> None:
    memory.append("chat", [user("Hello.", id="m1", name="Ann", pinned=True), assistant("Hi.", refusal=None)])

    assert memory.context("chat", 100) == [user("Hello.", name="Ann"), assistant("Hi.", refusal=None)]


def test_neighbours_of_one_role_are_merged_where_asked(store: SqlStore) -> None:
    memory = ChatMemory(FakeSummarizer(), store, MemorySettings(background=False, merge_roles=True))
    filled(memory, [*talk(80), user("Where is number 1010?")])

    roles = [message["role"] for message in memory.context("chat", 500)]

    assert all(before != after for before, after in pairwise(roles))


def test_history_has_every_turn_whatever_was_folded(memory: ChatMemory) -> None:
    messages = talk(200)
    filled(memory, messages)

    assert [turn.message for turn in memory.history("chat")] == messages
    assert [turn.seq for turn in memory.history("chat")] == list(range(1, 201))


def test_a_memory_without_a_model_tells_spans_by_their_own_sentences(store: SqlStore) -> None:
    memory = filled(ChatMemory(None, store, MANUAL), [*talk(200), user("Well?")])

    report = memory.report("chat")

    assert report.spans > 3
    assert report.by_model == 0
    assert all(fold.text for fold in memory.folds("chat"))
    assert memory.context("chat", 600)[0]["content"].startswith(SUMMARY_OPEN)


# -- budgets


def smallest_budget(memory: ChatMemory, budget: int, query: str | None) -> int | None:
    """What the error says, if a budget is refused."""
    try:
        memory.compose("chat", budget, query)
    except BudgetError as error:
        return error.smallest if error.smallest > budget and str(error.smallest) in str(error) else -1
    return None


@pytest.mark.parametrize("seed", range(12))
def test_a_context_never_costs_more_than_its_budget(seed: int, store: SqlStore) -> None:
    rng = random.Random(seed)
    memory = ChatMemory(FakeSummarizer(), store, MANUAL)
    messages = random_chat(rng, 60)
    filled(memory, messages)
    refused = 0
    for budget in [0, 5, 40, *rng.sample(range(50, 6000), 12)]:
        for query in (None, "", "Where does the key lie? LM-48213"):
            smallest = smallest_budget(memory, budget, query)
            refused += smallest is not None
            composed = memory.compose("chat", smallest or budget, query)
            assert composed.tokens == memory.counter.total(composed.messages) <= (smallest or budget)
    assert refused >= 3


def test_a_budget_too_small_says_the_smallest_that_works(memory: ChatMemory) -> None:
    filled(memory, [{"role": "system", "content": "word " * 100}, *talk(30)])

    with pytest.raises(BudgetError, match=r"the smallest that works is \d+") as caught:
        memory.context("chat", 50)

    smallest = caught.value.smallest
    assert memory.compose("chat", smallest).tokens == smallest
    with pytest.raises(BudgetError):
        memory.context("chat", smallest - 1)


@pytest.mark.parametrize("seed", range(12))
def test_calls_of_tools_and_their_results_stay_together_in_any_budget(seed: int, store: SqlStore) -> None:
    memory = ChatMemory(FakeSummarizer(), store, MANUAL)
    filled(memory, random_chat(random.Random(100 + seed), 60))
    for budget in range(200, 5000, 150):
        try:
            messages = memory.context("chat", budget)
        except BudgetError:
            continue
        open_calls: set[str] = set()
        for message in messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] in open_calls
                open_calls.discard(message["tool_call_id"])
            open_calls |= {call["id"] for call in message.get("tool_calls", [])}
        assert not open_calls


def test_a_newest_result_brings_the_call_and_the_other_results_with_it(memory: ChatMemory) -> None:
    filled(memory, [*talk(80), calls("a", "b"), result("a", "in the cellar"), result("b", "in the garden")])

    messages = memory.context("chat", 400)

    assert [message["role"] for message in messages[-3:]] == ["assistant", "tool", "tool"]
    with pytest.raises(BudgetError):
        memory.context("chat", 40)


def test_a_giant_turn_makes_room_for_those_after_it(memory: ChatMemory) -> None:
    filled(memory, [*talk(40), user("word " * 5000), *talk(6, seed=1), user("Where is the lamp?")])

    composed = memory.compose("chat", 800)

    assert composed.tokens <= 800
    assert 41 not in composed.newest
    assert 47 in composed.newest


# -- what stays the same


def front(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System and summaries, which come before anything that moves."""
    return messages[: 1 + next(n for n, message in enumerate(messages) if is_memory(message))]


@pytest.mark.parametrize("budget", [700, 1500, 3000, 6000])
def test_the_front_stays_the_same_bytes_until_a_span_closes(budget: int, memory: ChatMemory) -> None:
    filled(memory, [{"role": "system", "content": "Be brief."}, *talk(300)])
    fronts, spans = [], []
    for message in talk(80, seed=3):
        memory.append("chat", [message])
        memory.fold("chat")
        fronts.append(str(front(memory.context("chat", budget))))
        spans.append(memory.report("chat").spans)

    changes = {n for n in range(1, 80) if fronts[n] != fronts[n - 1]}
    closings = {n for n in range(1, 80) if spans[n] != spans[n - 1]}
    share = memory.settings.tokens_for(memory.settings.newest_share, budget)
    assert 0 < len(changes) <= 2 + sum(memory.counter.message(message) for message in talk(80, seed=3)) / (share / 3)
    if share > 3 * FakeSummarizer().max_source_tokens:
        assert changes <= closings


def test_between_two_changes_of_the_front_a_context_only_grows_at_its_end(memory: ChatMemory) -> None:
    """What a provider's prompt cache needs: the last request, up to what was recalled for it, begins the next one."""
    filled(memory, talk(150))
    kept, before = 0, memory.context("chat", 3000)
    for message in talk(40, seed=5):
        memory.append("chat", [message])
        memory.fold("chat")
        now = memory.context("chat", 3000)
        until = max(n for n, one in enumerate(before) if is_memory(one))
        kept += now[:until] == before[:until]
        before = now
    assert kept >= 36


def test_folding_more_does_not_change_what_an_unrelated_conversation_gets(memory: ChatMemory) -> None:
    filled(memory, talk(100), "one")
    before = memory.context("one", 500)

    filled(memory, talk(200, seed=9), "two")

    assert memory.context("one", 500) == before


# -- branches, erasing, strangers


def test_an_edit_opens_a_branch_with_a_context_of_its_own(memory: ChatMemory) -> None:
    chat = talk(60)
    filled(memory, chat)
    edited = [*chat[:40], user("Forget that. The saddle number 7777 is in the chapel.")]

    memory.append("chat", edited, after=0, fork=True)
    memory.fold("chat")

    assert memory.context("chat", 500)[-1] == edited[-1]
    assert memory.context("chat", 500, branch=0)[-1] == chat[-1]
    assert "7777" not in str(memory.context("chat", 500, "saddle 7777", branch=0))
    assert "number 1058" not in str(memory.context("chat", 2000, "where is number 1058?"))


def test_what_is_erased_is_in_no_context_even_if_another_process_erased_it(store: SqlStore, tmp_path: Path) -> None:
    here = filled(ChatMemory(FakeSummarizer(), store, MANUAL), talk(100))
    assert "crowns" in str(here.context("chat", 500))

    with open_store(tmp_path / "store.db") as other:
        receipt = ChatMemory(FakeSummarizer(), other, MANUAL).erase("chat")

    assert receipt.turns == 100
    assert receipt.derived > 0
    with pytest.raises(UnknownConversation):
        here.context("chat", 500)
    here.append("chat", [user("Hello again.")])
    assert here.context("chat", 500) == [user("Hello again.")]
    assert b"crowns" not in (tmp_path / "store.db").read_bytes()


def test_conversations_and_branches_that_are_not_there_are_told(memory: ChatMemory) -> None:
    with pytest.raises(UnknownConversation):
        memory.context("chat", 500)
    memory.append("chat", talk(2))
    with pytest.raises(UnknownConversation, match="no branch 3"):
        memory.context("chat", 500, branch=3)


def test_search_finds_turns_and_sources_the_turns_of_a_sentence(memory: ChatMemory) -> None:
    filled(memory, talk(100))
    assert memory.search("chat", "Where is number 1010?")[0].turn.seq == 11

    fold = memory.folds("chat")[3]
    assert fold.level == 0
    [source, *_] = memory.sources("chat", fold.text)

    assert fold.span.first <= source.seq <= fold.span.last
    assert fold.text.split(": ")[-1].split(".")[0] in source.message["content"]
    assert memory.sources("chat", "Nobody said this.") == []


def test_sources_of_a_line_that_several_folds_say_are_asked_by_their_span(memory: ChatMemory) -> None:
    filled(memory, [user("Please keep the lamp in the cellar for me.")] * 40)
    first, second = [fold for fold in memory.folds("chat") if fold.level == 0][:2]
    assert first.text == second.text

    for fold in (first, second):
        found = memory.sources("chat", fold.text, span=(fold.span.first, fold.span.last))
        assert found
        assert all(fold.span.first <= turn.seq <= fold.span.last for turn in found)
    assert memory.sources("chat", first.text, span=(2, 3)) == []
    assert memory.sources("chat", first.text)[0].seq <= first.span.last


# -- with real tokenizers


def test_contexts_of_a_chat_template_cost_no_more_than_counted(store: SqlStore, tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    memory = filled(
        ChatMemory(FakeSummarizer(), store, MANUAL, HuggingFaceTokens(tokenizer)), [*talk(60), user("Well?")]
    )
    for budget in range(400, 3000, 200):
        messages = memory.context("chat", budget)
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
        assert len(rendered) <= budget
        assert memory.counter.total(messages) - len(rendered) <= 3 * len(messages) + 5


def test_an_estimate_says_that_it_is_one(memory: ChatMemory) -> None:
    filled(memory, talk(60))

    assert isinstance(memory.counter, EstimatedTokens)
    assert memory.compose("chat", 500).counter == "estimate"


def test_blocks_are_closed(memory: ChatMemory) -> None:
    filled(memory, [*talk(80), user("Where is number 1004 now?")])

    for message in memory.context("chat", 700):
        if is_memory(message):
            assert message["content"].endswith(CLOSE)


# -- what a fresh reader broke


def test_merged_roles_with_a_dear_estimate_keep_the_budget_and_come_to_an_end(store: SqlStore) -> None:
    settings = MemorySettings(background=False, merge_roles=True)
    memory = ChatMemory(FakeSummarizer(), store, settings, EstimatedTokens(5.0))
    memory.append("short", [user("a") for _ in range(20)])
    memory.append("pinned", [user("first", pinned=True), user("second", pinned=True), *talk(6), user("now")])
    for name in ("short", "pinned"):
        for budget in range(20, 400, 7):
            assert tokens_of(memory, name, budget) <= budget


def tokens_of(memory: ChatMemory, name: str, budget: int) -> int:
    """Of a context; nothing where the budget is refused, as it may be only if a larger one is named."""
    try:
        return memory.compose(name, budget).tokens
    except BudgetError as error:
        return 0 if error.smallest > budget else budget + 1


def test_folding_ends_where_a_damaged_turn_was_set_aside(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ChatMemory(FakeSummarizer(), store, MANUAL)
    memory.append("chat", talk(30))
    whole = store.history
    monkeypatch.setattr(store, "history", lambda *a, **k: [turn for turn in whole(*a, **k) if turn.seq != 1])

    memory.fold("chat")

    assert memory.context("chat", 300)


def test_pins_on_results_of_tools_do_not_tear_them_from_their_call(memory: ChatMemory) -> None:
    filled(memory, [*talk(40), calls("a"), {**result("a"), "pinned": True}, *talk(40, seed=1)])

    assert "tool" not in {message["role"] for message in memory.context("chat", 400)[:3]}


def test_a_conversation_without_turns_is_told(memory: ChatMemory) -> None:
    memory.append("chat", [])

    with pytest.raises(UnknownConversation, match="no turns yet"):
        memory.context("chat", 500)


def test_one_string_said_everywhere_leaves_room_for_others(memory: ChatMemory) -> None:
    filled(memory, [user(f"Order LM-48213 again, and box AB-{1000 + n} too, please.") for n in range(200)])

    assert len(set(re.findall(r"AB-\d+", str(memory.context("chat", 900, ""))))) > 20


# -- what grows with a chat grows in step with it, counted and not timed


class CountingTokens(EstimatedTokens):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def message(self, message: Any) -> int:
        self.messages.append(str(message["content"]))
        return super().message(message)


@pytest.fixture
def turns_read(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the turns that the store gives, as they are asked for."""
    places: list[int] = []
    whole = store.history

    def counting(*where: Any, **how: Any) -> list[Turn]:
        found = whole(*where, **how)
        places.extend(turn.seq for turn in found)
        return found

    monkeypatch.setattr(store, "history", counting)
    return places


def test_each_turn_is_read_once_and_counted_at_most_twice_however_large_the_budget(
    store: SqlStore, turns_read: list[int]
) -> None:
    counter = CountingTokens()
    memory = filled(ChatMemory(FakeSummarizer(), store, MANUAL, counter), talk(900))
    turns_read.clear()
    counter.messages.clear()

    composed = memory.compose("chat", 9000, "")

    assert len(composed.newest) > 80
    assert max(Counter(turns_read).values()) == 1
    assert len(counter.messages) < 2 * len(turns_read) + 20

    turns_read.clear()
    counter.messages.clear()
    assert memory.compose("chat", 100_000, "").is_whole
    assert max(Counter(turns_read).values()) == 1
    assert len(counter.messages) <= 2 * 900 + 5


def test_what_is_quoted_is_counted_as_a_message_once_for_its_room_and_once_for_the_whole(store: SqlStore) -> None:
    counter = CountingTokens()
    memory = filled(
        ChatMemory(FakeSummarizer(), store, MANUAL, counter), [*talk(80), user("Where is number 1004 now?")]
    )
    counter.messages.clear()

    composed = memory.compose("chat", 700)

    assert composed.recalled
    assert max(Counter(one for one in counter.messages if QUOTES_OPEN in one).values()) <= 2


def test_a_newest_result_whose_call_is_nowhere_does_not_read_the_whole_history(
    store: SqlStore, turns_read: list[int]
) -> None:
    memory = filled(ChatMemory(FakeSummarizer(), store, MANUAL), [*talk(900), result("nobody")])
    turns_read.clear()

    composed = memory.compose("chat", 600, "")

    assert composed.messages[-1] == result("nobody")
    assert len(turns_read) < 300


def test_the_call_of_a_late_newest_result_is_found_among_other_calls(memory: ChatMemory) -> None:
    ids = [f"call-{n}" for n in range(90)]
    results = [result(one) for one in ids]
    filled(memory, [*talk(100), calls("late"), calls(*ids), *results[:50], result("late"), *results[50:]])

    composed = memory.compose("chat", 6000, "")

    assert composed.newest[-93:] == tuple(range(101, 194))
    assert len(set(composed.newest)) == len(composed.newest)


def test_many_calls_answered_late_are_grouped_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"call-{n}" for n in range(2000)]
    chat = [calls(one) for one in ids] + [result(one) for one in ids] + talk(3)
    turns = [Turn(n, message, 0.0) for n, message in enumerate(chat, start=1)]
    steps = [0]

    def counting(*ends: int) -> range:
        steps[0] += len(range(*ends))
        return range(*ends)

    monkeypatch.setattr("tomtat.memory.turns.range", counting, raising=False)

    assert [len(group) for group in groups(turns)] == [4000, 1, 1, 1]
    assert steps[0] <= 2 * len(turns)
    assert [len(group) for group in groups(turns, wait=10)] == [1] * 1990 + [2010] + [1] * 3


class SlicedText(str):
    """Counts the letters that are cut out of it."""

    letters = 0

    def __getitem__(self, place: Any) -> str:
        found = super().__getitem__(place)
        SlicedText.letters += len(found)
        return found


def test_a_text_of_nothing_but_markers_is_defused_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SlicedText("<|" * 80_000)
    signs = [(place, "&lt;") for place in range(0, len(text), 2)]

    assert _with_signs(text, signs) == "&lt;|" * 80_000
    assert SlicedText.letters <= len(text)
    assert quotable(text) == "&lt;|" * 80_000
    assert quotable("ﬁ<\u2009/ memory x" + "[INST]" * 3) == "ﬁ&lt;\u2009/ memory x" + "&#91;INST]" * 3


def test_blanks_after_a_sign_are_divided_in_one_way_only() -> None:
    """A pattern that may divide them between two parts in every way never comes to an end with so many."""
    blanks = " " * 400_000

    assert _OUR_DELIMITER.search(f"<{blanks}x") is None
    assert _OUR_DELIMITER.search(f"<{blanks}/{blanks}memory")


def test_strings_are_looked_at_once_for_contexts_of_one_beginning(
    memory: ChatMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(memory, [*talk(300), user("Well?")])
    looked: list[Any] = []
    signs = Strings._signs
    monkeypatch.setattr(
        Strings, "_signs", lambda self, entry, before: looked.append(entry) or signs(self, entry, before)
    )

    contexts = [
        memory.context("chat", 700, query) for query in ("", "Where is number 1010?", "Where is number 1044?", "")
    ]

    assert contexts[0] == contexts[3]
    assert len(looked) == len(set(looked)) > 50


def test_looking_at_strings_leaves_them_as_they_were() -> None:
    strings = Strings()
    strings.add([Entry(1, "name", "Filipa Nogueira", "asked for", 1.0)])
    before = {name: dict(getattr(strings, name)) for name in ("_said", "_terms", "_slots")}

    assert strings.best(5, 3)

    assert {name: dict(getattr(strings, name)) for name in before} == before


def test_strings_of_all_folds_are_taken_in_at_once(memory: ChatMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(memory, talk(300))
    added: list[int] = []
    monkeypatch.setattr(Strings, "add", lambda self, entries: added.append(len(entries)))

    spans = ChatMemory(None, memory.store, MANUAL).report("chat").spans

    assert spans > 50
    assert len(added) == 1


# -- what is kept in memory


def test_trees_and_fronts_are_kept_within_a_size_and_go_with_their_conversation(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomtat.memory.chat_memory.TREE_BYTES", 400_000)
    monkeypatch.setattr("tomtat.memory.folds.BLOCK_BYTES", 10_000)
    memory = ChatMemory(FakeSummarizer(), store, MANUAL)
    for n in range(6):
        filled(memory, [*talk(120, seed=n), user("Well?")], f"chat-{n}")
        for budget in range(500, 3000, 250):
            memory.context(f"chat-{n}", budget)
    line = store.branches("chat-5")[0]

    assert 1 <= len(memory._trees) < 6
    assert memory._trees.bytes <= 400_000
    assert 1 <= len(memory._tree(line).blocks) < 10
    assert memory._tree(line).blocks.bytes <= 10_000
    memory.erase("chat-5")
    assert memory._trees.get((memory._own, "chat-5", 0)) is None


def test_memories_that_share_their_trees_take_no_more_than_one_and_see_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomtat.memory.chat_memory.TREE_BYTES", 2_000_000)
    trees = Trees()
    with open_store(tmp_path / "shared.db") as store:
        memories = [
            ChatMemory(FakeSummarizer(), store.for_tenant(name), MANUAL, trees=trees) for name in ("anna", "ben")
        ]
        for seed, memory in enumerate(memories):
            filled(memory, talk(120, seed=seed))
        told = [[fold.text for fold in memory.folds("chat")] for memory in memories]
        assert told[0] != told[1]
        assert [[fold.text for fold in memory.folds("chat")] for memory in memories] == told
        assert len(trees) == 2
        memories[0].erase("chat")
        assert len(trees) == 1
        for n in range(6):
            for memory in memories:
                filled(memory, talk(120, seed=n), f"chat-{n}")
        assert 2 < len(trees) < 12
        assert trees.bytes <= 2_000_000
        memories[1].close()
        memories[0].close()
        assert len(trees) == 0


def test_a_conversation_that_another_process_erased_is_dropped_when_it_is_asked_for(store: SqlStore) -> None:
    memory = filled(ChatMemory(FakeSummarizer(), store, MANUAL), talk(100))
    memory.context("chat", 500)
    store.erase(conversation="chat")

    with pytest.raises(UnknownConversation):
        memory.context("chat", 500)
    assert len(memory._trees) == 0


def test_a_value_larger_than_the_limit_is_kept_alone() -> None:
    kept: Kept[str, int] = Kept(10)
    for key, size in (("a", 4), ("b", 4), ("a", 5), ("c", 4), ("d", 50)):
        kept.put(key, size, size)
        assert kept.get(key) == size
    assert (len(kept), kept.bytes) == (1, 50)
    kept.drop(lambda key: key == "d")
    assert (len(kept), kept.bytes) == (0, 0)


@pytest.mark.parametrize("last", [100, 160])
def test_a_chat_whose_newest_turns_were_set_aside_goes_on_with_those_before(
    store: SqlStore, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = filled(ChatMemory(FakeSummarizer(), store, MANUAL), talk(160))
    whole = store.history
    monkeypatch.setattr(store, "history", lambda *a, **k: [turn for turn in whole(*a, **k) if turn.seq <= last - 80])

    assert memory.compose("chat", 600, "").newest[-1] == last - 80
    monkeypatch.setattr(store, "history", lambda *a, **k: [])
    with pytest.raises(UnknownConversation, match="no turn left"):
        memory.context("chat", 600)


def test_a_front_is_made_once_for_all_turns_until_a_span_closes(
    memory: ChatMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomtat.memory import summary_block

    long = [{**turn, "content": f"{turn['content']} " * 5} for turn in talk(120)]
    memory.append("chat", long)
    memory.fold("chat")
    # No more turns have room in their place than the newest and the one before: the front ends right before these.
    memory.append("chat", long[:3])
    memory.compose("chat", 1000)
    monkeypatch.setattr(summary_block, "_make", lambda *_: pytest.fail("It was made anew."))
    for turn in long[3:6]:
        memory.append("chat", [turn])
        context = memory.compose("chat", 1000)
        assert context.summaries
        assert len(context.newest) <= 2
