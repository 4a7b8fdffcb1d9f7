"""What is kept in memory because it is asked for again: the values used last, as many as a limit in bytes allows."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Values by key, of at most `most` bytes together; the newest one stays whatever it takes. Not for threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        """Of all values, as whoever put them estimated."""
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """It counts as used now."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """In place of the one there is; those not used for longest make room.

        size: in bytes.
        """
        self._remove(key)
        self._values[key] = value, size
        self.bytes += size
        while self.bytes > self.most and len(self._values) > 1:
            self._remove(next(iter(self._values)))

    def drop(self, is_unwanted: Callable[[Key], bool]) -> None:
        """All whose key is unwanted."""
        for key in [key for key in self._values if is_unwanted(key)]:
            self._remove(key)

    def clear(self) -> None:
        self._values.clear()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def _remove(self, key: Key) -> None:
        _, size = self._values.pop(key, (None, 0))
        self.bytes -= size
