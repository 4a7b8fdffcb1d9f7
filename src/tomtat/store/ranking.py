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
REACH = 2
"""Turns on either side that a turn is read with: a question's words are spread over those who talk about one thing."""
RELATED = 0.6
"""What a turn with a word's nearest relative counts beside one with the word itself, times how near that is."""
SIDE_BY_SIDE = 2000
"""Up to so many turns all terms are scored at once; in longer chats most stand nowhere, and that is left out."""
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


def frequency_of(exact: Array, relatives: Mapping[str, float], turns_with: Mapping[str, Array]) -> Array:
    """How often a term stands in each turn, [turns]; a relative of it counts where the term itself is missing.

    exact: how often the term itself does. relatives: how near each is, 0 to 1. turns_with: of each relative the
    positions of turns that have it.
    """
    near = np.zeros(len(exact))
    for relative, nearness in relatives.items():
        positions = turns_with[relative]
        near[positions] = np.maximum(near[positions], RELATED * nearness)
    return np.where(exact > 0, exact, near)


def words_score(
    frequencies: Mapping[str, Array], weights: Mapping[str, float], lengths: Array, follows: Array
) -> Array:
    """BM25 of each turn and of the turns around it, each spread to at most 1, half and half, [turns].

    frequencies: of each query term how often it stands in each turn, [turns]. follows: whether a turn comes right after
    the one before it in the array.
    """
    run = np.cumsum(~follows)
    if len(lengths) <= SIDE_BY_SIDE:
        table = np.array([frequencies[term] for term in weights], float)
        counts = np.array(list(weights.values()))
        scores = _table_bm25(table, counts, lengths), _table_bm25(_around(table, run), counts, _around(lengths, run))
    else:
        scores = _term_by_term(frequencies, weights, lengths, run)
    found: Array = sum(score / max(score.max(), 1e-9) for score in scores) / 2
    return found


def _term_by_term(
    frequencies: Mapping[str, Array], weights: Mapping[str, float], lengths: Array, run: Array
) -> tuple[Array, Array]:
    among = {term: _counted(_around(frequency, run)) for term, frequency in frequencies.items()}
    alone = {term: _counted(frequency) for term, frequency in frequencies.items()}
    return bm25(alone, weights, lengths), bm25(among, weights, _around(lengths, run))


def _table_bm25(table: Array, weights: Array, lengths: Array) -> Array:
    """The same as `bm25` for all terms at once. table: how often, [terms, turns]. weights: [terms]."""
    norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1e-9))
    having = (table > 0).sum(axis=1)
    idf = np.log1p((len(lengths) - having + 0.5) / (having + 0.5))
    scores: Array = ((weights * idf)[:, None] * table * (K1 + 1) / (table + norm)).sum(axis=0)
    return scores


def _around(values: Array, run: Array) -> Array:
    """Sums over each turn and the `REACH` on either side that are of its run, [..., turns]."""
    sums = values.astype(float)
    for step in range(1, min(REACH, len(run) - 1) + 1):
        together = run[step:] == run[:-step]
        sums[..., step:] += values[..., :-step] * together
        sums[..., :-step] += values[..., step:] * together
    return sums


def _counted(frequency: Array) -> tuple[Array, Array]:
    [positions] = frequency.nonzero()
    return positions, frequency[positions]


def join(words: Array, meaning: Array | None, weight: float, follows: Array, speaks: Array) -> Array:
    """One score from all that is known of each turn, all [turns].

    words: `words_score`. meaning: similarity to the query, NaN where a turn has no vector; None without an embedder.
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
