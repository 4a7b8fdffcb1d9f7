"""The rows of one source without those that repeat an earlier one: what `tomtat data check` tells, `tomtat data dedupe`
takes away.

Rows go by twice, and of each only its hashes stay between (`duplicates.py`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tomtat.bulk import rejects_path
from tomtat.checking.duplicates import DuplicateFinder, Duplicates
from tomtat.data import DataOptions, Reject
from tomtat.data.jsonl import Row
from tomtat.data.loading import bad_row_error, example_or_reject, open_rows
from tomtat.errors import ConfigError, DataError
from tomtat.files import write_json_lines, write_lines
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.text import words
from tomtat.text.runs import hashed
from tomtat.types import Example


@dataclass(frozen=True)
class Unique:
    """What was written, and what was left out."""

    rows: int
    bad: int
    duplicates: Duplicates

    @property
    def kept(self) -> int:
        return self.rows - self.bad - self.duplicates.superfluous


def write_unique(
    source: str, out: Path, options: DataOptions | None = None, progress: Progress | None = None
) -> Unique:
    """Write the rows of a data specification to a file of JSON Lines, in their order; of rows that say the same, or
    nearly, the first alone.

    The file comes whole or not at all, and must not be there before. Lines of JSON Lines stay as they are, to the
    letter. A row needs no summary and no id of its own. Memory goes with the number of rows, 4 kB each at the most.

    Raises: ConfigError where the file can't be made; DataError for a source that can't be read, and for the first bad
    row, unless `options` skip them: then they go to OUT.rejects.jsonl.
    """
    options = options or DataOptions(needs_summary=False)
    progress = progress or Progress()
    require_new(out)
    rows, place = open_rows(source, options)
    found, digest = _look_over(rows, place, options, progress)
    if found.bad:
        judged = (example_or_reject(row, place, options) for row in rows())
        write_json_lines(rejects_path(out), (asdict(one) for one in judged if isinstance(one, Reject)))
    usable = (row for row in rows() if isinstance(example_or_reject(row, place, options), Example))
    write_lines(out, _firsts(map(_line, usable), found.duplicates, digest, place))
    return found


def require_new(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"--out {out} is there already, and nothing is replaced. Choose another name, or remove it.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out} lies in {out.parent}, which is no folder. Make it first.")


def _look_over(
    rows: Callable[[], Iterator[Row]], place: str, options: DataOptions, progress: Progress
) -> tuple[Unique, bytes]:
    """What repeats, and the SHA-256 of all usable lines."""
    count = sum(1 for _ in rows())
    if not count:
        raise DataError(f"{place} has no rows. Is it the right file?")
    finder, digest, bad = DuplicateFinder(), hashlib.sha256(), 0
    with progress.task(f"comparing {place}", count, "rows") as advance:
        for row in rows():
            found = example_or_reject(row, place, options)
            if isinstance(found, Example):
                digest.update(_line(row).encode())
                summary = found.references[0] if found.references else ""
                finder.add(hashed(words(source_text(found.source))), hashed(words(summary)))
            elif options.on_bad_row == "stop":
                raise bad_row_error(found)
            else:
                bad += 1
            advance(1)
    return Unique(count, bad, finder.find()), digest.digest()


def _firsts(lines: Iterable[str], duplicates: Duplicates, digest: bytes, place: str) -> Iterator[str]:
    superfluous = {row for cluster in duplicates.clusters for row in cluster.rows[1:]}
    read = hashlib.sha256()
    for number, line in enumerate(lines):
        read.update(line.encode())
        if number not in superfluous:
            yield line
    if read.digest() != digest:
        raise DataError(f"{place} changed while it was read, so nothing was written. Repeat the command.")


def _line(row: Row) -> str:
    return (row.text if row.unit == "line" else json.dumps(row.value, ensure_ascii=False, default=str)) + "\n"
