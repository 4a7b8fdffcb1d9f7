"""`tomtat chat`: what a person types, and what she sees."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memory_fakes import MANUAL, assistant, calls, result, talk, user
from test_answering import Server, breaks_off, impatient, refuses, says, server, streams  # noqa: F401, two are fixtures
from tomtat.errors import ModelError
from tomtat.memory import ChatMemory, EstimatedTokens
from tomtat.memory.framing import QUOTES_OPEN, SUMMARY_OPEN
from tomtat.store import open_store

Messages = Sequence[Mapping[str, Any]]
Answer = str | BaseException


class FakeAnswerer:
    """Says what it is told to, word by word, and remembers what it was sent."""

    name = "fake"

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.answers: list[Answer | list[Answer]] = ["Noted."]
        """What comes next; the last of them for ever."""
        self.costs: Callable[[Messages], int | None] = lambda _: None
        self.sent: list[list[dict[str, Any]]] = []

    def stream(self, messages: Messages) -> Iterator[str]:
        self.sent.append([dict(message) for message in messages])
        self.prompt_tokens = self.costs(messages)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        for piece in answer if isinstance(answer, list) else [answer]:
            if isinstance(piece, BaseException):
                raise piece
            yield from re.findall(r"\S*\s*", piece)[:-1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "store.db"
    monkeypatch.setenv("TOMTAT_STORE", str(place))
    return place


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAnswerer:
    fake = FakeAnswerer()
    monkeypatch.setattr("tomtat.cli.chat._answerer", lambda *_: fake)
    return fake


Chat = Callable[..., Any]


@pytest.fixture
def chat(tomtat: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Lines that are typed, and options."""

    def run(*lines: str, options: Sequence[object] = ()) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return tomtat("chat", *options)

    return run


@pytest.fixture
def long_chat(place: Path) -> list[dict[str, Any]]:
    """A chat of 240 turns, folded."""
    messages = talk(240)
    with open_store(place) as store, ChatMemory(None, store, MANUAL) as memory:
        memory.append("chat", messages)
        memory.fold("chat")
    return messages


def kept(place: Path, name: str = "chat") -> list[dict[str, Any]]:
    with open_store(place) as store:
        return [turn.message for turn in store.history(name)]


# -- turns


