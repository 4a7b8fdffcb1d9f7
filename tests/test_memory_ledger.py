"""Exact strings: which are found, that they stand in their turn, and that no text makes it slow or fail."""

import random
import time
from typing import Any

import pytest

from memory_fakes import assistant, calls, random_chat, result, talk, user
from tomtat.memory.framing import said
from tomtat.memory.ledger import LONGEST, MOST_OF_A_TURN, Entry, _found, entries_of, ledger
from tomtat.memory.ranked import Strings
from tomtat.store import Turn

CASES: list[tuple[str, list[tuple[str, str]]]] = [
    # English
    ("My order LM-48213 came cracked.", [("id", "LM-48213")]),
    ("Look at https://shop.example/orders/51907 or write to nina.v@mail.example.", [("url", "https://shop.example/orders/51907"), ("url", "nina.v@mail.example")]),
    ("First run `make check` in it.", [("command", "make check")]),
    ("Then call it with --max-turns 40 please.", [("command", "--max-turns 40")]),
    ("Logs are in /var/log/tomtat/app.log and the table in data/prices.csv.", [("path", "/var/log/tomtat/app.log"), ("path", "data/prices.csv")]),
    ("It cost 54.90 EUR, not $60.", [("amount", "54.90 EUR"), ("amount", "$60")]),
    ("He runs 12 km and weighs 74 kg.", [("amount", "12 km"), ("amount", "74 kg")]),
    ("We leave on 12 May 2025.", [("date", "12 May 2025")]),
    ("It was made on 2024-03-01.", [("date", "2024-03-01")]),
    ("It starts at 7pm or 18:30.", [("time", "7pm"), ("time", "18:30")]),
    ("We meet on Friday at 14:30 there.", [("several", "Friday at 14:30")]),
    ("The party is on Thu 17 April, 18:30.", [("several", "Thu 17 April, 18:30")]),
    ("She said “better late than never” and left.", [("quote", "better late than never")]),
    ("We ask Dr. Filipa Nogueira and Rua das Oliveiras knows.", [("name", "Dr. Filipa Nogueira"), ("name", "Rua das Oliveiras")]),
    ("Set DB_TIMEOUT and max_retries for that.", [("symbol", "DB_TIMEOUT"), ("symbol", "max_retries")]),
    ("It needs version 2.14.1 on host db1.internal please.", [("id", "2.14.1"), ("id", "db1.internal")]),
    ("Sit in room 12 then.", [("number", "12")]),
    # Vietnamese
    ("Đơn hàng của tôi là LM-48213, giao ngày 12/5.", [("id", "LM-48213"), ("date", "ngày 12/5")]),
    ("Tổng cộng 350.000 đồng cho 3 người.", [("amount", "350.000 đồng"), ("amount", "3 người")]),
    ("Giá là 1,2 triệu, giảm 15%.", [("amount", "1,2 triệu"), ("amount", "15%")]),
    ("Họp lúc 14h30 thứ Sáu ở phòng 402.", [("several", "14h30 thứ Sáu"), ("number", "402")]),
    ("Mình đi vào chủ nhật hoặc tháng 7.", [("date", "chủ nhật"), ("date", "tháng 7")]),
    ("Chị Nguyễn Thị Hoa ở Hà Nội gọi số 0912 345 678.", [("name", "Nguyễn Thị Hoa"), ("name", "Hà Nội"), ("number", "0912 345 678")]),
    ("Gửi về hoa.nguyen@mail.example trước ngày 5/6/2025 nhé.", [("url", "hoa.nguyen@mail.example"), ("date", "ngày 5/6/2025")]),
    ("Cô nói “không bao giờ trễ” rồi đi.", [("quote", "không bao giờ trễ")]),
]  # fmt: skip


def found(text: str) -> list[tuple[str, str]]:
    return [(entry.kind, entry.text) for entry in entries_of(1, user(text)) if entry.kind not in ("opener", "phrase")]


def turns_of(*messages: dict[str, Any]) -> list[Turn]:
    return [Turn(seq, message, 0.0) for seq, message in enumerate(messages, start=1)]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text for text, _ in CASES])
