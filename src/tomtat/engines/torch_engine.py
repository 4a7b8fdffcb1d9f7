"""Generation with torch: any model, any adapter."""

from collections.abc import Sequence

from tomtat.batching import micro_batches
from tomtat.models import Decoding, Encoded, SummarizerModel
from tomtat.progress import Progress
from tomtat.types import Generation


class TorchEngine:
    def __init__(self, model: SummarizerModel, batch_tokens: int = 8192) -> None:
        self.model = model
        self.batch_tokens = batch_tokens

    def generate(
        self, rows: Sequence[Encoded], decoding: Decoding, progress: Progress | None = None, name: str = "summarizing"
    ) -> list[Generation]:
        """One generation per row, in the rows' order; similar lengths go through the model together."""
        width = decoding.num_beams
        lengths = [width * (len(row.prompt_ids) + decoding.max_new_tokens) for row in rows]
        results: dict[int, Generation] = {}
        with (progress or Progress()).task(name, len(rows)) as advance:
            for batch in micro_batches(range(len(rows)), lengths, self.batch_tokens):
                generations = self.model.generate([rows[row] for row in batch], decoding)
                results.update(zip(batch, generations, strict=True))
                advance(len(batch))
        return [results[row] for row in range(len(rows))]
