"""Folding: closed spans of turns become summaries that passed the gate, each turn read exactly once."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from tomtat.memory.extract import extract
from tomtat.memory.folds import Fold, FoldTree, Line, kind_of
from tomtat.memory.framing import said, speaker_of
from tomtat.memory.gate import Source, Verdict
from tomtat.memory.ledger import ledger
from tomtat.memory.tokens import EstimatedTokens
from tomtat.memory.turns import Group, groups, is_pinned, settled
from tomtat.store import Branch, Conflict, Span, Store, Turn
from tomtat.text import sentences
from tomtat.types import Generation

MOST_BELOW = 8
"""Folds under one of the next level."""
BATCH = 8
"""Spans that go through the summarizer together, and that a fold takes on before it lets others go first."""
ESTIMATE = EstimatedTokens()
"""Never told any usage: what a fold says of its size must be the same everywhere."""
READ_AHEAD = 512
"""Turns of a long history that are looked at for spans to close; more where none closes in them."""


SURELY_OPEN = 0.9
"""Of what the summarizer reads: turns counted one by one may cost a little less than together."""


class SpanSummarizer(Protocol):
    """What a memory sees of a summarizer. `tomtat.Summarizer` is one."""

    @property
    def name(self) -> str: ...

    @property
    def max_source_tokens(self) -> int:
        """What it reads in one piece; longer texts it reads in several, and whole."""

    def count_tokens(self, text: str) -> int: ...

    def generate(self, sources: Sequence[str]) -> Sequence[Generation]:
        """A summary of each."""

    def draw(self, sources: Sequence[str], count: int) -> Sequence[Sequence[Generation]]:
        """Several other summaries of each, for those whose first one can't be used."""


class NoSummarizer:
    """Writes nothing, so that every span is told by its own sentences: a memory without a model."""

    name = "extract"
    max_source_tokens = 512

    def count_tokens(self, text: str) -> int:
        return len(text) // 4 + 1  # only where spans are cut depends on it

    def generate(self, sources: Sequence[str]) -> Sequence[Generation]:
        return [Generation("", 0, 0, "stop") for _ in sources]

    def draw(self, sources: Sequence[str], count: int) -> Sequence[Sequence[Generation]]:
        return [[] for _ in sources]


@dataclass(frozen=True, slots=True)
class Piece:
    """Turns that are summarized in one go, and what the summarizer reads of them."""

    turns: tuple[Turn, ...]
    text: str
    first: int
    """Where its span begins: at its first turn, or before it, where a repair set turns aside."""

    @property
    def span(self) -> Span:
        return Span(self.first, self.turns[-1].seq)


Tried = tuple[tuple[Line, ...], tuple[Verdict, ...]]
"""What came of a piece: the lines that count, and the verdicts on everything that was tried."""


def piece_of(turns: Sequence[Turn], first: int | None = None) -> Piece:
    # As `prompts.source_text` writes a conversation, which is what summarizers have learned from.
    text = "\n".join(f"{speaker_of(turn.message)}: {said(turn.message)}" for turn in turns if not is_pinned(turn))
    return Piece(tuple(turns), text, turns[0].seq if first is None else first)


