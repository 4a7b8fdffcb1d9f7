"""From counts to an order, the same for every database: BM25, embeddings, neighbours, and who is asked about.

The constants were chosen on two LoCoMo chats and three of BEAM, and read once on the others: `python
benchmarks/search_recall.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray

K1 = 1.2
B = 0.75
NEIGHBOUR = 0.5
"""Share of its better neighbour's score that a turn gets: answers stand beside questions, and reactions beside news."""
SPEAKER = 0.3
"""Added where the question names who speaks, of a span of 1 from the worst turn to the best."""


def bm25(counts: Mapping[str, tuple[Array, Array]], weights: Mapping[str, float], lengths: Array) -> Array:
    """Scores of turns, by Robertson and Zaragoza's formula with Lucene's never negative idf.

    counts: for each query term the positions (in `lengths`) of the turns that have it, and how often.
    weights: what each query term counts.
    lengths: terms in each turn that is searched; what is searched is the collection that frequencies are taken from.
    Returns: [turns], 0 where no term of the query stands.
    """
    scores = np.zeros(len(lengths))
    norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1e-9))
    for term, (positions, frequency) in counts.items():
        idf = np.log1p((len(lengths) - len(positions) + 0.5) / (len(positions) + 0.5))
        scores[positions] += weights[term] * idf * frequency * (K1 + 1) / (frequency + norm[positions])
    return scores


def join(words: Array, meaning: Array | None, weight: float, follows: Array, speaks: Array) -> Array:
    """One score from all that is known of each turn, all [turns].

    words: BM25. meaning: similarity to the query, NaN where a turn has no vector; None without an embedder.
    weight: of meaning, 0 to 1. follows: whether a turn comes right after the one before it in the array.
    speaks: whether the question names its speaker.
    """
    scores = words / max(words.max(), 1e-9)
    if meaning is not None and not np.isnan(meaning).all():
        known = np.where(np.isnan(meaning), np.nanmedian(meaning), meaning)
        scores = (1 - weight) * scores + weight * _spread(known)
    before, after = np.zeros_like(scores), np.zeros_like(scores)
    before[1:] = np.where(follows[1:], scores[:-1], 0)
    after[:-1] = np.where(follows[1:], scores[1:], 0)
    scores = scores + NEIGHBOUR * np.maximum(before, after)
    # What has a word of the question is a hit, be it the worst of all or the only turn there is.
    joined: Array = np.maximum(_spread(scores), 1e-6 * (scores > 0)) + SPEAKER * speaks
    return joined


def _spread(scores: Array) -> Array:
    """From 0 for the worst to 1 for the best; all 0 where none differs."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def best(scores: Array, limit: int) -> Sequence[int]:
    """Positions of the highest scores above zero, highest first; of equals the newest first."""
    count = min(limit, int((scores > 0).sum()))
    if count <= 0:
        return []
    order = np.lexsort((-np.arange(len(scores)), -scores))
    return [int(position) for position in order[:count]]
