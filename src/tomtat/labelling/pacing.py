"""Limits: how often a server is asked, how long it is left alone, what may be spent."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_WAIT, LONGEST_BACKOFF = 1.0, 60.0
"""Seconds before a request is repeated where the server names none: the first, doubled each time up to the last."""
LOOK_SECONDS = 0.2
"""While somebody waits, he looks this often whether the work was stopped."""
LEAST_SHARE = 0.25
"""Of our own count: a server that reports fewer tokens than this share of it is not believed."""


def backoff(attempt: int) -> float:
    """Seconds before the retry after failure `attempt`, from 0; drawn, so that not all come back at once."""
    return float(min(FIRST_WAIT * 2**attempt, LONGEST_BACKOFF) * random.uniform(0.5, 1.0))


class Pace:
    """Requests one behind another, not more than `per_minute`, and none while the server wants to be left alone."""

    def __init__(self, per_minute: float | None, is_stopped: Callable[[], bool]) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._is_stopped = is_stopped
        self._next = 0.0

    def pause(self, seconds: float) -> None:
        """For all requests: the limit is the key's, not a chat's."""
        self._next = max(self._next, time.monotonic() + seconds)

    async def turn(self) -> bool:
        """Wait until a request may go; whether it may, or the work was stopped meanwhile."""
        while (left := self._next - time.monotonic()) > 0 and not self._is_stopped():
            await asyncio.sleep(min(left, LOOK_SECONDS))
        if self._is_stopped():
            return False
        self._next = max(self._next, time.monotonic()) + self._gap
        return True


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in any currency."""

    prompt: float = 0.0
    new: float = 0.0

    def of(self, spent: "Spent") -> float:
        return (spent.prompt_tokens * self.prompt + spent.new_tokens * self.new) / 1e6


@dataclass(frozen=True)
class Spent:
    prompt_tokens: int = 0
    new_tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.prompt_tokens + other.prompt_tokens, self.new_tokens + other.new_tokens)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.prompt_tokens - other.prompt_tokens, self.new_tokens - other.new_tokens)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens


def believed(reported: int | None, counted: int) -> tuple[int, bool]:
    """Tokens to count, and whether they are our own estimate: reported ones hold, unless there are none or absurdly
    few. (Too many are believed, as they will be charged.)"""
    if reported is None or reported < LEAST_SHARE * counted:
        return counted, True
    return reported, False


class Budget:
    """What may be spent on a file of drafts. Questions on their way count as the most that they may cost."""

    def __init__(self, spent: Spent, prices: Prices | None, max_cost: float | None, max_tokens: int | None) -> None:
        """spent: on this file so far."""
        self.spent = spent
        self._prices = prices or Prices()
        self._max_cost, self._max_tokens = max_cost, max_tokens
        self._on_their_way: list[Spent] = []

    @property
    def is_waiting(self) -> bool:
        """Whether what is on its way may yet turn out cheaper."""
        return bool(self._on_their_way)

    def take(self, most: Spent) -> bool:
        """Count a question as on its way, if there is enough left for the most that it may cost."""
        total = sum([*self._on_their_way, most], self.spent)
        if self._max_tokens is not None and total.tokens > self._max_tokens:
            return False
        if self._max_cost is not None and self._prices.of(total) > self._max_cost:
            return False
        self._on_their_way.append(most)
        return True

    def settle(self, most: Spent, real: Spent) -> None:
        """It is over, and cost this."""
        self._on_their_way.remove(most)
        self.spent += real
