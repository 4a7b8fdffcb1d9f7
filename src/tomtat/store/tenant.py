"""One tenant's view of a database: whose rows, how they are sealed, and the segments read last."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from tomtat.store.database import Database
from tomtat.store.messages import START, follow
from tomtat.store.sealing import Seal
from tomtat.store.segments import Row, compress, decompress

Key = TypeVar("Key")
Value = TypeVar("Value")


class Tenant:
    def __init__(self, db: Database, name: str, key: bytes | None) -> None:
        self.db, self.name = db, name
        self._seal = Seal(key, name) if key else None
        self.opened: Cache[int, list[Row]] = Cache(256)
        """Segments as they were unpacked, by key: a segment never changes and its key is never given twice."""
        self.found_terms: Cache[int, Any] = Cache(4096)
        """Terms of turns that the index hasn't got, by key."""

    @property
    def is_sealed(self) -> bool:
        return self._seal is not None

    def follow(self, chain: bytes, said: bytes) -> bytes:
        return follow(chain, said, self._seal.chain_key if self._seal else b"")

    def chains(self, start: bytes, said: Sequence[bytes]) -> list[bytes]:
        found = []
        for message in said:
            start = self.follow(start, message)
            found.append(start)
        return found

    def id_of(self, client_id: str) -> bytes:
        """A client's id as it is looked up: 16 bytes, whatever its length, and no text where the store is sealed."""
        return self.follow(START, client_id.encode())

    def close(self, data: bytes, place: str) -> bytes:
        """Bytes as they are written."""
        return self._seal.close(data, place) if self._seal else data

    def open(self, data: bytes, place: str) -> bytes:
        """Raises: Damaged."""
        return self._seal.open(data, place) if self._seal else data

    def shut(self, data: bytes, place: str) -> bytes:
        """Compressed, then sealed."""
        return self.close(compress(data), place)

    def unshut(self, data: bytes, place: str) -> bytes:
        """Raises: Damaged."""
        return decompress(self.open(data, place))


class Cache(Generic[Key, Value]):
    """The values asked for last, for several threads."""

    def __init__(self, size: int) -> None:
        self._size, self._values, self._lock = size, OrderedDict[Key, Value](), threading.Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()


def since_1970(seconds: float) -> int:
    """Milliseconds, as tables hold times."""
    return round(seconds * 1000)
