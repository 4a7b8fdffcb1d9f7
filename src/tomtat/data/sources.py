"""What a source is, and its rows: a file of any format, a folder, a glob, two parallel files, standard input.

    chats.jsonl  mail.csv.gz  'data/*.parquet'  notes/  export/  articles.txt+summaries.txt  -

A format is known by a file's ending, and where that tells nothing by how the file begins.
"""

import glob
import hashlib
import logging
import re
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

from tomtat.data.compression import COMPRESSED_ENDINGS
from tomtat.data.files import (
    MARK_BYTES,
    SPOOLED_IN_MEMORY_BYTES,
    Input,
    encoding_of,
    exists,
    head,
    is_compressed,
    opened,
    text_head,
)
from tomtat.data.jsonfile import json_rows, looks_like_lines
from tomtat.data.jsonl import Row, parse_stream
from tomtat.data.parquet import parquet_rows
from tomtat.data.slack import day_files, day_rows, names_of
from tomtat.data.tables import delimited_rows, looks_like_table
from tomtat.data.texts import document_rows, paired_rows
from tomtat.errors import DataError

STANDARD_INPUT = "-"
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".psv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".vtt": "text",
    ".srt": "text",
}
"""What a file's ending says it is."""

OTHERS = {
    ".zip": "Unzip it first",
    ".xlsx": "Save it as CSV",
    ".xls": "Save it as CSV",
    ".pdf": "Save it as text",
    ".docx": "Save it as text",
}

log = logging.getLogger("tomtat.data")


@dataclass(frozen=True)
class Source:
    """Files, whose rows can be read any number of times, each time as a stream."""

    place: str
    """As people are told."""
    files: Sequence[Input]
    names: Mapping[str, str] | None = None
    """Of the people in a Slack export."""
    asked: Sequence[str] = ()
    """Columns that a table should have."""

    def rows(self) -> Iterator[Row]:
        """All rows in order, bad ones too. DataError where a whole file can't be read."""
        begin = 0
        for file in self.files:
            end = begin
            for row in self._rows_or_problem(file) if file.short else self._rows_of(file):
                end = max(end, begin + row.end)
                if file.short:
                    row = replace(row, place=file.place, file=file.short, start=begin + row.start, end=end)
                yield row
            begin = end

    def digest(self) -> str:
        """SHA-256 of a file's bytes, and of several files' with their names."""
        found = hashlib.sha256()
        for file in self.files:
            with file.open_raw() as raw:
                if file.short:
                    found.update(f"\n{file.short} {raw.seek(0, 2)}\n".encode("utf-8", "surrogateescape"))
                    raw.seek(0)
                while block := raw.read(1 << 16):
                    found.update(block)
        return found.hexdigest()

    def size(self) -> int:
        """Bytes of all files, compressed as they are."""
        sizes = []
        for file in self.files:
            with file.open_raw() as raw:
                sizes.append(raw.seek(0, 2))
        return sum(sizes)

    def single_text(self) -> bool:
        """Whether it is one text, rather than rows."""
        return len(self.files) == 1 and not self.files[0].short and kind_of(self.files[0], self.asked) == "text"

    def line_file(self) -> Path | None:
        """Its only file, if that is JSON Lines whose lines can be found by their bytes."""
        if (
            len(self.files) != 1
            or self.files[0].copied
            or self.files[0].short
            or kind_of(self.files[0], self.asked) != "jsonl"
        ):
            return None
        [file] = self.files
        return None if is_compressed(file) or encoding_of(head(file, MARK_BYTES)) else file.path

    def reads(self, path: Path) -> bool:
        """Whether a file is among those that are read, or would be if it were there."""
        own = [file.path for file in self.files if file.path and not file.copied]
        if path.exists() and any(file.exists() and path.samefile(file) for file in own):
            return True
        if not any(file.short for file in self.files) or Input(str(path), path).ending not in KINDS:
            return False
        folder = Path(self.place).expanduser()
        if folder.is_dir():
            return path.resolve().is_relative_to(folder.resolve())
        return fnmatch(str(path.resolve()), str(folder.absolute()))

    def _rows_or_problem(self, file: Input) -> Iterator[Row]:
        """One unreadable file among several is a bad row, and the others are read."""
        try:
            yield from self._rows_of(file)
        except DataError as error:
            yield Row(1, problem=str(error).removesuffix("."), unit="")

    def _rows_of(self, file: Input) -> Iterator[Row]:
        if self.names is not None:
            return day_rows(file, self.names)
        match kind_of(file, self.asked):
            case "jsonl":
                return line_rows(file)
            case "json":
                return json_rows(file)
            case "csv":
                return delimited_rows(file, self.asked)
            case "parquet":
                return parquet_rows(file)
            case _:
                return document_rows(file)


@dataclass(frozen=True)
class Pair(Source):
    """Two files whose lines belong together."""

    def rows(self) -> Iterator[Row]:
        texts, summaries = self.files
        return paired_rows(texts, summaries)


def line_rows(file: Input) -> Iterator[Row]:
    """JSON Lines."""
    with opened(file) as stream:
        number = 0
        for row in parse_stream(stream.file):
            number = row.line
            yield row
        if stream.problem:
            yield Row(number + 1, problem=stream.problem)