def test_answers_are_shown_and_kept(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    fake.answers = ["One two\n\nthree.", "  Four :key: [bold]five[/bold].\n"]
    told = chat("  Hello there.  ", "", "   ", "And now?")

    assert told.code == 0, told.err
    assert "Conversation chat (new). fake answers, within 2,500 tokens (estimate). /help lists commands." in told.out
    assert "One two\n\nthree.\n" in told.out
    assert "Four :key: [bold]five[/bold]." in told.out
    assert "Kept: 4 turns, 4 not folded yet." in told.out
    assert kept(place) == [
        user("Hello there."), assistant("One two\n\nthree."), user("And now?"),
        assistant("Four :key: [bold]five[/bold]."),
    ]  # fmt: skip
    assert fake.sent == [kept(place)[:1], kept(place)[:3]]


def test_an_answer_is_shown_piece_by_piece(chat: Chat, fake: FakeAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def stream(messages: Messages) -> Iterator[str]:
        for piece in ("One ", "two ", "three."):
            yield piece
            seen.append(sys.stdout.getvalue())  # type: ignore[attr-defined]

    monkeypatch.setattr(fake, "stream", stream)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    chat("Hello.")
    assert [text.rstrip("\n").splitlines()[-1] for text in seen] == ["One ", "One two ", "One two three."]


def test_a_second_start_goes_on_where_the_first_was(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    chat("My order is LM-48213.", "/quit", "never said")
    told = chat("Which order?", "/exit", "never said")

    assert "Conversation chat (2 turns, 0 of them folded)." in told.out
    assert "Kept: 4 turns" in told.out
    assert fake.sent[-1] == [user("My order is LM-48213."), assistant("Noted."), user("Which order?")]
    assert "never said" not in str(kept(place))


def test_conversations_have_names_and_know_nothing_of_each_other(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    chat("I am Ann.", options=["-c", "ann"])
    chat("I am Bo.", options=["--conversation", "bo"])

    assert fake.sent[-1] == [user("I am Bo.")]
    assert [message["content"] for message in kept(place, "ann")] == ["I am Ann.", "Noted."]


def test_tenants_are_apart(chat: Chat, fake: FakeAnswerer) -> None:
    chat("I am Ann.", options=["--tenant", "one"])
    assert "Conversation chat (new)" in chat(options=["--tenant", "two"]).out


def test_a_system_message_opens_new_conversations_only(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    options = ["--system", "Be brief."]
    chat("Hello.", "Well?", options=options)
    chat("Still there?", options=["--system", "Be long."])
    system = {"role": "system", "content": "Be brief."}

    assert [message for message in kept(place) if message["role"] == "system"] == [system]
    assert all(sent[0] == system for sent in fake.sent)
    assert "Be long." not in str(fake.sent)


def test_nothing_typed_makes_no_conversation(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat()
    assert told.code == 0
    assert "Kept" not in told.out
    assert "Conversation chat (new)" in chat().out


def test_an_answer_that_was_stopped_is_kept_as_far_as_it_came(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    fake.answers = [["One two", KeyboardInterrupt()], "Three."]
    told = chat("Count.", "Go on.")

    assert "One two [stopped]\n" in told.out
    assert "empty" not in told.out
    assert [message["content"] for message in kept(place)] == ["Count.", "One two [stopped]", "Go on.", "Three."]
    assert fake.sent[1] == kept(place)[:3], "the next turn knows what was said and that it was cut"


def test_an_answer_stopped_before_its_first_word_is_not_kept(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    fake.answers = [[" \n", KeyboardInterrupt()], [KeyboardInterrupt()], "Three."]
    told = chat("Count.", "Go on.", "Well?")

    assert told.out.count("[stopped]\n") == 2
    assert "empty" not in told.out
    assert [message["content"] for message in kept(place)] == ["Count.", "Go on.", "Well?", "Three."]


def test_stopping_a_command_leads_back_to_the_chat(
    chat: Chat, fake: FakeAnswerer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatMemory, "folds", stopped)
    told = chat("Hello.", "/folds", "Well?")
    assert told.code == 0, told.err
    assert "Stopped. Ctrl-D or /quit leaves." in told.out
    assert kept(place) == [user("Hello."), assistant("Noted."), user("Well?"), assistant("Noted.")]


def test_an_empty_answer_is_told_and_not_kept(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    fake.answers = [" \n"]
    assert "The answer was empty." in chat("Hello?").out
    assert kept(place) == [user("Hello?")]


def test_an_error_is_one_line_and_the_chat_goes_on(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    fake.answers = [["Half an ", ModelError("http://x answered 500: no")], "Whole."]
    told = chat("First.", "Second.", "/history")

    assert told.code == 0
    assert "http://x answered 500: no\n" in told.out
    assert "Traceback" not in told.out + told.err
    assert "Half an  [broken off]\nhttp://x answered 500: no\n" in told.out
    said = ["First.", "Half an [broken off]", "Second.", "Whole."]
    assert [message["content"] for message in kept(place)] == said
    assert [message["content"] for message in fake.sent[1]] == said[:3]
    assert "   2  Assistant: Half an [broken off]\n" in told.out


def test_even_a_crash_loses_nothing_that_was_said(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    fake.answers = [["Half an ", ZeroDivisionError("a bug")]]
    with pytest.raises(ZeroDivisionError):
        chat("First.")
    assert kept(place) == [user("First."), assistant("Half an [broken off]")]


EVIL = "\x1b[2J\x1b[31mred\x07\x9b1A\rover\u202egnihton\u2066\U000e0041"
SEEN = "␛[2J␛[31mred␇<U+009B>1A␍over<U+202E>gnihton<U+2066><U+E0041>"


def test_what_a_terminal_would_obey_is_shown_instead(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    """In an answer as it comes, in turns, in a context, in an error, and in recalled turns."""
    with open_store(place) as store:
        store.append("chat", [user(f"{EVIL} one", name="A\x1b[7mnn"), assistant("two\r\nlines")])
    fake.answers = [EVIL, ModelError(EVIL)]
    told = chat("Well?", "/history", "/context", "And now?", "/recall one")

    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", told.out) == []
    assert f"{SEEN}\n" in told.out, "as it comes"
    assert told.out.count(f"{SEEN} one\n") == 2, "in turns and in the context"
    assert "two\nlines\n" in told.out
    assert kept(place)[0]["content"] == f"{EVIL} one", "what is kept is what was said"


def test_neither_do_summaries_give_a_terminal_orders(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    messages = [{**one, "content": f"{one['content']} {EVIL}"} for one in talk(240)]
    with open_store(place) as store, ChatMemory(None, store, MANUAL) as memory:
        memory.append("chat", messages)
        memory.fold("chat")
    told = chat("Where is number 1004?", "/why", "/why 1", "/folds", "/recall", "/context", options=["-b", 4000])

    assert told.code == 0, told.err
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", told.out) == []
    assert "  (turns " in told.out


# -- figures


def test_the_figures_say_what_was_sent_instead_of_what(
    chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]
) -> None:
    told = chat("Where is number 1004 now?", options=["--budget", 2500])
    line = next(line for line in told.out.splitlines() if "tokens sent" in line)
    figures = re.fullmatch(
        r"([\d,]+) tokens sent instead of ([\d,]+) \((\d+)% saved\): summaries ([\d,]+), newest ([\d,]+), recalled ([\d,]+)"
        r"; (\d+) turns in (\d+) summaries; recalled turns ([\d, -]+)",
        line,
    )

    assert figures, line
    sent, whole, saved, *shares, folded, spans = (int(figures[n].replace(",", "")) for n in range(1, 9))
    counter = EstimatedTokens()
    assert sent == counter.total(fake.sent[0]) <= 2500
    assert whole == counter.total([*long_chat, user("Where is number 1004 now?")])
    assert saved == round(100 * (1 - sent / whole))
    assert sum(shares) + counter.base == sent
    assert 0 < folded <= 240
    assert spans > 1
    ranges = [list(map(int, part.split("-"))) for part in figures[9].split(", ")]
    assert any(part[0] <= 5 <= part[-1] for part in ranges)
    assert all(before[-1] + 1 < after[0] for before, after in pairwise(ranges))
    assert "number 1004 is in" in str(fake.sent[0])


def test_a_short_chat_saves_nothing_and_says_so(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat("Hello.", "/tokens")
    sent = EstimatedTokens().total(fake.sent[0])

    assert f"{sent} tokens sent: newest {sent - EstimatedTokens().base}\n" in told.out
    assert "instead of" not in told.out
    assert (
        f"{sent} tokens sent since you came; the whole history each time would have been {sent} (0% saved)." in told.out
    )


def test_tokens_add_up(chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]) -> None:
    told = chat("/tokens", "One.", "Two.", "/tokens", options=["-b", 2500])
    counter = EstimatedTokens()
    whole = [*long_chat, user("One.")]
    all_of_it = counter.total(whole) + counter.total([*whole, assistant("Noted."), user("Two.")])
    sent = sum(map(counter.total, fake.sent))

    assert "Nothing was sent yet." in told.out
    assert f"{sent:,} tokens sent since you came; the whole history each time would have been {all_of_it:,}" in told.out


def test_usage_teaches_the_estimate(chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]) -> None:
    fake.costs = lambda messages: EstimatedTokens(0.6).total(messages)
    told = chat(*[f"Where is number {1000 + 2 * n}?" for n in range(8)], "/tokens", options=["-b", 2500])

    costs = [EstimatedTokens(0.6).total(sent) for sent in fake.sent]
    assert costs[0] < 1700
    assert all(cost <= 2500 for cost in costs)
    assert costs[-1] > 2200, "the room that the first requests left unused is used"
    assert re.search(r"\([1-9]\d% saved\)\.", told.out), "nothing is measured by two measures"


# -- commands


def test_recall_shows_older_turns_for_the_last_message_or_a_question(
    chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]], place: Path
) -> None:
    told = chat("/recall", "Where is number 1004?", "/recall", "/recall Where is number 1010?", options=["-b", 2500])
    before, answered, asked = re.split(r"(?m)^Noted\.$|(?=^  11  User)", told.out)[:3]

    assert "Nothing was recalled" in before
    assert f"   5  User: {long_chat[4]['content']}\n" in answered
    assert f"  11  User: {long_chat[10]['content']}\n" in asked
    assert len(kept(place)) == 242


def test_turns_are_read_once_however_many_are_shown(
    chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomtat.store.sql_store import SqlStore

    reads: list[dict[str, Any]] = []
    read = SqlStore.history
    monkeypatch.setattr(SqlStore, "history", lambda *a, **how: reads.append(how) or read(*a, **how))
    told = chat("/history")

    assert len(re.findall(r"(?m)^ *(\d+)  \w+: ", told.out)) == 240
    assert [how for how in reads if how.get("first", 0) == how.get("last")] == [], "none by itself"


def test_recall_of_what_was_never_said_says_so(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat("Hello.", "/recall zebra")
    assert "Nothing was recalled: what was asked about stands in the context, or was never said." in told.out


def test_history_shows_all_turns_or_the_newest(chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]) -> None:
    everything = chat("/history").out
    for place, message in enumerate(long_chat, start=1):
        who = {"user": "User", "assistant": "Assistant"}[message["role"]]
        assert f"{place:4}  {who}: {message['content']}\n" in everything
    newest = chat("/history 2").out
    assert re.findall(r"(?m)^ *(\d+)  \w+: ", newest) == ["239", "240"]
    assert re.findall(r"(?m)^ *(\d+)  \w+: ", chat("/history 0").out) == []
    assert len(re.findall(r"(?m)^ *(\d+)  \w+: ", chat("/history 99999999").out)) == 240


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "²", "1 2"])
def test_history_and_why_take_numbers(
    chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]], number: str
) -> None:
    told = chat(f"/history {number}", "Well?", f"/why {number}", "/why 0", "/why 99999", options=["-b", 2500])

    assert told.code == 0
    assert "/history takes a number, as in /history 20." in told.out
    assert len(re.findall(r"/why takes a number from 1 to \d+; without one it lists", told.out)) == 3


def test_why_leads_from_a_sentence_to_its_turns(
    chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]
) -> None:
    told = chat("Well?", "/why", "/why 1", options=["-b", 2500])
    sentences = re.findall(r"(?m)^ *(\d+)  (.+)  \(turns (\d+) to (\d+)\)$", told.out)

    assert [int(number) for number, *_ in sentences] == list(range(1, len(sentences) + 1))
    assert any(sentence in str(fake.sent[0]) for _, sentence, _, _ in sentences)
    _, _, first, last = sentences[0]
    after = told.out[told.out.rindex("(turns") :]
    places = re.findall(r"(?m)^ *(\d+)  (?:User|Assistant): (.+)$", after)
    assert places
    assert all(int(first) <= int(place) <= int(last) for place, _ in places)
    assert any(long_chat[int(place) - 1]["content"] == text for place, text in places)


def test_why_without_summaries_says_why(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat("/why", "Hello.", "/why", "/why 1")
    assert "Nothing was said yet." in told.out
    assert told.out.count("No summary was sent with the last message: nothing had to be folded.") == 2


def test_why_says_so_where_there_was_no_room(chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]) -> None:
    told = chat("Well?", "/why", options=["-b", 300])
    assert "No summary was sent with the last message: the budget has no room for one." in told.out


def test_folds_show_how_spans_were_summarized(chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]) -> None:
    told = chat("/folds")
    rows = re.findall(r"(?m)^(\d+)-(\d+) +(\d) +extract +(\S.*)$", told.out)

    spans = [(int(first), int(last)) for first, last, level, _ in rows if level == "0"]
    assert len(spans) > 1
    assert spans[0][0] == 1
    assert all(before[1] + 1 == after[0] for before, after in pairwise(spans))
    assert "No model was there to summarize (tomtat chat RUN): sentences were picked from each span." in told.out
    assert f"240 turns, {spans[-1][1]} of them folded" in told.out


def test_folds_of_a_conversation_without_any(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat("Hello.", "/folds")
    assert told.code == 0
    assert "Nothing is folded yet: 2 turns so far." in told.out


def test_context_shows_what_was_sent(chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]]) -> None:
    told = chat("/context", "Where is number 1004?", "/context", options=["-b", 2500])
    before, shown = told.out.split("Noted.\n", 1)

    assert SUMMARY_OPEN in shown
    assert QUOTES_OPEN in shown
    assert SUMMARY_OPEN not in before
    assert "\n".join(f"{message['role']}:\n{message['content']}\n" for message in fake.sent[0]) in shown


def test_context_and_history_show_calls_of_tools(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    with open_store(place) as store:
        store.append("chat", [user("Look it up."), calls("a"), result("a", "found :key: [red]it")])
    told = chat("Well?", "/context", "/history")

    assert "look_up" in told.out
    assert told.out.count("found :key: [red]it") == 2
    assert [message.get("tool_calls") for message in fake.sent[0]][1] == calls("a")["tool_calls"]


@pytest.mark.parametrize("answer", ["n", "", None])
def test_erase_asks_and_takes_a_no(chat: Chat, fake: FakeAnswerer, place: Path, answer: str | None) -> None:
    told = chat("Hello.", "/erase", *([] if answer is None else [answer, "Well?"]))

    assert told.code == 0, told.err
    assert "Remove conversation chat, 2 turns, for good?" in told.out
    assert "Nothing was removed." in told.out
    assert len(kept(place)) == (2 if answer is None else 4)


def test_erase_removes_everything_and_the_chat_can_begin_anew(
    chat: Chat, fake: FakeAnswerer, long_chat: list[dict[str, Any]], place: Path
) -> None:
    options = ["-b", 2500, "--system", "Be brief."]
    told = chat("Where is number 1004?", "/erase", "y", "/why", "/recall", "/context", "Hello.", options=options)

    assert told.code == 0, told.err
    assert re.search(r"Removed 242 turns and [1-9]\d* summaries\.", told.out)
    assert "May remain: " in told.out
    assert kept(place) == [{"role": "system", "content": "Be brief."}, user("Hello."), assistant("Noted.")]
    assert fake.sent[-1] == kept(place)[:2]
    assert told.out.count("Nothing was said yet.") == 3
    assert "Kept: 3 turns" in told.out


def test_erasing_what_is_not_there_is_no_crash(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat("/erase", "Hello.")
    assert told.code == 0
    assert "Nothing was said yet." in told.out
    assert "Kept: 2 turns" in told.out


@pytest.mark.parametrize("command", ["/history", "/why", "/folds", "/context", "/tokens", "/recall", "/recall what?"])
def test_commands_before_anything_was_said_are_no_crash(chat: Chat, fake: FakeAnswerer, command: str) -> None:
    told = chat(command)
    assert told.code == 0, told.err
    assert told.err == ""
    assert re.search("Nothing was (said|sent) yet.", told.out)


def test_what_is_not_text_is_not_sent(
    chat: Chat, tomtat: Callable[..., Any], fake: FakeAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\nHello.\n"), encoding="utf-8"))
    told = tomtat("chat")

    assert told.code == 0, told.err
    assert "This line is not in UTF-8, and was not sent: caf<U+DCE9>\n" in told.out
    assert fake.sent == [[user("Hello.")]]


def test_a_closed_stdin_ends_the_chat(
    tomtat: Callable[..., Any], place: Path, fake: FakeAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert tomtat("chat").code == 0


def test_help_lists_every_command(chat: Chat, fake: FakeAnswerer) -> None:
    from tomtat.cli.chat import Chat as ChatCommands

    told = chat("/help")
    for command in [*ChatCommands(*[None] * 5).commands, "/quit"]:  # type: ignore[arg-type]
        assert command == "/help" or re.search(rf"(?m)^{command}\b", told.out), command


@pytest.mark.parametrize("line", ["/", "/nothing", "/HELP", "/historyx 3", "/usr/bin is what?"])
def test_unknown_commands_are_told_and_not_sent(chat: Chat, fake: FakeAnswerer, place: Path, line: str) -> None:
    told = chat(line)
    assert f"{line.split()[0]} is no command. /help lists them." in told.out
    assert fake.sent == []
    assert "Kept" not in told.out


# -- options


def test_a_budget_too_small_says_which_works(chat: Chat, fake: FakeAnswerer, place: Path) -> None:
    words = "Please note that the ladder is in the cellar. " * 8
    told = chat(words, "/recall ladder", options=["--budget", 20])
    smallest = re.search(r"Start again with --budget (\d+) or more\.", told.out)

    assert told.code == 0
    assert smallest
    assert fake.sent == []
    assert kept(place) == [user(words.strip())]
    chat(words, options=["--budget", smallest[1]])
    assert fake.sent


def test_a_conversation_needs_a_name(chat: Chat, fake: FakeAnswerer) -> None:
    told = chat("Hello.", options=["-c", " "])
    assert told.code == 2
    assert told.err == "tomtat: --conversation needs a name.\n"


def test_an_address_that_is_none_is_one_line(chat: Chat, place: Path) -> None:
    told = chat("Hello.", options=["--upstream", "localhost:8000/v1", "--model", "m"])
    assert told.code == 2
    assert told.err == "tomtat: localhost:8000/v1 is no server's address: it begins with http:// or https://.\n"


@pytest.mark.parametrize("options", [["--budget", 0], ["--budget", "many"], ["--budget", -5]])
def test_a_budget_that_is_none_is_refused(chat: Chat, options: list[object]) -> None:
    told = chat(options=options)
    assert told.code == 2
    assert "Traceback" not in told.err


@pytest.mark.parametrize("options", [["--upstream", "http://127.0.0.1:1/v1"], ["--model", "m"]])
def test_a_server_and_its_model_belong_together(chat: Chat, options: list[object]) -> None:
    told = chat(options=options)
    assert told.code == 2
    assert "--upstream and --model belong together" in told.err
    assert "Traceback" not in told.err


def test_a_run_that_is_not_there_is_one_line(chat: Chat, fake: FakeAnswerer, tmp_path: Path) -> None:
    told = chat(options=[tmp_path / "nowhere"])
    assert told.code == 2
    assert "There is no run folder" in told.err
    assert "--set" not in told.err, "which this command does not have"
    assert "Traceback" not in told.err


def test_a_model_that_does_not_chat_is_one_line(chat: Chat, tiny_t5: Path) -> None:
    told = chat(options=["--answers", tiny_t5])
    assert told.code == 2
    assert "does not chat" in told.err
    assert "Traceback" not in told.err


def test_tokens_are_counted_as_asked(chat: Chat, fake: FakeAnswerer, tiny_llama: Path, tmp_path: Path) -> None:
    told = chat("Hello.", options=["--tokenizer", tiny_llama])
    assert f"within 2,500 tokens ({tiny_llama})." in told.out.replace("\n", "")

    (tmp_path / "empty").mkdir()
    refused = chat(options=["--tokenizer", tmp_path / "empty"])
    assert refused.code == 2
    assert "The tokenizer of" in refused.err


@pytest.mark.parametrize("name", ["qwen3", "some/model", "./nowhere", "a b", ""])
def test_a_tokenizer_that_cant_be_had_is_one_line(
    chat: Chat, fake: FakeAnswerer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", offline)
    told = chat("never said", options=["--tokenizer", name])
    assert told.code == 2
    assert re.fullmatch(r"tomtat: .*folder.*\n", told.err)
    assert "Traceback" not in told.out
    assert fake.sent == []


@pytest.mark.parametrize("name", ["o200k_base", "gpt-4o"])
def test_an_encoding_whose_file_cant_be_fetched_is_told(
    chat: Chat, fake: FakeAnswerer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiktoken = pytest.importorskip("tiktoken")

    def offline(name: str) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    monkeypatch.setattr(tiktoken, "encoding_for_model", offline)
    told = chat(options=["--tokenizer", name])
    assert told.code == 2
    assert f"--tokenizer {name}: tiktoken fetches this encoding's file, and can't from here." in told.err


def test_a_model_on_this_machine_answers_and_counts(
    chat: Chat, place: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomtat.cli import chat as command

    made = command._answerer

    def speaking(*how: Any) -> Any:
        found = made(*how)
        says(found, "Nina is ill.")
        return found

    monkeypatch.setattr(command, "_answerer", speaking)
    told = chat("hello", options=["--answers", tiny_llama, "--device", "cpu"])

    assert told.code == 0, told.err
    assert f"{tiny_llama} answers, within 2,500 tokens ({tiny_llama})." in told.out
    assert kept(place) == [user("hello"), assistant("Nina is ill.")]
    assert re.search(r"(?m)^Nina is ill\.\n\d+ tokens sent: newest \d+$", told.out)


# -- with a server


def test_errors_of_a_server_name_it_and_the_chat_goes_on(
    chat: Chat,
    place: Path,
    server: Server,  # noqa: F811
    impatient: None,  # noqa: F811
) -> None:
    replies = [
        refuses(401, "no key"),
        refuses(429, "slow down"),
        refuses(500, "oh"),
        breaks_off("Half an "),
        streams("Yes", "."),
    ]
    server.replies = [*replies]
    lines = ["one", "two", "three", "four", "five"]
    told = chat(*lines, options=["--upstream", server.url, "--model", "m"])

    assert told.code == 0, told.err
    assert "m answers" in told.out
    for code, why in ((401, "no key"), (429, "slow down"), (500, "oh")):
        assert re.search(rf"(?m)^{server.url} answered {code}: .*{why}$", told.out)
    assert re.search(rf"(?m)^Half an +\[broken off\]\n{server.url} can't be reached, or broke off: .+$", told.out)
    said = [*lines[:4], "Half an [broken off]", lines[4], "Yes."]
    assert [message["content"] for message in kept(place)] == said
    assert "Traceback" not in told.out + told.err


def test_usage_of_a_server_teaches_the_estimate(
    chat: Chat,
    place: Path,
    server: Server,  # noqa: F811
    impatient: None,  # noqa: F811
    long_chat: list[dict[str, Any]],
) -> None:
    server.replies = [streams("Yes.", prompt_tokens=900)]
    options = ["--upstream", server.url, "--model", "m", "-b", 2500]
    chat(*[f"Where is number {1000 + 2 * n}?" for n in range(4)], options=options)

    lengths = [len(str(body["messages"])) for _, _, body in server.asked]
    assert lengths[-1] > 1.5 * lengths[0], "what it costs little of, more is sent of"


def test_as_a_program_of_its_own(place: Path, server: Server) -> None:  # noqa: F811
    server.replies = [streams("Chào ", "bạn!")]
    finished = subprocess.run(
        [sys.executable, "-c", "from tomtat.cli import main; main()", "chat", "--upstream", server.url, "--model", "m"],
        input="Xin chào.\n/history\n", capture_output=True, timeout=120, encoding="utf-8",
        env={**os.environ, "TOMTAT_STORE": str(place), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    assert "Chào bạn!\n" in finished.stdout
    assert "   1  User: Xin chào.\n   2  Assistant: Chào bạn!\n" in finished.stdout
    assert kept(place) == [user("Xin chào."), assistant("Chào bạn!")]
