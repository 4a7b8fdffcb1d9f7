"""Who is signed in: a key once, then a cookie that stands for it."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tomtat.server.admission import Bucket
from tomtat.server.keys import KeyRecord, Keys

SECONDS = 12 * 3600.0
"""Until a session ends by itself."""
MOST = 10_000
"""Sessions, and addresses with wrong keys, that are remembered; beyond, the oldest is forgotten."""
TRIES = 10
"""Wrong keys that an address may send at once, and as many again each minute."""


@dataclass(frozen=True, slots=True)
class _Session:
    key: str
    """The key's name."""
    sha256: str
    """Of the key: a new key of the same name is another one."""
    ends: float


class Sessions:
    """In this process only: behind a balancer a reader comes back to the same one. Safe to use from several threads."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._clock = keys, clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._tries: OrderedDict[str, Bucket] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until this address may try another key."""
        with self._lock:
            bucket = self._tries.get(address)
            if bucket is None:
                return 0.0
            bucket.fill(self._clock())
            return bucket.wait

    def begin(self, key: str, address: str) -> str | None:
        """The cookie's value; None for a key that is none, which is counted against the address."""
        found = self._keys.find(f"Bearer {key.strip()}")
        with self._lock:
            if found is None:
                self._count(address)
                return None
            token = secrets.token_urlsafe(32)
            _, name, record = found
            self._sessions[_hash(token)] = _Session(name, record.sha256, self._clock() + SECONDS)
            _keep_newest(self._sessions)
            return token

    def find(self, token: str | None) -> KeyRecord | None:
        """The key behind a cookie, as long as it is valid: one that is removed is signed out with its next request."""
        if not token:
            return None
        with self._lock:
            session = self._sessions.get(_hash(token))
        record = self._keys.record(session.key) if session else None
        if session is None or record is None or session.ends < self._clock():
            return None
        return record if record.sha256 == session.sha256 and record.is_valid else None

    def end(self, token: str | None) -> None:
        with self._lock:
            self._sessions.pop(_hash(token or ""), None)

    def _count(self, address: str) -> None:
        now = self._clock()
        bucket = self._tries.setdefault(address, Bucket(TRIES, TRIES, now))
        bucket.fill(now)
        bucket.left = max(0.0, bucket.left - 1)
        _keep_newest(self._tries)


def _keep_newest(table: "OrderedDict[str, _Session] | OrderedDict[str, Bucket]") -> None:
    while len(table) > MOST:
        table.popitem(last=False)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
