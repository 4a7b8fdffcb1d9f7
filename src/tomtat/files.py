"""Writing files so that a kill or a full disk leaves the old content or the new, never a half."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def error_number(error: BaseException) -> int | None:
    """The system's own; safetensors and others written in Rust tell it by words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\bos error (\d+)\b", str(error))
    return int(found[1]) if found else None


def is_disk_full(error: BaseException) -> bool:
    """Whether this is what comes of writing where there is no room."""
    return error_number(error) in FULL


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new, empty folder beside `folder` to write into; it takes `folder`'s place when all went well."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    recover_folder(folder)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    for path in [*new.rglob("*"), new]:
        sync(path)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Undo what a kill inside `replace_folder` left: at every moment one of the two folders is whole."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    _write(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Lines with their ends, as they come: no more than one is held."""
    _write(path, lines)


def _write(path: Path, parts: Iterable[str], private: bool = False) -> None:
    new = path.with_name(path.name + ".new")
    try:
        if private:
            new.unlink(missing_ok=True)
            new.touch(mode=0o600)
        with new.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        sync(new)
        new.replace(path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_disk_full(error):
            error.filename = error.filename or str(path)  # the system tells no place
        raise


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """private: only the file's owner may read it."""
    _write(path, [json.dumps(value, ensure_ascii=False, indent=2) + "\n"], private)


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    _write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(*paths: Path) -> str:
    """One digest over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