def kind_of(file: Input, asked: Sequence[str] = ()) -> str:
    """jsonl, json, csv, parquet or text; `asked` are columns that make a text a table. DataError for other kinds."""
    if file.kind:
        return file.kind
    if kind := KINDS.get(file.ending):
        return kind
    if file.ending in OTHERS:
        raise DataError(f"{file.place}: {file.ending} files can't be read. {OTHERS[file.ending]}.")
    if head(file, 4) == b"PAR1":
        return "parquet"
    text = text_head(file)
    if looks_like_lines(text):
        return "jsonl"
    if re.match(r'\s*(\{\s*"|\[\s*[\[{])', text):
        return "json"
    return "csv" if looks_like_table(text, asked) else "text"


def is_source(name: str) -> bool:
    """Whether a name is of files, rather than of a data set on the hub."""
    endings = (*KINDS, *OTHERS, *COMPRESSED_ENDINGS)
    looks_like_path = name.startswith((".", "/", "~")) or name.lower().endswith(endings) or name.endswith("/")
    return name == STANDARD_INPUT or looks_like_path or exists(Path(name)) or _is_glob(name) or _pair(name) is not None


def open_source(name: str, asked: Sequence[str] = (), kind: str = "") -> Source:
    """The files of a source, of which nothing is read yet. DataError if there are none."""
    if name == STANDARD_INPUT:
        if sys.stdin is None:
            raise DataError("Standard input is closed. Name a file, or send the rows through a pipe.")
        return Source("standard input", [_copied("standard input", sys.stdin.buffer, None, kind)], asked=asked)
    path = Path(name).expanduser()
    if not exists(path):
        if pair := _pair(name):
            return Pair(name, [_input(part, part.as_posix(), "text") for part in pair])
        if _is_glob(name):
            return _found(name, asked, kind)
    if path.is_dir():
        return _folder(path, name, asked, kind)
    return Source(name, [_input(path, name, kind)], asked=asked)


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?") and not exists(Path(name))


def _pair(name: str) -> tuple[Path, Path] | None:
    """`articles.txt+summaries.txt`, at whichever plus sign there are two files."""
    for at, mark in enumerate(name):
        if mark == "+":
            first, second = (Path(part.strip()).expanduser() for part in (name[:at], name[at + 1 :]))
            if name[:at] and name[at + 1 :] and exists(first) and exists(second):
                return first, second
    return None


def _found(name: str, asked: Sequence[str], kind: str) -> Source:
    pattern = str(Path(name).expanduser())
    paths = [path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()]  # noqa: PTH207
    if not paths:
        raise DataError(f"No file is called like {name}. Check the pattern; it is taken from the current folder.")
    return Source(name, _named([_input(path, str(path), kind) for path in paths], _fixed_part(pattern)), asked=asked)


def _fixed_part(pattern: str) -> Path:
    """The folder that all files of a pattern lie in."""
    parts = Path(pattern).parts[:-1]
    marked = next((number for number, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    return Path(*parts[:marked])


def _folder(folder: Path, name: str, asked: Sequence[str], kind: str) -> Source:
    """A Slack export, or every file below a folder that has an ending we know, in the order of their names."""
    try:
        if days := day_files(folder):
            inputs = [replace(_input(path, str(path)), short=f"{path.parent.name}/{path.stem}") for path in days]
            return Source(name, inputs, names_of(folder))
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    except PermissionError as error:
        raise DataError(f"{error.filename} can't be read: permission denied.") from None
    inputs = [_input(path, str(path), kind) for path in files]
    known = [file for file in inputs if kind or file.ending in KINDS]
    if not known:
        raise DataError(f"{name} is a folder without files that can be read: {', '.join(KINDS)}, or these compressed.")
    if others := sorted({file.ending or "none" for file in inputs if file not in known}):
        left_out = len(inputs) - len(known)
        log.warning("%s: %d files of other kinds are left out (endings: %s).", name, left_out, ", ".join(others))
    return Source(name, _named(known, folder), asked=asked)


def _named(files: Sequence[Input], root: Path) -> list[Input]:
    """Files with the names that they have in ids: texts without their endings, where that tells them apart."""
    wholes = [(file.path or Path(file.place)).relative_to(root).as_posix() for file in files]
    shorts = [whole.removesuffix(Path(whole).name) + file.stem for whole, file in zip(wholes, files, strict=True)]
    count = Counter(shorts)
    names = [
        short if KINDS.get(file.ending, "text") == "text" and count[short] == 1 else whole
        for file, whole, short in zip(files, wholes, shorts, strict=True)
    ]
    return [replace(file, short=name) for file, name in zip(files, names, strict=True)]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)


def _input(path: Path, place: str, kind: str = "") -> Input:
    try:
        is_stream = stat.S_ISFIFO(path.stat().st_mode) or stat.S_ISCHR(path.stat().st_mode)
    except (OSError, ValueError):
        is_stream = False
    if is_stream:
        with path.open("rb") as stream:
            return _copied(place, stream, path, kind)
    return Input(place, path, kind=kind)


def _copied(place: str, stream: BinaryIO, path: Path | None, kind: str) -> Input:
    """A stream that can be read several times: in memory while it is small, then in a temporary file (in TMPDIR)
    that goes with this process."""
    file: Any = tempfile.SpooledTemporaryFile(max_size=SPOOLED_IN_MEMORY_BYTES)  # noqa: SIM115
    copyfileobj(stream, file, 1 << 20)
    return Input(place, path, file, kind)
