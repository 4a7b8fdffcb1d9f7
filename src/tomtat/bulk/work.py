"""A window of documents into the lines that are written for it: here, or in a worker of a cluster."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from tomtat.bulk.documents import Window
from tomtat.progress import Advance, Progress
from tomtat.summarizer import Summarizer
from tomtat.types import Example, Summary, total


@dataclass(frozen=True)
class Finished:
    lines: str
    """JSON Lines: a row per document, in order."""
    rows: int
    cut: int
    """Documents of which only the beginning was read."""
    in_pieces: int = 0
    """Documents that were read in several pieces."""
    at_limit: int = 0
    """Documents whose summary the token limit ended."""
    near_ties: int | None = 0
    """Tokens that rounding decided; None where nobody counted."""


def summarize_here(
    summarizer: Summarizer, windows: Iterator[Window], advance: Advance
) -> Generator[Finished, None, None]:
    for window in windows:
        part = _PartOf(advance, len(window.examples))
        yield summarize_window(summarizer, window.examples, part)
        part.finish()


def summarize_window(summarizer: Summarizer, examples: list[Example], progress: Progress | None = None) -> Finished:
    sources = [example.source for example in examples]
    summaries = summarizer.generate(sources, progress)
    cut = sum(summary.share_read < 1 for summary in summaries)
    in_pieces = sum(summary.pieces > 1 for summary in summaries)
    at_limit = sum(summary.finish_reason == "length" for summary in summaries)
    near_ties = total(summary.near_ties for summary in summaries)
    return Finished("".join(map(_line, examples, summaries)), len(examples), cut, in_pieces, at_limit, near_ties)


def _line(example: Example, summary: Summary) -> str:
    counts = asdict(summary)
    row = {"id": example.id, "summary": counts.pop("text"), **counts}
    return json.dumps(row, ensure_ascii=False) + "\n"


class _PartOf(Progress):
    """A window's progress as a part of the whole's, never more than its rows however the work is counted inside."""

    def __init__(self, advance: Advance, rows: int) -> None:
        self.advance = advance
        self.left = rows

    @contextmanager
    def task(self, name: str, total: int, unit: str = "examples", done: int = 0) -> Iterator[Advance]:
        def advance(count: int, figures: str = "") -> None:
            count = min(count, self.left)
            self.left -= count
            if count:
                self.advance(count, figures)

        yield advance

    def finish(self) -> None:
        if self.left:
            self.advance(self.left)
