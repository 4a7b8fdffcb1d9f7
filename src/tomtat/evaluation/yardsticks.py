"""Summaries that cost nothing: what a tuned model has to beat, and what no extract can beat."""

import random
import re
from collections import Counter
from collections.abc import Sequence

from tomtat.text import language_of, sentences, words
from tomtat.text.fragments import ngrams
from tomtat.types import Message, Source

_TURN = re.compile(r"^([^\s:：][^:：\n]{0,40})(?::\s|：)", re.MULTILINE)


def lead3(source: Source) -> str:
    """The first three sentences of an article; the first three turns of a conversation, speakers' names included."""
    return "\n".join(units(source)[:3])


def oracle(source: Source, references: Sequence[str]) -> str:
    """The sentences or turns that together come nearest to the references, found greedily (Nallapati et al. 2017).

    Each step adds the unit that raises ROUGE-1 + ROUGE-2 most (on plain words, mean over references) until none does.
    No system can write it, for it looks at the references: it says how far copying could go.
    """
    parts = units(source)
    wanted = [_Counts(words(reference)) for reference in references]
    known = frozenset(gram for counts in wanted for gram in counts.grams)
    counted = {number: _Counts(words(part), known) for number, part in enumerate(parts)}
    # A unit that shares no word with any reference can only make things worse.
    left = [number for number, counts in counted.items() if counts.grams]
    chosen: list[int] = []
    total = _Counts([])
    best = 0.0
    while left:
        gains = [(_closeness(total + counted[number], wanted), number) for number in left]
        score, number = max(gains, key=lambda gain: (gain[0], -gain[1]))
        if score <= best:
            break
        best = score
        chosen.append(number)
        left.remove(number)
        total = total + counted[number]
    return "\n".join(parts[number] for number in sorted(chosen))


def others(references: Sequence[Sequence[str]], seed: int = 0) -> list[str]:
    """For each row the first reference of another row: the floor, what right style about the wrong text scores."""
    order = list(range(len(references)))
    random.Random(seed).shuffle(order)
    taken = {row: order[(place + 1) % len(order)] for place, row in enumerate(order)}
    return [references[taken[row]][0] for row in range(len(references))]


def units(source: Source) -> list[str]:
    """Turns of a conversation, sentences of a text."""
    if not isinstance(source, str):
        turns = [message for message in source if message.role != "system" and message.content.strip()]
        return [_spoken(message) for message in turns]
    lines = [line for line in source.splitlines() if line.strip()]
    if is_dialogue(source):
        return lines
    return sentences(source, language_of([source]))


def is_dialogue(text: str) -> bool:
    """Whether nearly each line of a text begins with a speaker's name."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) >= 3 and sum(bool(_TURN.match(line)) for line in lines) >= 0.8 * len(lines)


def speakers(source: Source) -> int:
    """Different speakers of a conversation; 0 for a text that is none."""
    if not isinstance(source, str):
        return len({message.name or message.role for message in source if message.role != "system"})
    return len({match[1] for match in _TURN.finditer(source)}) if is_dialogue(source) else 0


class _Counts:
    """Words and pairs of words, those of `known` counted one by one, all of them in the sizes."""

    def __init__(self, tokens: list[str], known: frozenset[tuple[str, ...]] | None = None) -> None:
        grams = [*ngrams(tokens, 1), *ngrams(tokens, 2)]
        self.grams = Counter(gram for gram in grams if known is None or gram in known)
        self.sizes = (len(tokens), max(len(tokens) - 1, 0))

    def __add__(self, other: "_Counts") -> "_Counts":
        both = _Counts([])
        both.grams = self.grams + other.grams
        both.sizes = (self.sizes[0] + other.sizes[0], self.sizes[1] + other.sizes[1])
        return both


def _closeness(ours: _Counts, wanted: Sequence[_Counts]) -> float:
    """ROUGE-1 + ROUGE-2 as F, mean over references."""
    total = 0.0
    for theirs in wanted:
        shared = [0, 0]
        for gram, count in theirs.grams.items():
            shared[len(gram) - 1] += min(count, ours.grams[gram])
        for order in (0, 1):
            size = ours.sizes[order] + theirs.sizes[order]
            total += 2 * shared[order] / size if size else 0.0
    return total / len(wanted)


def _spoken(message: Message) -> str:
    return f"{message.name}: {message.content}" if message.name else message.content
