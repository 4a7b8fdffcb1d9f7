"""What summarizer, memory and server see of an engine."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from tomtat.models import Decoding, Encoded, SummarizerModel
from tomtat.progress import Progress
from tomtat.types import Generation


class Engine(Protocol):
    """Prompts in, generations out."""

    name: str
    model: SummarizerModel
    """Tokenizer and prompt; its network is None where the engine has the weights in a form of its own."""

    def finished(self, rows: Sequence[Encoded], decoding: Decoding) -> Iterator[tuple[int, list[Generation]]]:
        """Rows' numbers with `decoding.candidates` generations each, in the order in which they are done."""

    def stream(self, row: Encoded, decoding: Decoding) -> Iterator[str | Generation]:
        """Pieces of one summary as they come, and at last the whole of it."""

    def candidates(
        self, rows: Sequence[Encoded], decoding: Decoding, progress: Progress | None = None, name: str = "summarizing"
    ) -> list[list[Generation]]:
        """`decoding.candidates` generations per row, in the rows' order."""
        found: list[list[Generation]] = [[] for _ in rows]
        with (progress or Progress()).task(name, len(rows)) as advance:
            for row, generations in self.finished(rows, decoding):
                found[row] = generations
                advance(1)
        return found

    def count_tokens(self, text: str) -> int:
        return self.model.count_tokens(text)
