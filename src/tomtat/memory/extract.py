"""A span's own sentences as its summary, where the model's did not pass: nothing in it can be wrong."""

from collections import Counter
from collections.abc import Sequence

from tomtat.memory.framing import said, speaker_of
from tomtat.memory.ledger import entries_of
from tomtat.store import Turn
from tomtat.text import sentences
from tomtat.text.terms import terms

SHARE = 0.2
"""Of the span's words: about what our references take."""
MOST_WORDS = 60
LONGEST_SENTENCE = 40
"""Words; a longer sentence is shortened, for some turns are a single one."""


def extract(turns: Sequence[Turn]) -> str:
    """The sentences that say most of what the others say and hold most of the exact strings, in order, with who said
    them. Shorter than the turns, and empty only where they are."""
    spoken = [
        (place, turn, sentence)
        for place, turn in enumerate(turns)
        for sentence in sentences(said(turn.message))
        if terms(sentence)
    ]
    if not spoken:
        return _beginning(turns)
    bags = [set(terms(sentence)) for _, _, sentence in spoken]
    often = Counter(term for bag in bags for term in bag)
    total = sum(len(sentence.split()) for _, _, sentence in spoken)
    room = max(1, min(MOST_WORDS, int(SHARE * total)))
    worth = [_worth(bag, often, turn, sentence) for bag, (_, turn, sentence) in zip(bags, spoken, strict=True)]
    chosen: list[int] = []
    heard: set[str] = set()
    while room > 0 and len(chosen) < len(spoken):
        rest = [number for number in range(len(spoken)) if number not in chosen]
        # What was said already counts no more: a sum over new terms, as SumBasic's update does.
        number = max(rest, key=lambda n: (worth[n] * len(bags[n] - heard) / len(bags[n]), -n))
        if len(bags[number] - heard) == 0:
            break
        chosen.append(number)
        heard |= bags[number]
        room -= min(len(spoken[number][2].split()), LONGEST_SENTENCE)
    lines: list[str] = []
    speaker = ""
    for number in sorted(chosen):
        _, turn, sentence = spoken[number]
        who = speaker_of(turn.message)
        lines.append(_short(sentence) if who == speaker else f"{who}: {_short(sentence)}")
        speaker = who
    text = " ".join(lines)
    return text if len(text) < sum(len(said(turn.message)) for turn in turns) else _beginning(turns)


def _worth(bag: set[str], often: Counter[str], turn: Turn, sentence: str) -> float:
    shared = sum(often[term] for term in bag) / (len(bag) + 4)
    exact = sum(1 for _ in entries_of(turn.seq, {"role": turn.message["role"], "content": sentence}))
    return shared + 0.5 * exact


def _short(sentence: str) -> str:
    found = sentence.split()
    return sentence if len(found) <= LONGEST_SENTENCE else " ".join(found[:LONGEST_SENTENCE]) + " …"


def _beginning(turns: Sequence[Turn]) -> str:
    """Of turns without sentences, such as a table or a key of 2,000 letters: how they begin."""
    whole = " ".join(" ".join(said(turn.message).split()) for turn in turns).strip()
    return whole[: min(len(whole) // 2 or 1, 200)]
