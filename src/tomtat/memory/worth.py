"""How likely somebody is to ask for a string: signs that speak for and against it, and what each of them weighs.

Learned from 176 short chats, 1,290 facts that people were asked about against all other strings. On seven long chats
that nothing was chosen on, the strings it puts first hold 1.6 times as many facts as weights set by hand (LOG.md,
"Which strings to show").
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import regex

from tomtat.memory.patterns import Kind

_CONFIRMS = regex.compile(
    r"(?i)\b(?:confirmed?|booked|noted|done|settled|agreed|so it is|final|entered|sent|signed|issued|paid|got it|moved"
    r"|chốt|xong|ghi|đã đặt|ký|nhận)\b"
)
_SAYS_WHAT_IT_IS = regex.compile(
    r"(?i)(?:\bis|\bare|\bwas|'s|=|:|->|→|\bto|\bmeans|\bcalled|\bnamed|\bnumber|\bcode|\bcase|\bticket"
    r"|\bsố|\bmã|\blà|\btên)[:\s]*$"
)
_NOT = regex.compile(
    r"(?i)\b(?:not|instead of|rather than|no longer|was|chứ không phải|chứ ko phải|không phải|ko phải|chứ ko)\s*$"
)
_KEY = regex.compile(r'"(\w+)":\s*"?$')
_IS_ID_KEY = regex.compile(r"(?i)id|ref|no|num|code|ma|ticket|order|booking|so|key|name|total|tong")


def step(name: str, value: float, *steps: float) -> str:
    """A sign for how large something is: up to which of the steps."""
    place = bisect_left(steps, value)
    return f"{name} to {steps[place]}" if place < len(steps) else f"{name} beyond"


def signs_of_turn(text: str, message: Mapping[str, Any], asked: bool, strings: int) -> set[str]:
    return {
        f"by {message['role']}",
        "calls a tool" * bool(message.get("tool_calls") or message.get("function_call")),
        "turn confirms" * bool(_CONFIRMS.search(text)),
        "turn asks" * ("?" in text),
        "after a question" * asked,
        step("strings", strings, 1, 2, 4, 8, 16),
    }


def signs_of_string(
    text: str, kind: Kind, place: tuple[int, int], clause: tuple[int, int], role: str, asked: bool
) -> set[str]:
    """What speaks for or against a string of a turn, by name."""
    (start, end), (low, high) = place, clause
    exact, before = text[start:end], text[max(0, start - 40) : start]
    key = _KEY.search(before) if role == "tool" or before.endswith('"') else None
    return {
        kind,
        f"{kind} by {role}",
        step("characters", len(exact), 2, 3, 4, 6, 9, 14, 24),
        step("digits", sum(map(str.isdigit, exact)), 0, 1, 2, 3, 4, 6, 9),
        step("words", len(exact.split()), 1, 2, 3, 5),
        step("clause", len(text[low:high].split()), 1, 2, 3, 5, 8, 12, 20),
        "question" * text[high : high + 2].lstrip().startswith("?"),
        "what it is" * bool(_SAYS_WHAT_IT_IS.search(before)),
        "not" * bool(_NOT.search(before)),
        "in a table" * ("|" in text[max(0, low - 3) : low] + text[high : high + 3]),
        "value" * (key is not None),
        "value of an id" * (key is not None and _IS_ID_KEY.search(key[1]) is not None),
        "begins the turn" * (not text[:start].strip()),
        "answer" * (asked and role == "user" and not text[:start].strip()),
    }


_WEIGHTS: dict[str, float] = {
    "id": 0.89, "characters beyond": 0.84, "strings to 1": 0.59, "answer": 0.55, "digits to 4": 0.55,
    "id by assistant": 0.51, "strings to 2": 0.5, "characters to 24": 0.46, "path by user": 0.43, "name": 0.41,
    "characters to 14": 0.39, "digits to 6": 0.37, "digits to 9": 0.33, "value of an id": 0.33,
    "name by assistant": 0.3, "words to 2": 0.29, "command by assistant": 0.28, "value": 0.27, "turn confirms": 0.26,
    "path": 0.25, "strings to 4": 0.25, "what it is": 0.25, "name by user": 0.24, "quote by assistant": 0.23,
    "several by assistant": 0.22, "after a question": 0.21, "rarest to 1": 0.21, "by user": 0.2, "digits to 3": 0.2,
    "several": 0.17, "id by tool": 0.13, "seen to 2": 0.12, "strings to 8": -0.16, "characters to 6": -0.17,
    "command by user": -0.19, "replaced": -0.2, "clause to 20": -0.21, "name by system": -0.21,
    "path by assistant": -0.22, "characters to 2": -0.26, "rarest beyond": -0.26, "begins the turn": -0.27,
    "in a table": -0.27, "date by tool": -0.28, "opener": -0.29, "digits to 1": -0.3, "characters to 3": -0.31,
    "turn asks": -0.36, "characters to 4": -0.39, "not": -0.39, "strings to 16": -0.39, "opener by assistant": -0.4,
    "rarest to 8": -0.42, "calls a tool": -0.44, "seen to 3": -0.44,
    "strings beyond": -0.79, "question": -0.82, "digits to 0": -0.96,
    }  # fmt: skip
"""Log-odds of each sign: logistic regression over the strings of short chats, those that somebody asked about against
the rest. Signs of less than 0.15 are left out, which does no harm."""


def worth_of(signs: set[str]) -> float:
    """Their log-odds."""
    return sum(_WEIGHTS.get(sign, 0.0) for sign in signs)
