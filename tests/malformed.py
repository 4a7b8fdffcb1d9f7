"""Valid files of every format with the bytes that each row takes, and ways to damage them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

WORDS = 'Ann Bob hello, yes; "quoted" no|thing ngày mai họp ở phòng 4 → naïve 会議は金曜日 it\'s 🎉 tab {braces} [list]'.split(
    " "
)
SEPARATOR_BYTES = 2
"""Damage to what parts two rows touches both."""

Pair = tuple[Any, tuple[str, ...]]


@dataclass(frozen=True)
class Valid:
    """A file, and where its rows lie in it; damage elsewhere (a header, an archive's ends) may touch all of them."""

    ending: str
    content: bytes
    spans: list[tuple[int, int]]
    pairs: list[Pair]

    def untouched(self, damaged: range) -> list[Pair]:
        """Rows that damage to these bytes leaves whole. What is behind the last row touches none."""
        inside = [(start, end) for start, end in self.spans]
        if damaged.start < inside[0][0]:
            return []
        return [
            pair
            for (start, end), pair in zip(self.spans, self.pairs, strict=True)
            if not (start - SEPARATOR_BYTES < damaged.stop and damaged.start < end)
        ]


def examples(rng: random.Random, count: int = 24) -> list[dict[str, str]]:
    def text(most: int) -> str:
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, most))]
        return " ".join(words) + (f"\nBob: {' '.join(words[:5])}" if rng.random() < 0.3 else "")

    return [{"id": f"chat-{n}", "dialogue": f"Ann: {text(30)}", "summary": f"About {text(4)}"} for n in range(count)]


def pairs_of(rows: list[dict[str, str]]) -> list[Pair]:
    return [(row["dialogue"].strip(), (row["summary"].strip(),)) for row in rows]


def spans_of(parts: list[bytes], begin: int) -> Iterator[tuple[int, int]]:
    for part in parts:
        yield begin, begin + len(part)
        begin += len(part)


def json_lines(rng: random.Random) -> Valid:
    rows = examples(rng)
    parts = [json.dumps(row, ensure_ascii=rng.random() < 0.5).encode() + b"\n" for row in rows]
    return Valid(".jsonl", b"".join(parts), list(spans_of(parts, 0)), pairs_of(rows))


def json_list(rng: random.Random) -> Valid:
    rows = examples(rng)
    indent = rng.choice([None, 2])
    before, behind = rng.choice([(b"[", b"]"), (b'{"version": 1, "data": [', b'], "end": {}}')])
    parts = [json.dumps(row, ensure_ascii=False, indent=indent).encode() + b",\n" for row in rows]
    parts[-1] = parts[-1][:-2]
    return Valid(".json", before + b"".join(parts) + behind, list(spans_of(parts, len(before))), pairs_of(rows))


def chats(rng: random.Random) -> Valid:
    rows = examples(rng)
    shape = rng.choice(["openai", "sharegpt"])
    parts = []
    for row in rows:
        said = (
            {"role": "user", "content": row["dialogue"]}
            if shape == "openai"
            else {"from": "human", "value": row["dialogue"]}
        )
        column = "messages" if shape == "openai" else "conversations"
        parts.append(json.dumps({"id": row["id"], column: [said], "summary": row["summary"]}).encode() + b",")
    parts[-1] = parts[-1][:-1]
    from tomtat.types import Message

    pairs: list[Pair] = [((Message("user", row["dialogue"]),), (row["summary"].strip(),)) for row in rows]
    return Valid(".json", b"[" + b"".join(parts) + b"]", list(spans_of(parts, 1)), pairs)


def table(rng: random.Random) -> Valid:
    rows = examples(rng)
    delimiter, ending = rng.choice([(",", ".csv"), (";", ".csv"), ("\t", ".tsv"), ("|", ".csv")])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    parts = []
    for values in [list(rows[0]), *(list(row.values()) for row in rows)]:
        line = io.StringIO()
        csv.writer(line, delimiter=delimiter, quoting=quoting).writerow(values)
        parts.append(line.getvalue().encode())
    return Valid(ending, b"".join(parts), list(spans_of(parts, 0))[1:], pairs_of(rows))


def parquet(rng: random.Random) -> Valid:
    rows = examples(rng)
    file = io.BytesIO()
    how = rng.choice(["none", "snappy", "zstd"])
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=6, compression=how, write_page_checksum=True)
    found = pq.ParquetFile(file).metadata
    spans: list[tuple[int, int]] = []
    for number in range(found.num_row_groups):
        columns = [found.row_group(number).column(at) for at in range(found.num_columns)]
        start = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
        spans += [(start, start + sum(column.total_compressed_size for column in columns))] * 6
    return Valid(".parquet", file.getvalue(), spans, pairs_of(rows))


