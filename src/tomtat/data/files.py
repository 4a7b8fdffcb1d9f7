"""Files as streams of UTF-8 lines: opened any number of times, decompressed, recoded, with damage told where it begins.

What a file holds is no matter here.
"""

import codecs
import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tomtat.data.compression import COMPRESSED_ENDINGS, BlockStream, decompressed
from tomtat.errors import DataError

SAMPLE_BYTES = 1 << 20
"""What is looked at to find the encoding and the delimiter."""

MARK_BYTES = 4096
"""So few tell whether a text is UTF-16."""

SPOOLED_IN_MEMORY_BYTES = 1 << 24
DAMAGED = "\udcff"
"""Stands for a piece that can't be decoded: as UTF-8 it becomes a byte that no text has, so that its row is told."""

log = logging.getLogger("tomtat.data")

codecs.register_error("tomtat.damaged", lambda error: (DAMAGED, getattr(error, "end", 0)))
codecs.register_error("tomtat.latin1", lambda error: (_bytes_of(error).decode("latin-1"), getattr(error, "end", 0)))


def _bytes_of(error: UnicodeError) -> bytes:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end]


@dataclass(frozen=True)
class Input:
    """One file, or a stream that was copied to where it can be read several times."""

    place: str
    """As people are told, such as the path."""
    path: Path | None = None
    copied: BinaryIO | None = None
    kind: str = ""
    """What it is, where that is known and not to be found by its name: `csv`, `jsonl`..."""
    short: str = ""
    """What it is called in ids, in a source of several files."""

    @property
    def ending(self) -> str:
        """Of its name, without that of the compression: `.csv` of `a.csv.gz`."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes] if self.path else []
        if suffixes and suffixes[-1] in COMPRESSED_ENDINGS:
            suffixes.pop()
        return suffixes[-1] if suffixes else ""

    @property
    def stem(self) -> str:
        """Its name without endings that say what it is."""
        name = self.path.name if self.path else self.place
        for ending in (*COMPRESSED_ENDINGS, self.ending):
            if ending and name.lower().endswith(ending) and len(name) > len(ending):
                name = name[: -len(ending)]
        return name

    def open_raw(self) -> BinaryIO:
        """Its bytes as they are. DataError if it can't be opened."""
        if self.copied:
            return io.BufferedReader(_View(self.copied))
        assert self.path
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise DataError(
                f"There is no file {self.place}. Check the path; it is taken from the current folder."
            ) from None
        except PermissionError:
            raise DataError(f"{self.place} can't be read: permission denied.") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.place} can't be read: {getattr(error, 'strerror', None) or error}.") from None


@dataclass(frozen=True)
class Opened:
    """Decompressed UTF-8."""

    file: io.BufferedReader
    raw: Any

    @property
    def problem(self) -> str | None:
        """Why the stream ended before its file did, if so; known at its end."""
        found: str | None = getattr(self.raw, "problem", None)
        return found

    def cuts(self, line: bytes) -> bool:
        """Whether a line lacks its end because the stream ended too early."""
        return not line.endswith(b"\n") and self.problem is not None


def exists(path: Path) -> bool:
    """Whether there is a file or folder of that name; none has a name too long to be one."""
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


@contextmanager
def opened(source: Input, *, or_latin1: bool = False) -> Iterator[Opened]:
    """A file's text as UTF-8, whatever it is compressed and encoded with.

    Text that is not UTF-8 and not marked as UTF-16 or 32 stays as it is, for its rows to be told, unless `or_latin1`
    allows the guess that the whole of it is in a Western encoding, which is logged.
    """
    encoding = encoding_of(head(source, SAMPLE_BYTES if or_latin1 else MARK_BYTES), or_latin1)
    if encoding == "cp1252":
        log.warning("%s is not UTF-8: it is read as Latin-1. Save it as UTF-8 if letters look wrong.", source.place)
    with source.open_raw() as file:
        raw: Any = decompressed(file, source.open_raw)
        if encoding:
            raw = _Recoded(raw, encoding)
        buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, 1 << 17)
        yield Opened(buffered, raw)


