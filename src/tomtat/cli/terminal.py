"""What a person sees: progress, tables, summaries side by side."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from tomtat.progress import Advance, Progress

console = Console()
error_console = Console(stderr=True)
"""Progress and notes go to standard error, so that summaries can be piped."""

LOG_SECONDS = 10.0
"""Where no terminal looks on, progress is a line this often."""


class TerminalProgress(Progress):
    def note(self, text: str) -> None:
        error_console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, name: str, total: int, unit: str = "examples", done: int = 0) -> Iterator[Advance]:
        if error_console.is_terminal:
            yield from _bar(name, total, unit, done)
        else:
            yield from _lines(name, total, unit, done)


def _bar(name: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=error_console, speed_estimate_period=120) as progress:
        task = progress.add_task(name, total=total, completed=done, figures="", speed="")
        started, count_here = time.monotonic(), 0

        def advance(count: int, figures: str = "") -> None:
            nonlocal count_here
            count_here += count
            speed = f"{count_here / (time.monotonic() - started):.1f} {unit}/s"
            progress.update(task, advance=count, figures=figures, speed=speed)

        yield advance


def _lines(name: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    started = said = time.monotonic()
    finished = done

    def advance(count: int, figures: str = "") -> None:
        nonlocal said, finished
        finished += count
        now = time.monotonic()
        if now - said < LOG_SECONDS and finished < total:
            return
        said = now
        speed = (finished - done) / max(now - started, 1e-9)
        left = (total - finished) / speed
        parts = [f"{name}: {finished}/{total} {unit}", figures, f"{speed:.2f} {unit}/s", f"{_clock(left)} left"]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    yield advance


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def is_first_process() -> bool:
    """Of those that `accelerate launch` started: it speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def progress_of_this_process() -> Progress:
    return TerminalProgress() if is_first_process() else Progress()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, left: Sequence[int] = (0,)
) -> None:
    """First column to the left, numbers to the right; `left` are the places of all columns with words."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        # Escaped, because names of files and systems may have brackets.
        table.add_column(escape(column), justify="left" if number in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    wide = Console(width=max(console.width, 200)) if not console.is_terminal else console
    if title:
        # Not the table's own title, which would wrap at the table's width.
        wide.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    wide.print(table)


def print_next(arguments: str) -> None:
    console.print(f"Next: {program()} {arguments}", markup=False, highlight=False, soft_wrap=True)


def program() -> str:
    """How this command is called here: `tomtat` where that is on the path, else as it was typed."""
    typed = Path(sys.argv[0])
    found = shutil.which("tomtat")
    is_typed = typed.name == "tomtat" and typed.exists()
    return str(typed) if is_typed and (found is None or not typed.samefile(found)) else "tomtat"


def print_epochs(rows: Sequence[dict[str, Any]]) -> None:
    # A calibration also says how good it was before its first step.
    epochs = [row for row in rows if row.get("kind") in ("start", "epoch")]
    kept = max((int(row["epoch"]) for row in epochs if row.get("is_best")), default=0)
    columns = {
        "training loss": ("train_loss", ".3f"),
        "validation loss": ("validation_loss", ".3f"),
        "validation ROUGE": ("validation_rouge", ".2f"),
        "seconds": ("seconds", ".1f"),
        "examples/s": ("examples_per_second", ".2f"),
    }
    if not any("validation_rouge" in row for row in epochs):
        del columns["validation ROUGE"]
    print_table(
        ["epoch", *columns, ""],
        [
            [
                str(row.get("epoch", "start")),
                *("-" if row.get(name) is None else f"{row[name]:{form}}" for name, form in columns.values()),
                "kept" if row.get("epoch", 0) == kept else "",
            ]
            for row in epochs
        ],
    )


_ORDERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What a terminal obeys instead of showing it, what turns a line's order round, and letters that nobody sees."""


def harmless(text: str) -> str:
    """A text with its control characters in sight: what somebody said must not colour, move or clear our lines."""
    return _ORDERS.sub(lambda match: _picture(match[0]), text.replace("\r\n", "\n"))


def _picture(sign: str) -> str:
    code = ord(sign)
    return chr(0x2400 + code) if code < 0x20 else f"<U+{code:04X}>"
