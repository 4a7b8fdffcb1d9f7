"""Older turns, many to a row: columns of JSON, compressed with zstd against a dictionary that ships with the package.

The dictionary was trained on the bundled conversations alone (`python -m tomtat.store.train_dictionary`), so no user's
text lives in it. A frame carries a checksum of its content, which is how `check` finds a flipped bit.
"""

import json
import threading
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from tomtat.store.messages import dump
from tomtat.store.values import Damaged

SEGMENT_TURNS = 64
"""Turns in a row. 128 save 3 % of the text more and take twice as long to read one turn out of."""

LEVEL = 12
"""zstd's. Level 19 saves 1 % of the text more in four times the time."""


class Row(NamedTuple):
    """A turn as the tables hold it, opened where it was sealed."""

    seq: int
    at: int
    """Milliseconds since 1970."""
    role: str
    content: str | None
    """The text of a message whose content is one; else the content is in `rest`."""
    rest: dict[str, Any] | None
    """All fields but role and such content; None where there are none."""

    def message(self) -> dict[str, Any]:
        return message_from(self.role, self.content, self.rest)


def message_from(role: str, content: str | None, rest: dict[str, Any] | None) -> dict[str, Any]:
    if rest is None:
        return {"role": role, "content": content}
    return {"role": role, **rest} if content is None else {"role": role, "content": content, **rest}


def split_message(message: dict[str, Any]) -> tuple[str, str | None, dict[str, Any] | None]:
    """Role, content and rest of a message, as `Row` keeps them."""
    content = message.get("content")
    # PostgreSQL's text can't hold NUL; JSON escapes it.
    if isinstance(content, str) and "\0" not in content:
        if len(message) == 2:
            return message["role"], content, None
        return message["role"], content, {k: v for k, v in message.items() if k not in ("role", "content")}
    return message["role"], None, {k: v for k, v in message.items() if k != "role"}


def pack(rows: Sequence[Row]) -> bytes:
    """Rows as one compressed frame: what alternates (who speaks) once and by number, times as steps, then the texts."""
    first = rows[0].seq
    is_gapless = rows[-1].seq - first + 1 == len(rows)
    voices: dict[str, int] = {}
    numbers = [voices.setdefault(dump([row.role, row.rest]), len(voices)) for row in rows]
    steps = [row.at - before.at for before, row in pairwise(rows)]
    seqs = str(first) if is_gapless else dump([row.seq for row in rows])
    texts = dump([row.content for row in rows])
    return compress(f"[{seqs},{rows[0].at},{dump(steps)},[{','.join(voices)}],{dump(numbers)},{texts}]".encode())


def unpack(body: bytes) -> list[Row]:
    """What `pack` packed.

    Raises: Damaged.
    """
    try:
        first, start, steps, voices, numbers, texts = json.loads(decompress(body))
        seqs = first if isinstance(first, list) else range(first, first + len(texts))
        times = accumulate(steps, initial=start)
        return [
            Row(seq, at, voices[number][0], text, voices[number][1])
            for seq, at, number, text in zip(seqs, times, numbers, texts, strict=True)
        ]
    except (ValueError, TypeError, IndexError) as error:
        raise Damaged(f"A compressed segment can't be read: {error}.") from error


def compress(data: bytes) -> bytes:
    found: bytes = _tools().compressor.compress(data)
    return found


def decompress(data: bytes) -> bytes:
    """Raises: Damaged."""
    import zstandard

    try:
        found: bytes = _tools().decompressor.decompress(data)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Damaged(f"Compressed bytes can't be read: {error}.") from error
    return found


class _Tools(threading.local):
    """One of each a thread: neither may be used by two at once."""

    def __init__(self) -> None:
        import zstandard

        self.compressor = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=_dictionary(), write_checksum=True, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary())


@cache
def _tools() -> _Tools:
    return _Tools()


@cache
def _dictionary() -> Any:
    import zstandard

    dictionary = zstandard.ZstdCompressionDict(files("tomtat.store").joinpath("chats.dictionary").read_bytes())
    dictionary.precompute_compress(level=LEVEL)
    return dictionary