@contextmanager
def random_access(source: Input) -> Iterator[BinaryIO]:
    """A file's bytes with random access: the file itself, or a temporary copy of what is compressed in it."""
    with source.open_raw() as file:
        raw = decompressed(file, source.open_raw)
        if raw is file:
            yield file
            return
        with spooled(raw) as copy:
            if raw.problem:
                raise DataError(f"{source.place}: {raw.problem}. Fetch or make it again.")
            yield copy


@contextmanager
def spooled(stream: Any) -> Iterator[Any]:
    """A copy that can be read several times: in memory while it is small, then a temporary file (in TMPDIR) that goes
    when this process does."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED_IN_MEMORY_BYTES) as file:
        while block := stream.read(1 << 20):
            file.write(block)
        file.seek(0)
        yield file


def is_compressed(source: Input) -> bool:
    with source.open_raw() as file:
        return decompressed(file, source.open_raw) is not file


def head(source: Input, size: int = SAMPLE_BYTES) -> bytes:
    """The first decompressed bytes."""
    with source.open_raw() as file:
        raw = decompressed(file, source.open_raw)
        found = bytearray()
        while len(found) < size and (block := raw.read(size - len(found))):
            found += block
        return bytes(found)


def text_head(source: Input) -> str:
    """The same as text, as far as it is one; for guesses about what a file holds."""
    sample = head(source)
    encoding = encoding_of(sample, or_latin1=True) or "utf-8"
    return sample.decode(encoding, errors="replace").removeprefix("\ufeff")


def encoding_of(sample: bytes, or_latin1: bool = False) -> str | None:
    """By a byte order mark, by the zero bytes of UTF-16 without one, or by lines that are no UTF-8; None is UTF-8."""
    for mark, name in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")):
        if sample.startswith(mark):
            return name
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = sample[:MARK_BYTES]
    zeros = start[::2].count(0), start[1::2].count(0)
    if max(zeros) > len(start) * 0.15 and min(zeros) < len(start) * 0.01:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "cp1252" if or_latin1 and _is_western(sample) else None


def _is_western(sample: bytes) -> bool:
    """Whether some lines are no UTF-8, and none is beyond ASCII: one damaged line does not change the others."""
    lines = sample.split(b"\n")
    if len(lines) > 1 and len(sample) >= SAMPLE_BYTES:
        lines.pop()  # may be cut within a character
    beyond = [line for line in lines if not line.isascii()]
    return bool(beyond) and b"\0" not in sample and not any(_is_utf8(line) for line in beyond)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _View(io.RawIOBase):
    """A reader of a shared file that keeps its own place, so that several may read by turns. It closes nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self.place, 2: self.file.seek(0, 2) if whence == 2 else 0}[whence]
        self.place = base + offset
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.place)
        block = self.file.read(len(buffer))
        buffer[: len(block)] = block
        self.place += len(block)
        return len(block)


class _Recoded(BlockStream):
    """Another encoding as UTF-8; what can't be decoded becomes what can't be decoded there either."""

    def __init__(self, raw: Any, encoding: str) -> None:
        self.raw = raw
        errors = "tomtat.latin1" if encoding == "cp1252" else "tomtat.damaged"
        self.decoder = codecs.getincrementaldecoder(encoding)(errors)
        super().__init__()

    @property
    def problem(self) -> str | None:  # type: ignore[override]
        found: str | None = getattr(self.raw, "problem", None)
        return found

    def _blocks(self) -> Iterator[bytes]:
        while block := self.raw.read(1 << 16):
            yield self._utf8(self.decoder.decode(block))
        yield self._utf8(self.decoder.decode(b"", final=True))

    @staticmethod
    def _utf8(text: str) -> bytes:
        return text.encode("utf-8", errors="surrogateescape")
