"""Compressed files as streams: known by their first bytes, whatever they are called.

Damage ends a stream, and `problem` says so: what lies before it is not lost with it.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
BLOCK_BYTES = 1 << 14
"""Compressed bytes at a time, at most."""

INFLATED_BYTES = 1 << 18
"""What a block should become, about: bytes may grow a thousandfold."""


class BlockStream(io.RawIOBase):
    """Bytes that are made block by block."""

    problem: str | None = None

    def __init__(self) -> None:
        self.ready = b""
        self.blocks = self._blocks()

    def _blocks(self) -> Iterator[bytes]:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            block = next(self.blocks, None)
            if block is None:
                return 0
            self.ready = block
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


@dataclass(frozen=True)
class _Compression:
    name: str
    magic: bytes
    decompressor: Callable[[], Any]


COMPRESSIONS = (
    _Compression("gzip", b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    _Compression("bzip2", b"BZh", bz2.BZ2Decompressor),
    _Compression("xz", b"\xfd7zXZ\0", lzma.LZMADecompressor),
    _Compression("zstd", b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj()),
)
ERRORS = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError)


def decompressed(file: Any, reopen: Callable[[], BinaryIO]) -> Any:
    """A stream of what is in a compressed file; the file itself if it is none. `reopen` begins it anew."""
    start = file.peek(8)[:8]
    for compression in COMPRESSIONS:
        if start.startswith(compression.magic):
            return _Decompressed(file, compression, reopen)
    return file


class _Decompressed(BlockStream):
    def __init__(self, file: BinaryIO, compression: _Compression, reopen: Callable[[], BinaryIO]) -> None:
        self.file = file
        self.compression = compression
        self.reopen = reopen
        self.step = BLOCK_BYTES // 16
        super().__init__()

    def _blocks(self) -> Iterator[bytes]:
        given = 0
        try:
            for made in self._inflated(self._read()):
                given += len(made)
                self.step = max(1, min(BLOCK_BYTES, self.step * INFLATED_BYTES // len(made), 2 * self.step))
                yield made
        except ERRORS as error:
            self.problem = f"the {self.compression.name} data {error if isinstance(error, _Cut) else 'is damaged'} here"
            yield self._salvaged(given)

    def _read(self) -> Iterator[bytes]:
        while block := self.file.read(self.step):
            yield block

    def _inflated(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """All of several archives behind one another, and of the zeros that some are filled up with."""
        decompressor = self.compression.decompressor()
        for block in blocks:
            while block:
                if decompressor.eof:
                    block = block.lstrip(b"\0")
                    if not block:
                        break
                    decompressor = self.compression.decompressor()
                if made := decompressor.decompress(block):
                    yield made
                block = decompressor.unused_data if decompressor.eof else b""
        if not decompressor.eof:
            raise _Cut("is cut off")

    def _salvaged(self, given: int) -> bytes:
        """What lies before the damage in its block: decompressors give a block's bytes or an error, not both."""
        made, seen = bytearray(), 0
        with self.reopen() as file:
            try:
                for part in self._inflated(_small_blocks_of(file, self.file.tell() - BLOCK_BYTES)):
                    seen += len(part)
                    if seen > given:
                        made += part[max(0, len(part) - (seen - given)) :]
            except ERRORS:
                pass
        return bytes(made)


class _Cut(EOFError):
    """An archive that ends too early."""


def _small_blocks_of(file: BinaryIO, large_until: int) -> Iterator[bytes]:
    """Whole blocks up to a place, then single bytes."""
    while large_until > 0 and (block := file.read(min(BLOCK_BYTES, large_until))):
        large_until -= len(block)
        yield block
    for byte in file.read(BLOCK_BYTES):
        yield bytes([byte])
