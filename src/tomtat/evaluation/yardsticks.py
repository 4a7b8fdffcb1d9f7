"""Summaries that cost nothing: what a tuned model has to beat, and what no extract can beat."""

import random
import re
from collections import Counter
from collections.abc import Sequence

from tomtat.text import language_of, sentences, words
from tomtat.text.fragments import ngrams
from tomtat.types import Message, Source

_TURN = re.compile(r"^([^\s:][^:\n]{0,40}):\s", re.MULTILINE)


def lead3(source: Source) -> str:
    """The first three sentences of an article; the first three turns of a conversation, speakers' names included."""
    return "\n".join(units(source)[:3])


def oracle(source: Source, references: Sequence[str]) -> str:
    """The sentences or turns that together come nearest to the references, found greedily (Nallapati et al. 2017).

    Each step adds the unit that raises ROUGE-1 + ROUGE-2 most (on plain words, mean over references) until none does.
    No system can write it, for it looks at the references: it says how far copying could go.
    """
    parts = units(source)
    counted = [_counts(words(part)) for part in parts]
    wanted = [_counts(words(reference)) for reference in references]
    chosen: list[int] = []
    total: tuple[Counter[str], Counter[tuple[str, ...]]] = (Counter(), Counter())
    best = 0.0
    while len(chosen) < len(parts):
        gains = [
            (_closeness((total[0] + counted[n][0], total[1] + counted[n][1]), wanted), n)
            for n in range(len(parts))
            if n not in chosen
        ]
        score, number = max(gains, key=lambda gain: (gain[0], -gain[1]))
        if score <= best:
            break
        best = score
        chosen.append(number)
        total = (total[0] + counted[number][0], total[1] + counted[number][1])
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


def _counts(tokens: list[str]) -> tuple[Counter[str], Counter[tuple[str, ...]]]:
    return Counter(tokens), Counter(ngrams(tokens, 2))


Counts = tuple["Counter[str]", "Counter[tuple[str, ...]]"]


def _closeness(ours: Counts, wanted: Sequence[Counts]) -> float:
    return sum(_f1(ours[0], theirs[0]) + _f1(ours[1], theirs[1]) for theirs in wanted) / len(wanted)


def _f1(ours: Counter, theirs: Counter) -> float:  # type: ignore[type-arg]
    shared = sum((min(count, ours[gram]) for gram, count in theirs.items() if gram in ours), 0)
    sizes = ours.total() + theirs.total()
    return 2 * shared / sizes if sizes else 0.0


def _spoken(message: Message) -> str:
    return f"{message.name}: {message.content}" if message.name else message.content
