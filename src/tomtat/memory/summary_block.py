"""The front of a context: summaries of older spans, and exact strings that they leave out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tomtat.config import MemorySettings
from tomtat.memory.folds import Fold, FoldTree
from tomtat.memory.framing import CLOSE, SUMMARY_OPEN, one_line
from tomtat.memory.ledger import Entry
from tomtat.memory.recall import Quote
from tomtat.memory.tokens import TokenCounter
from tomtat.memory.turns import user
from tomtat.text import sentences

LEAST_TOKENS = 16
"""Of one summary: below this nothing is said."""
TOKENS_A_STRING = 5
"""At least: so many strings are asked for that they fill the room."""
_OF_BLOCK = 1000
"""Bytes besides its text, which may take four a letter."""
STRINGS_HEAD = "Exact words: "
BETWEEN = "; "


@dataclass(frozen=True, slots=True)
class SummaryBlock:
    text: str = ""
    tokens: int = 0
    """What it costs as a message."""
    folds: tuple[Fold, ...] = ()
    """In the order of their turns."""
    strings: tuple[Entry, ...] = ()


def summary_block(
    tree: FoldTree, start: int, share: int, counter: TokenCounter, settings: MemorySettings
) -> SummaryBlock:
    """Summaries of the turns before `start` and the ledger's first strings, for at most `share` tokens.

    Older turns are told by folds of higher levels. It hangs on the folds and on the arguments alone, and is made once
    for each of these until there is another fold.
    """
    # Turns that are in no span yet are told by nobody, so wherever among them it begins, the front is the same.
    start = min(start, tree.folded + 1)
    # An estimate is called by its factor, so what was made before it learned is made again.
    key = start, share, counter.name
    known: SummaryBlock | None = tree.blocks.get(key)
    if known is None:
        known = _make(tree, start, share, counter, settings)
        tree.blocks.put(key, known, _OF_BLOCK + 4 * len(known.text))
    return known


def _make(tree: FoldTree, start: int, share: int, counter: TokenCounter, settings: MemorySettings) -> SummaryBlock:
    room = share - counter.message(user(f"{SUMMARY_OPEN}\n{CLOSE}"))
    if start == 1 or room < LEAST_TOKENS or not tree.folded:
        return SummaryBlock()
    strings_room = int(settings.strings_share * room)
    told = list(_told(_cover(tree, start, room - strings_room, counter), room - strings_room, counter))
    room -= sum(counter.text(line + "\n") for _, line in told)
    strings, line = _strings(tree.strings.best(start, room // TOKENS_A_STRING), room, counter)
    lines = [line for _, line in told] + ([line] if line else [])
    if not lines:
        return SummaryBlock()
    text = "\n".join([SUMMARY_OPEN, *lines, CLOSE])
    return SummaryBlock(text, counter.message(user(text)), tuple(fold for fold, _ in told), tuple(strings))


def _cover(tree: FoldTree, start: int, room: int, counter: TokenCounter) -> list[Fold]:
    """Folds that stand for the turns before `start`: the fewest, and of these the newest in as much detail as fits."""
    # The span that `start` lies in counts too, or what it has before `start` would be told by nobody.
    end = next((fold.span.last for fold in tree.levels[0] if fold.span.last >= start - 1), tree.folded)
    folds = tree.nodes(end)
    left = room - sum(counter.text(_line(fold) + "\n") for fold in folds)
    place = len(folds) - 1
    while place >= 0 and left > 0:
        below = tree.below(folds[place])
        more = sum(counter.text(_line(fold) + "\n") for fold in below) - counter.text(_line(folds[place]) + "\n")
        if below and more <= left:
            folds[place : place + 1] = below
            left -= more
            place += len(below) - 1
        else:
            place -= 1
    return folds


def _told(folds: Sequence[Fold], room: int, counter: TokenCounter) -> Iterator[tuple[Fold, str]]:
    """Folds as lines that fit together: in fewer sentences, and without the narrowest, where they must be."""
    lines = {fold.span.first: _line(fold) for fold in folds if fold.text}
    folds = [fold for fold in folds if fold.text]
    while folds and sum(counter.text(lines[fold.span.first] + "\n") for fold in folds) > room:
        fair = room // len(folds)
        longest = max(folds, key=lambda fold: counter.text(lines[fold.span.first]))
        shorter = " ".join(sentences(lines[longest.span.first])[:-1])
        if shorter:
            lines[longest.span.first] = shorter
        elif fair < LEAST_TOKENS or len(folds) > 1:
            folds.remove(min(folds, key=lambda fold: (fold.span.last - fold.span.first, fold.span.first)))
        else:
            return
    for fold in folds:
        yield fold, lines[fold.span.first]


def _line(fold: Fold) -> str:
    return one_line(fold.text)


def _strings(entries: Sequence[Entry], room: int, counter: TokenCounter) -> tuple[list[Entry], str]:
    """The first entries that fit, in the order of their turns, as one line."""
    left = room - counter.text(STRINGS_HEAD + "\n")
    chosen: list[Entry] = []
    seen = ""
    for entry in entries:
        if left < 4:
            break
        text = one_line(entry.clause)
        tokens = counter.text(BETWEEN + text)
        if tokens <= left and text not in seen:
            chosen.append(entry)
            seen += text + "\n"
            left -= tokens
    chosen.sort(key=lambda entry: entry.turn)
    return chosen, STRINGS_HEAD + BETWEEN.join(one_line(entry.clause) for entry in chosen) if chosen else ""


def strings_block(
    tree: FoldTree, start: int, summaries: SummaryBlock, found: Sequence[Quote], room: int, counter: TokenCounter
) -> str:
    """More exact strings of older turns, where recall left room: nothing is gained by an empty budget."""
    room -= counter.text(f"{SUMMARY_OPEN}\n{CLOSE}\n")
    if room < LEAST_TOKENS:
        return ""
    quoted = {quote.turn.seq for quote in found}
    told = set(summaries.strings)
    wanted = room // TOKENS_A_STRING + len(told) + len(quoted)
    rest = [entry for entry in tree.strings.best(start, wanted) if entry.turn not in quoted and entry not in told]
    _, line = _strings(rest, room, counter)
    return "\n".join([SUMMARY_OPEN, line, CLOSE]) if line else ""
