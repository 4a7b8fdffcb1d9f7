"""Turns as a memory handles them: which are never folded, which stand or fall together, what of them models see."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from tomtat.store import Turn

Group = list[Turn]

PINNED_ROLES = ("system", "developer")
LONGEST_WAIT = 16
"""Turns, results not counted, after which a call's result is waited for no more: else a call that failed would keep a
span open forever."""
NOT_FOR_MODELS = ("id", "pinned", "session")
"""Fields of a message that are ours or the client's: providers refuse what they don't know."""


def is_pinned(turn: Turn) -> bool:
    """Never folded: what the system says, and what a caller marked with `"pinned": true`."""
    message = turn.message
    # A call of tools or a result can't stand without the other, so it can't be moved to the front.
    is_of_tools = message["role"] in ("tool", "function") or message.get("tool_calls") or message.get("function_call")
    return message["role"] in PINNED_ROLES or (message.get("pinned") is True and not is_of_tools)


def shown(turn: Turn) -> dict[str, Any]:
    """A message as providers take it."""
    return {name: value for name, value in turn.message.items() if name not in NOT_FOR_MODELS}


def user(text: str) -> dict[str, Any]:
    """Memory speaks with the user's voice: what it says is data, and never weighs as much as the system's word."""
    return {"role": "user", "content": text}


def merged(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role as one message, as chat templates want it that know but user and assistant in turn."""
    found: list[dict[str, Any]] = []
    for message in messages:
        before = found[-1] if found else {}
        if (
            set(message) == set(before) == {"role", "content"}
            and message["role"] == before["role"]
            and all(isinstance(one["content"], str) for one in (before, message))
        ):
            found[-1] = before | {"content": f"{before['content']}\n\n{message['content']}"}
        else:
            found.append(message)
    return found


def groups(turns: Sequence[Turn], wait: int | None = None) -> list[Group]:
    """Turns in order, cut wherever a reader may begin or end: never between a call of tools and its last result.

    A result whose call isn't among the turns stands alone; calls may be answered late, with other turns between.

    wait: turns after a call, results not counted, from which on a result stands alone too; if not given, it belongs to
    its call however late it comes.
    """
    found: list[Group] = []
    held_until = -1
    for place, (turn, farthest) in enumerate(zip(turns, _last_results(turns, wait), strict=True)):
        if place > held_until:
            found.append([])
        found[-1].append(turn)
        held_until = max(held_until, farthest)
    return found


def _last_results(turns: Sequence[Turn], wait: int | None) -> list[int]:
    """Of each turn the place of the last result of what it calls, or its own."""
    last = list(range(len(turns)))
    spoken = list(accumulate(not answers_of(turn) for turn in turns))
    called: dict[str, int] = {}
    for place, turn in enumerate(turns):
        for call in calls_of(turn):
            called[call] = place
        for answered in answers_of(turn):
            caller = called.get(answered)
            if caller is not None and (wait is None or spoken[place] - spoken[caller] < wait):
                last[caller] = place
    return last


def settled(turns: Sequence[Turn]) -> Iterator[Group]:
    """The groups before the first call that may yet be answered: what they are depends on no turn to come."""
    to_come = spoken_in(turns)
    for group in groups(turns, LONGEST_WAIT):
        unanswered = waiting(group)
        for turn in group:
            to_come -= not answers_of(turn)
            if to_come < LONGEST_WAIT and turn in unanswered:
                return
        yield group


def spoken_in(turns: Sequence[Turn]) -> int:
    """How many of the turns are no results."""
    return sum(not answers_of(turn) for turn in turns)


def calls_of(turn: Turn) -> list[str]:
    """Ids of the calls that a turn makes. The older `function_call` has none: its name serves."""
    calls = [str(call.get("id")) for call in turn.message.get("tool_calls") or () if isinstance(call, dict)]
    older = turn.message.get("function_call")
    return [*calls, f"function {older.get('name')}"] if isinstance(older, dict) else calls


def answers_of(turn: Turn) -> list[str]:
    """Ids of the calls that a turn answers."""
    if turn.message["role"] == "tool":
        return [str(turn.message.get("tool_call_id"))]
    return [f"function {turn.message.get('name')}"] if turn.message["role"] == "function" else []


def waiting(group: Group) -> list[Turn]:
    """The turns with a call that none among them answers."""
    answered = {answer for turn in group for answer in answers_of(turn)}
    return [turn for turn in group if not answered.issuperset(calls_of(turn))]


def lacks_calls(group: Group) -> bool:
    """Whether there is a result among these turns whose call is not."""
    called = {call for turn in group for call in calls_of(turn)}
    return any(not called.issuperset(answers_of(turn)) for turn in group)