FORMATS: list[Callable[[random.Random], Valid]] = [json_lines, json_list, chats, table, parquet]
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}

Damage = Callable[[random.Random, Valid], tuple[bytes, range]]
"""Gives the damaged content, and the bytes of the valid one that were damaged."""


def _replaced(valid: Valid, at: int, size: int, by: bytes) -> tuple[bytes, range]:
    return valid.content[:at] + by + valid.content[at + size :], range(at, at + max(size, 1))


def _place(rng: random.Random, valid: Valid) -> int:
    return rng.randrange(len(valid.content) - 8)


def flip(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    at = _place(rng, valid)
    return _replaced(valid, at, 1, bytes([valid.content[at] ^ rng.randint(1, 255)]))


def truncate(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    at = _place(rng, valid)
    return valid.content[:at], range(at, len(valid.content))


def nul(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    return _replaced(valid, _place(rng, valid), rng.choice([0, 1, 4]), b"\0" * rng.randint(1, 4))


def latin1(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    return _replaced(valid, _place(rng, valid), 1, "é".encode("latin-1"))


def surrogate(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    return _replaced(valid, _place(rng, valid), 1, rng.choice([b"\\ud83d", b"\xed\xa0\xbd"]))


def nested(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    return _replaced(valid, _place(rng, valid), 1, rng.choice([b"[", b'{"a":']) * rng.choice([3, 3000]))


def mark(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    """A delimiter or quote where none was."""
    return _replaced(
        valid, _place(rng, valid), rng.choice([0, 1]), rng.choice([b'"', b",", b";", b"\t", b"|", b"}", b"]", b"\\"])
    )


def wrong_type(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    """Another value where a text was, in formats that have types."""
    start, end = rng.choice(valid.spans)
    by = rng.choice([b"7", b"null", b"[1, {}]", b'{"x": []}', b"1e999", b"9" * 5000, b"true"])
    at = valid.content.find(b'"Ann', start, end)
    return _replaced(valid, at, 1, by + b', "x": "') if at >= 0 else _replaced(valid, start, end - start, by)


def garbage(rng: random.Random, valid: Valid) -> tuple[bytes, range]:
    size = rng.randint(1, 40)
    return _replaced(valid, _place(rng, valid), rng.choice([0, size]), rng.randbytes(size))


DAMAGES: list[Damage] = [flip, truncate, nul, latin1, surrogate, nested, mark, wrong_type, garbage]


def write_damaged(folder: Path, seed: int) -> tuple[Path, list[Pair], str]:
    """A malformed file, the rows that must be found in it, and how it was made."""
    rng = random.Random(seed)
    make, damage = FORMATS[seed % len(FORMATS)], DAMAGES[seed // len(FORMATS) % len(DAMAGES)]
    valid = make(rng)
    archive = rng.choice(list(COMPRESSIONS)) if rng.random() < 0.3 else ""
    if archive and rng.random() < 0.5 and make is not parquet:
        content, wanted = _cut_archive(rng, valid, archive)
        how = f"{make.__name__} in a cut {archive}"
    else:
        content, damaged = damage(rng, valid)
        if make is parquet and len(content) != len(valid.content):
            damaged = range(damaged.start, len(valid.content))  # its footer tells at which byte each row group lies
        wanted = valid.untouched(damaged)
        content = COMPRESSIONS[archive](content) if archive else content
        how = f"{make.__name__}{archive} with {damage.__name__} at {damaged.start} to {damaged.stop}"
        if make is parquet and damaged.stop > valid.spans[-1][1]:
            wanted = []
    path = folder / f"{seed}{valid.ending}{archive}"
    path.write_bytes(content)
    return path, wanted, how


def _cut_archive(rng: random.Random, valid: Valid, archive: str) -> tuple[bytes, list[Pair]]:
    """Rows of the first of two archives behind one another are there, whatever the second has lost."""
    whole = rng.randint(1, len(valid.spans) - 2)
    cut = valid.spans[whole][0]
    first, second = COMPRESSIONS[archive](valid.content[:cut]), COMPRESSIONS[archive](valid.content[cut:])
    return first + second[: rng.randint(1, len(second) - 1)], valid.pairs[:whole]