def test_exact_strings_are_found_as_they_stand(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "ok", "yes, please do that for us.", "vâng, làm vậy đi nhé.", "…", "?!"]
)
def test_where_nothing_is_exact_nothing_is_found(text: str) -> None:
    assert found(text) == []


def test_calls_and_results_of_tools_have_strings_too() -> None:
    call = calls("K-12")
    call["tool_calls"][0]["function"]["arguments"] = '{"order": "LM-48213"}'
    answer = result("K-12", '{"status": "sent",\\n"parcel": "PX-7701"}')

    assert "LM-48213" in [entry.text for entry in entries_of(1, call)]
    assert "PX-7701" in [entry.text for entry in entries_of(2, answer)]


def test_a_clause_says_what_a_string_is() -> None:
    [entry] = entries_of(7, user("well, as I said, the order number is LM-48213, and it came cracked."))

    assert (entry.turn, entry.kind, entry.text) == (7, "id", "LM-48213")
    assert entry.clause == "order number is LM-48213"


def test_a_string_is_told_once_a_turn_and_once_for_each_turn() -> None:
    chat = turns_of(user("take LM-48213, I mean LM-48213."), assistant("so LM-48213 it is."))
    assert [(entry.turn, entry.text) for entry in ledger(chat)] == [(1, "LM-48213"), (2, "LM-48213")]


def checked(message: dict[str, Any], entries: list[Entry]) -> None:
    text = said(message)
    for entry in entries:
        assert entry.text in text
        assert " ".join(entry.text.split()) in entry.clause
        assert entry.clause in " ".join(text.split())
        assert entry.text == entry.text.strip() != ""
        assert len(entry.text) <= LONGEST or entry.text.isdigit()
        assert entry.worth == entry.worth, "a number"


@pytest.mark.parametrize("seed", range(10))
def test_every_string_stands_in_its_turn_and_its_clause(seed: int) -> None:
    chat = turns_of(*random_chat(random.Random(seed), 40), *talk(20, seed))
    entries = ledger(chat)

    assert [entry.turn for entry in entries] == sorted(entry.turn for entry in entries)
    assert len({(entry.turn, entry.text) for entry in entries}) == len(entries)
    for turn in chat:
        of_turn = [entry for entry in entries if entry.turn == turn.seq]
        assert len(of_turn) <= MOST_OF_A_TURN
        checked(dict(turn.message), of_turn)
        assert all(entry.turn == turn.seq for entry in entries_of(turn.seq, turn.message))


def test_a_table_of_hundreds_gives_no_more_than_others() -> None:
    rows = "\n".join(f"| AB-{n:05d} | {n}.90 EUR | {n % 28 + 1} May |" for n in range(300))
    entries = ledger(turns_of(result("a", rows), user("so take order LM-48213 please.")))

    assert sum(entry.turn == 1 for entry in entries) == MOST_OF_A_TURN
    assert "LM-48213" in [entry.text for entry in entries]
    assert len(list(entries_of(1, result("a", rows)))) > MOST_OF_A_TURN


def test_what_nobody_would_look_up_is_left_out() -> None:
    assert found(f"see {'x1Y' * 100} and AB-{'9' * 90} now") == []


def test_it_is_the_same_every_time() -> None:
    chat = turns_of(*random_chat(random.Random(5), 60))
    assert ledger(chat) == ledger(chat)


# -- which first


def best(*texts: str, before: int = 1000, count: int = 50) -> list[Entry]:
    strings = Strings()
    strings.add(ledger(turns_of(*map(user, texts))))
    return strings.best(before, count)


def test_a_later_value_comes_before_the_one_that_it_replaces() -> None:
    order = [entry.text for entry in best(
        "please write down that the gate code is KX-4471 now.",
        *["and what else did we want to do there?"] * 5,
        "please write down that the gate code is KX-9902 now.",
    )]  # fmt: skip
    assert order.index("KX-9902") < order.index("KX-4471")


def test_what_was_said_later_than_asked_for_is_not_told() -> None:
    texts = [f"please write down that number {n} is AB-{1000 + n} now." for n in range(40)]
    for before in (1, 2, 20):
        early = best(*texts, before=before)
        assert all(entry.turn < before for entry in early)
        assert early == best(*texts[: before - 1])


