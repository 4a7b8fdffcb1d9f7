"""Which turns of the past to quote: those the newest message asks about, as many as fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tomtat.memory.folds import FoldTree
from tomtat.memory.framing import CLOSE, QUOTES_OPEN, quoted, quoted_plainly, said
from tomtat.store import Branch, Store, Turn
from tomtat.text import words

FEW_WORDS = 4
"""A message of fewer words ("and the price?") asks about what was said before it: that is searched for too."""
TOKENS_A_TURN = 16
"""Half of a usual one: so many hits are asked for that there is a choice among those that fill the room."""
MOST_HITS = 300
EXACT = 0.3
"""What the likelihood that somebody asks for a turn's exact strings counts beside the search's score, which spans about
1 from the worst to the best. LoCoMo's evidence hardly minds (85.4 to 85.8 % within 10 %), facts of our long chats do
(88.4 to 90.9 %)."""
SHORTER = 0.1
"""How much a turn's length counts against it: 0 not at all, 1 as much as its score for it."""
OF_QUOTE = 100
"""Bytes that it takes to know how a turn is quoted, besides its text."""


@dataclass(frozen=True, slots=True)
class Quote:
    turn: Turn
    text: str
    score: float


def question_of(newest: Sequence[Turn]) -> str:
    """What the newest message asks, with the one before where it is too short to say."""
    asked_by_users = [said(turn.message) for turn in newest if turn.message["role"] == "user"]
    asked = asked_by_users[-1] if asked_by_users else ""
    return " ".join(asked_by_users[-2:]) if len(words(asked)) < FEW_WORDS else asked


def quotes(
    store: Store, line: Branch, tree: FoldTree, question: str, is_shown: Callable[[int], bool], room: int,
    count: Callable[[str], int],
) -> list[Quote]:  # fmt: skip
    """The turns that a question asks about, in the order they were said, within `room` tokens; none that is shown."""
    left = room - count(f"{QUOTES_OPEN}\n{CLOSE}")
    if left < TOKENS_A_TURN:
        return []
    limit = min(MOST_HITS, max(16, left // TOKENS_A_TURN))
    found: list[tuple[float, int, Quote]] = []
    hits = store.search(question, conversation=line.conversation, branch=line.branch, last=line.last, limit=limit)
    for hit in hits:
        if not is_shown(hit.turn.seq):
            text = _text_of(hit.turn, tree)
            tokens = count(text + "\n")
            score = (hit.score + EXACT * tree.exactness.get(hit.turn.seq, 0.0)) / (tokens + 20) ** SHORTER
            found.append((score, tokens, Quote(hit.turn, text, score)))
    chosen: list[Quote] = []
    for _, tokens, quote in sorted(found, key=lambda one: -one[0]):
        if tokens <= left:
            chosen.append(quote)
            left -= tokens
    return sorted(chosen, key=lambda quote: quote.turn.seq)


def _text_of(turn: Turn, tree: FoldTree) -> str:
    """A turn as it is quoted. Of a chat's turns some dozens are looked at for each question, and they never change."""
    plain = quoted_plainly(turn.message)
    known = tree.quoted.get(turn.seq)
    if known is None:
        text = quoted(turn.message)
        tree.quoted[turn.seq] = known = "" if text == plain else text
        tree.quoted_bytes += OF_QUOTE + len(known)
    return known or plain


def block(quotes: Sequence[Quote]) -> str:
    return "\n".join([QUOTES_OPEN, *(quote.text for quote in quotes), CLOSE])
