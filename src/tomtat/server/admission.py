"""Who may go in: places for requests under way, a rate for each key, tokens a day for each tenant."""

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio.to_thread
from filelock import FileLock
from filelock import Timeout as LockTimeout

from tomtat.files import write_json
from tomtat.server import errors
from tomtat.server.keys import Keys
from tomtat.server.metrics import Metrics
from tomtat.server.services import Caller
from tomtat.server.settings import LimitSettings

log = logging.getLogger(__name__)

SAVE_SECONDS = 5.0
"""A day's tokens are written this often at most: what a kill can lose of them."""
FULL_SECONDS = 1.0
"""When to come again where every place is taken: most requests take about that."""


@dataclass(slots=True)
class Bucket:
    """So many requests at once, and as many again over a minute."""

    size: int
    left: float
    filled: float
    """When it was filled last."""

    def fill(self, now: float) -> None:
        self.left = min(self.size, self.left + (now - self.filled) * self.size / 60)
        self.filled = now

    @property
    def wait(self) -> float:
        """Seconds until the next request may come."""
        return max(0.0, (1 - self.left) * 60 / self.size)


class Gate:
    """`services.Admission`. Rates and places are this process's own; a day's tokens are shared by those processes that
    use the same file."""

    def __init__(
        self, limits: LimitSettings, keys: Keys, metrics: Metrics, *,
        clock: Callable[[], float] = time.monotonic, today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.limits, self.keys, self.metrics = limits, keys, metrics
        self._clock, self._today = clock, today
        self._buckets: dict[str, Bucket] = {}
        self._days = DayTokens(keys.path.with_name(keys.path.name + ".usage") if keys.path else None)
        self._count = 0

    @property
    def under_way(self) -> int:
        return self._count

    @asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[None]:
        self._check_day(caller)
        with self._place():
            self._take_from_bucket(caller)
            yield

    def spent(self, caller: Caller, tokens: int) -> None:
        self._days.add(self._date(), caller.tenant, tokens)

    def headers(self, caller: Caller) -> dict[str, str]:
        """How much of the rate is left, in the names that OpenAI's clients know."""
        bucket = self._bucket(caller)
        if bucket is None:
            return {}
        return {
            "x-ratelimit-limit-requests": str(bucket.size),
            "x-ratelimit-remaining-requests": str(max(0, int(bucket.left))),
            "x-ratelimit-reset-requests": f"{math.ceil((bucket.size - bucket.left) * 60 / bucket.size)}s",
        }

    def tokens_today(self, tenant: str) -> int:
        return self._days.of(self._date(), tenant)

    def requests_per_minute(self, caller: Caller) -> int | None:
        record = self.keys.record(caller.key)
        return (record.requests_per_minute if record else None) or self.limits.requests_per_minute

    def tokens_per_day(self, caller: Caller) -> int | None:
        record = self.keys.record(caller.key)
        return (record.tokens_per_day if record else None) or self.limits.tokens_per_day

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[None]:
        """While a server runs: the days' tokens are written every few seconds, and once more at the end."""
        await anyio.to_thread.run_sync(self._days.save)
        saver = asyncio.create_task(self._save_often())
        try:
            yield
        finally:
            saver.cancel()
            await asyncio.gather(saver, return_exceptions=True)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._days.save)

    # -- inside

    def _check_day(self, caller: Caller) -> None:
        allowed = self.tokens_per_day(caller)
        if allowed is not None and self.tokens_today(caller.tenant) >= allowed:
            self.metrics.refused("tokens_per_day")
            seconds = self._seconds_to_midnight()
            raise errors.busy(
                f"The {allowed:,} tokens of this day (UTC) are used up.", math.ceil(seconds), "insufficient_quota"
            )

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._count >= self.limits.requests:
            self.metrics.refused("places")
            raise errors.busy(
                f"All {self.limits.requests} places are taken. Try again soon.", FULL_SECONDS, "overloaded"
            )
        self._count += 1
        self.metrics.under_way(self._count)
        try:
            yield
        finally:
            self._count -= 1
            self.metrics.under_way(self._count)

    def _take_from_bucket(self, caller: Caller) -> None:
        bucket = self._bucket(caller)
        if bucket is None:
            return
        if bucket.left < 1:
            self.metrics.refused("requests_per_minute")
            error = errors.busy(f"More than {bucket.size} requests a minute with this key.", math.ceil(bucket.wait))
            error.headers |= self.headers(caller)
            raise error
        bucket.left -= 1

    def _bucket(self, caller: Caller) -> Bucket | None:
        """As full as it is now; None where the key has no rate."""
        size = self.requests_per_minute(caller)
        if size is None:
            return None
        now = self._clock()
        bucket = self._buckets.get(caller.key)
        if bucket is None or bucket.size != size:
            bucket = self._buckets[caller.key] = Bucket(size, size, now)
        bucket.fill(now)
        return bucket

    def _date(self) -> str:
        return self._today().strftime("%Y-%m-%d")

    def _seconds_to_midnight(self) -> float:
        now = self._today()
        return (now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1) - now).total_seconds()

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await anyio.to_thread.run_sync(self._days.save)


class DayTokens:
    """Tokens of one day by tenant: this process's, and through the file those of others and of earlier ones.

    Safe to use from several threads. What was counted since the last `save` is lost with a kill.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._day = ""
        self._saved: dict[str, int] = {}
        self._new: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, day: str, tenant: str) -> int:
        with self._lock:
            self._turn_to(day)
            return self._saved.get(tenant, 0) + self._new.get(tenant, 0)

    def add(self, day: str, tenant: str, tokens: int) -> None:
        with self._lock:
            self._turn_to(day)
            self._new[tenant] = self._new.get(tenant, 0) + tokens

    def save(self) -> None:
        """Add what is new to the file, and learn what others have added. A file that can't be written is told in the
        log: nobody is refused for it."""
        if self.path is None:
            return
        try:
            with FileLock(f"{self.path}.lock", timeout=2):
                self._save(self.path)
        except (OSError, LockTimeout) as error:
            log.error("the day's tokens can't be written: %s", type(error).__name__)

    def _save(self, path: Path) -> None:
        day, others = _read_day(path)
        with self._lock:
            self._day = self._day or day
            mine, new = self._day, dict(self._new)
        total = dict(others) if day == mine else {}
        for tenant, tokens in new.items():
            total[tenant] = total.get(tenant, 0) + tokens
        # A file of a later day is another process's, whose clock is a moment ahead.
        if any(new.values()) and mine >= day:
            write_json(path, {"day": mine, "tokens": total}, private=True)
        with self._lock:
            if self._day == mine:
                self._saved = total
                for tenant, tokens in new.items():
                    self._new[tenant] -= tokens

    def _turn_to(self, day: str) -> None:
        if day != self._day:
            self._day, self._saved, self._new = day, {}, {}


def _read_day(path: Path) -> tuple[str, dict[str, int]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return str(value["day"]), {str(tenant): int(tokens) for tenant, tokens in value["tokens"].items()}
    except FileNotFoundError:
        return "", {}
    except (ValueError, KeyError, TypeError, AttributeError):
        log.error("%s is damaged: the day's tokens are counted from 0", path.name)
        return "", {}