def test_each_is_told_once_and_no_more_than_asked_for() -> None:
    entries = best(*["we take LM-48213 then.", "so LM-48213 it is, and AB-77."] * 10)
    assert [entry.text for entry in entries].count("LM-48213") == 1
    assert len(best(*[f"we take AB-{n} then." for n in range(100)], count=7)) == 7
    assert best() == []


def test_an_id_comes_before_a_word() -> None:
    entries = best("then Monday it is.", "the order number is LM-48213.", "it was 3 of them.")
    assert entries[0].text == "LM-48213"


# -- whatever comes

ENDLESS = {
    "one word": "x" * 8000,
    "hyphens": "a-" * 4000,
    "dots": "a." * 4000,
    "chunks of hyphens": ("a-" * 99 + " ") * 40,
    "chunks of dots": ("a." * 99 + " ") * 40,
    "underscores": "a_" * 4000,
    "digits": "1" * 8000,
    "numbers": "1 " * 4000,
    "decimals": "1," * 4000,
    "versions": ("1." * 99 + " ") * 40,
    "capitals": "A " * 4000,
    "names": "Rua das " * 1000,
    "quotes": '"' * 8000,
    "ticks": "` " * 4000,
    "brackets": "([{" * 2600,
    "slashes": "/a" * 4000,
    "at signs": "a@" * 4000,
    "equals": "a= " * 2600,
    "options": "--a " * 2000,
    "blanks": " " * 8000 + "x",
    "blank lines": ("\n" + " " * 30) * 250 + "$ x",
    "Vietnamese": "Đ" * 4000 + "ngày " * 800,
    "no letters": "\u200d\u0301" * 4000,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_no_text_makes_it_slow(kind: str) -> None:
    started = time.perf_counter()
    entries = list(entries_of(1, user(ENDLESS[kind])))
    # Each takes well under half a second; the fastest quadratic work of 8,000 letters takes minutes in these patterns.
    assert time.perf_counter() - started < 5
    checked(user(ENDLESS[kind]), entries)


def test_neither_does_a_large_result_of_a_tool() -> None:
    rows = "".join(f'{{"id": "ORD-{n}", "total": {n * 7}}},\\n' for n in range(2000))
    started = time.perf_counter()
    ledger(turns_of(result("a", rows)))
    assert time.perf_counter() - started < 2.5


@pytest.mark.parametrize("start", range(0, 300, 50))
def test_whatever_bytes_come_it_does_not_fail(start: int) -> None:
    for seed in range(start, start + 50):
        rng = random.Random(seed)
        if seed % 3 == 0:
            text = rng.randbytes(rng.randint(0, 600)).decode("latin-1")
        elif seed % 3 == 1:
            text = rng.randbytes(rng.randint(0, 600)).decode("utf-8", errors="replace")
        else:  # what the patterns are made of
            parts = ["A1", "LM-48213", "12/5", " ", "\n", "\\n", '"', "“", "”", "`", "$ ", "€", ".", ",", "--x", "=", "/", "@",
                     "ngày ", "thứ ", "May ", "18:30", "Dr. ", "Ba ", "'s", "_", "(", ")", "|", "«", "»", "#4", "\u0301"]  # fmt: skip
            text = "".join(rng.choices(parts, k=200))
        for message in (user(text), result("a", text), assistant(text)):
            checked(message, list(entries_of(1, message)))
        assert len(ledger(turns_of(user(text)))) <= MOST_OF_A_TURN


def test_strings_are_looked_for_wherever_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    parts = """5 the of May mon t2 ngày $ R$ 12 : 30 pm - x # _ a1 K-12 / . com @ é Lu Dr. Ann 's ` = 1000 £ end early thứ hai o'clock
        people , 会 ( " kg 2024 st 3rd""".split()
    texts = ["".join(draw.choice(parts) + draw.choice(["", " ", " ", "\n"]) for _ in range(30)) for _ in range(500)]
    found = [_found(text) for text in texts]
    monkeypatch.setattr("tomtat.memory.ledger._where", lambda text, kind: [(0, len(text))])

    assert found == [_found(text) for text in texts]
