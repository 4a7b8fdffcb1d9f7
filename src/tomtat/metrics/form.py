"""What summaries look like, whatever they say: length, how much is copied, what is repeated."""

from collections.abc import Sequence

from tomtat.metrics.values import Measured, Rows, RowValues, mean_of, share_of, share_of_pairs
from tomtat.text import UNICODE_WORDS, words
from tomtat.text.fragments import SourceIndex, coverage, density, ngrams


class Form:
    def measure(self, predictions: Sequence[str], rows: Rows) -> Measured:
        ours = [words(text) for text in predictions]
        values = [
            mean_of("words", f"{UNICODE_WORDS}, mean", [len(summary) for summary in ours]),
            self._repetition(ours),
            share_of("empty", "summaries without a word x100", [not summary for summary in ours], [1] * len(ours)),
        ]
        if rows.sources is not None:
            values += self._against(ours, rows.source_words)
        return Measured(values)

    def _repetition(self, ours: list[list[str]]) -> RowValues:
        trigrams = [ngrams(summary, 3) for summary in ours]
        recipe = f"trigrams that stood in the summary before x100, all rows together, {UNICODE_WORDS}"
        repeated = [len(row) - len(set(row)) for row in trigrams]
        return share_of("repetition", recipe, repeated, [len(row) for row in trigrams])

    def _against(self, ours: list[list[str]], sources: Sequence[Sequence[str]]) -> list[RowValues]:
        """Newsroom's measures (Grusky et al. 2018); rows without a summary count in none of them."""
        indexes = [SourceIndex(source) for source in sources]
        found = [index.fragments(summary) for index, summary in zip(indexes, ours, strict=True)]
        has_words = [1.0 if summary else 0.0 for summary in ours]
        filled = [max(len(summary), 1) for summary in ours]
        mean = f"mean over rows, {UNICODE_WORDS}, Grusky et al. 2018"
        ratio = f"words of the source over words of the summary, all rows together, {UNICODE_WORDS}"
        copied = f"words in fragments copied from the source x100, {mean}"
        squared = f"squared length of fragments per word, {mean}"
        return [
            share_of("compression", ratio, list(map(len, sources)), list(map(len, ours)), scale=1),
            share_of("coverage", copied, list(map(coverage, found, filled)), has_words),
            share_of("density", squared, list(map(density, found, filled)), has_words, scale=1),
            *(self._novel(ours, indexes, size) for size in (1, 2, 3)),
        ]

    def _novel(self, ours: list[list[str]], indexes: Sequence[SourceIndex], size: int) -> RowValues:
        counts = []
        for summary, index in zip(ours, indexes, strict=True):
            row = ngrams(summary, size)
            counts.append((sum(not index.has(gram) for gram in row), len(row)))
        recipe = f"{size}-grams of the summary that do not stand in the source x100, all rows together, {UNICODE_WORDS}"
        return share_of_pairs(f"novel-{size}", recipe, counts)
