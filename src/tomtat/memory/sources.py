"""From a sentence back to the turns that it tells of."""

import math
from collections import Counter
from collections.abc import Sequence

from tomtat.memory.framing import said, speaker_of
from tomtat.store import Turn
from tomtat.text.terms import query_terms, terms


def likeliest(turns: Sequence[Turn], text: str) -> list[Turn]:
    """Turns that share words with a text, those with most and rarest of them first."""
    bags = [Counter(terms(f"{speaker_of(turn.message)} {said(turn.message)}")) for turn in turns]
    weights = query_terms(text)
    many = len(turns)
    worth = {
        term: weight * math.log1p(many / (1 + sum(term in bag for bag in bags))) for term, weight in weights.items()
    }
    scores = [sum(worth[term] for term in worth if term in bag) for bag in bags]
    order = sorted(range(many), key=lambda number: -scores[number])
    return [turns[number] for number in order if scores[number] > 0]