class Folder:
    """Closes spans and folds them, with one summarizer into one store."""

    def __init__(self, summarizer: SpanSummarizer, store: Store, drawn: int) -> None:
        self.summarizer = summarizer
        self.store = store
        self.drawn = drawn

    def fold(self, line: Branch, tree: FoldTree, most: int) -> int:
        """Fold the next spans that are closed as of turn `line.last`, and what stands above them; how many spans.

        most: of level 0. Each is kept as soon as it is made, so it may be stopped anywhere.
        """
        tree.read(self.store, line)
        before = tree.folded
        closed = self._next_closed(line, tree, most)
        for fold in self._folds(closed):
            self._keep(line, fold)
        tree.read(self.store, line)
        self._fold_above(line, tree)
        return len(closed) if tree.folded > before else 0  # erased meanwhile: what was made is kept nowhere

    def may_close(self, line: Branch, tree: FoldTree) -> bool:
        """Whether turns that came since this was asked last may have closed a span.

        A chat asks after each turn, and reading the open span anew each time would cost more than all else: here only
        what is new is read and counted.
        """
        folded, last, tokens = tree.open_size
        if folded != tree.folded or last > line.last:
            last, tokens = tree.folded, 0
        turns = self.store.history(line.conversation, branch=line.branch, first=last + 1, last=line.last)
        tokens += self._count(turns) if turns else 0
        tree.open_size = tree.folded, line.last, tokens
        return tokens > SURELY_OPEN * self.summarizer.max_source_tokens

    def _next_closed(self, line: Branch, tree: FoldTree, most: int) -> list[Piece]:
        """The next spans to fold, of which a long history read all at once would have hundreds."""
        begin, ahead = tree.folded + 1, READ_AHEAD
        while True:
            end = min(line.last, tree.folded + ahead)
            turns = self.store.history(line.conversation, branch=line.branch, first=begin, last=end)
            found = list(islice(self.closed_spans(turns, begin), most))
            if found or end == line.last:
                return found
            ahead *= 2

    # -- spans

    def closed_spans(self, turns: Sequence[Turn], begin: int | None = None) -> Iterator[Piece]:
        """Turns from a span's beginning on, cut to what the summarizer reads whole; those of the open span are left.

        A cut falls between turns, and never between a call of tools and its results. A turn too long for one reading
        makes a span of its own or closes one; the summarizer reads such spans in pieces. What is called and not yet
        answered keeps its span open for `LONGEST_WAIT` turns besides results; a result that comes later goes where its
        own turn does. So spans are the same whether turns are folded as they come or all at once.

        begin: where the first span begins, if not at the first turn. Each other one begins right after the one before
        it, so that turns that a repair set aside leave no gap.
        """
        for span in self._cut(settled(turns)):
            yield piece_of(span, begin)
            begin = span[-1].seq + 1

    def _cut(self, found: Iterable[Group]) -> Iterator[list[Turn]]:
        most = self.summarizer.max_source_tokens
        span: list[Turn] = []
        size = 0
        for group in found:
            tokens = self._count(group)
            if span and size + tokens > most and 2 * size >= most:
                yield span
                span, size = [], 0
            span += group
            size += tokens
            if size > most:
                yield span
                span, size = [], 0

    def _count(self, turns: Sequence[Turn]) -> int:
        text = piece_of(turns).text
        return self.summarizer.count_tokens(text + "\n") if text else 0

    # -- summaries

    def _folds(self, pieces: Sequence[Piece]) -> list[Fold]:
        summarized = self._summarize(pieces)
        return [
            Fold(
                span=piece.span,
                level=0,
                lines=lines,
                verdicts=verdicts,
                ledger=tuple(ledger([turn for turn in piece.turns if not is_pinned(turn)])),
                pinned=tuple(turn.seq for turn in piece.turns if is_pinned(turn)),
                tokens=ESTIMATE.text(piece.text),
                summarizer=self.summarizer.name,
            )
            for piece, (lines, verdicts) in zip(pieces, summarized, strict=True)
        ]

    def _summarize(self, pieces: Sequence[Piece]) -> list[Tried]:
        """Of each piece the lines that passed the gate, and every verdict on the way there.

        First the whole span in one summary; where that is refused, each half of it; where that is refused too, the
        first of several that are drawn; and at last the turns' own sentences.
        """
        first = self._try(pieces, "whole")
        refused = [piece for piece, verdict in zip(pieces, first, strict=True) if not verdict.passed]
        halves = [_halves(piece) for piece in refused]
        again = iter(self._smaller([half for pair in halves for half in pair]))
        smaller = {id(piece): [next(again) for _ in pair] for piece, pair in zip(refused, halves, strict=True)}
        found: list[Tried] = []
        for piece, verdict in zip(pieces, first, strict=True):
            if verdict.passed:
                found.append(((_line(verdict),), (verdict,)))
            else:
                parts = smaller[id(piece)]
                lines = tuple(_line(tried[-1]) for tried in parts)
                found.append((lines, (verdict, *(one for tried in parts for one in tried))))
        return found

    def _try(self, pieces: Sequence[Piece], how: str) -> list[Verdict]:
        readable = [piece for piece in pieces if piece.text.strip()]
        made = iter(self.summarizer.generate([piece.text for piece in readable]) if readable else ())
        return [
            _judge(piece, next(made), how)
            if piece.text.strip()
            else Verdict("", how, piece.span.first, piece.span.last, ("nothing to read",))
            for piece in pieces
        ]

    def _smaller(self, pieces: Sequence[Piece]) -> list[list[Verdict]]:
        """Of each piece what was tried, the last of which passed."""
        tried = [[verdict] for verdict in self._try(pieces, "smaller")]
        missing = [
            n for n, verdicts in enumerate(tried) if not verdicts[-1].passed and pieces[n].text.strip() and self.drawn
        ]
        drawn = self.summarizer.draw([pieces[n].text for n in missing], self.drawn) if missing else []
        for n, candidates in zip(missing, drawn, strict=True):
            for candidate in candidates:
                tried[n].append(_judge(pieces[n], candidate, "drawn"))
                if tried[n][-1].passed:
                    break
        for piece, verdicts in zip(pieces, tried, strict=True):
            if not verdicts[-1].passed:
                turns = [turn for turn in piece.turns if not is_pinned(turn)]
                verdicts.append(Verdict(extract(turns), "extract", piece.span.first, piece.span.last))
        return tried

    # -- levels above

    def _fold_above(self, line: Branch, tree: FoldTree) -> None:
        level = 0
        while level < len(tree.levels):
            while below := next(self._closed_groups(tree.waiting(level)), None):
                self._keep(line, self._fold_over(below))
                tree.read(self.store, line)
                if tree.end(level + 1) < below[0].span.first:
                    return  # erased meanwhile: it was kept nowhere, and never will be
            level += 1

    def _closed_groups(self, folds: Sequence[Fold]) -> Iterator[list[Fold]]:
        """Folds whose summaries together are one reading; those that may still get company are left."""
        group: list[Fold] = []
        size = 0
        for fold in folds:
            tokens = self.summarizer.count_tokens(fold.text + "\n")
            if len(group) >= 2 and (len(group) == MOST_BELOW or size + tokens > self.summarizer.max_source_tokens):
                yield group
                group, size = [], 0
            group.append(fold)
            size += tokens

    def _fold_over(self, below: Sequence[Fold]) -> Fold:
        """One summary of several, held to what they say."""
        text = "\n".join(fold.text for fold in below)
        span = Span(below[0].span.first, below[-1].span.last)
        source = Source(text)
        [made] = self.summarizer.generate([text])
        verdicts = [Verdict(made.text, "whole", span.first, span.last, source.refuse(made))]
        if not verdicts[-1].passed and self.drawn:
            for candidate in self.summarizer.draw([text], self.drawn)[0]:
                verdicts.append(Verdict(candidate.text, "drawn", span.first, span.last, source.refuse(candidate)))
                if verdicts[-1].passed:
                    break
        if verdicts[-1].passed:
            lines = [_line(verdicts[-1])]
        else:
            # Each one's first sentence: what a summary begins with is what it is about.
            lines = [
                Line(
                    sentences(fold.text)[0] if sentences(fold.text) else fold.text,
                    fold.span.first,
                    fold.span.last,
                    "extract",
                )
                for fold in below
            ]
            verdicts.append(Verdict(" ".join(line.text for line in lines), "extract", span.first, span.last))
        return Fold(span, below[0].level + 1, tuple(lines), tuple(verdicts), summarizer=self.summarizer.name)

    def _keep(self, line: Branch, fold: Fold) -> None:
        """Another process may have been first, and its fold counts; or the conversation was erased, and one of its
        name begun since, whose turns these are not."""
        kind, value = kind_of(fold.level), fold.to_json()
        with suppress(Conflict):
            self.store.attach(
                line.conversation, fold.span, kind, value, branch=line.branch, number=line.number, alone=True
            )


def _judge(piece: Piece, generation: Generation, how: str) -> Verdict:
    tidy = replace(generation, text=" ".join(generation.text.split()))
    return Verdict(tidy.text, how, piece.span.first, piece.span.last, Source(piece.text).refuse(tidy))


def _line(verdict: Verdict) -> Line:
    return Line(verdict.text, verdict.first, verdict.last, "extract" if verdict.how == "extract" else "model")


def _halves(piece: Piece) -> list[Piece]:
    """A piece as two, cut between turns where it has more than one group of them."""
    found = groups(piece.turns)
    if len(found) < 2:
        return [piece]
    total, size = len(piece.text), 0
    cut = 1
    for number, group in enumerate(found[:-1], start=1):
        size += len(piece_of(group).text) + 1
        cut = number
        if 2 * size >= total:
            break
    before = [turn for group in found[:cut] for turn in group]
    return [piece_of(before, piece.first), piece_of(piece.turns[len(before) :], before[-1].seq + 1)]
