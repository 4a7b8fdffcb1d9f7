"""A context for a budget: what a model is sent instead of the whole history.

    system and pinned messages, word for word
    one message with the summaries of older spans, and exact strings from them
    the newest turns, word for word
    one message with older turns that the newest message asks about, quoted
    the newest message

What stands before the newest turns depends on the budget and on closed spans alone, so it is the same bytes from turn
to turn until a span closes, and a provider's prompt cache keeps working.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tomtat.config import MemorySettings
from tomtat.errors import BudgetError
from tomtat.memory.folds import Fold, FoldTree
from tomtat.memory.recall import Quote, block, question_of, quotes
from tomtat.memory.summary_block import SummaryBlock, strings_block, summary_block
from tomtat.memory.tokens import TokenCounter
from tomtat.memory.turns import groups, merged, shown, user
from tomtat.memory.window import Window
from tomtat.store import Branch, Store, Turn, UnknownConversation


@dataclass(frozen=True)
class Context:
    """What to send to a model, and how it came about."""

    messages: list[dict[str, Any]]
    tokens: int
    """Of all messages, by `counter`."""
    budget: int
    history_turns: int
    counter: str
    """Who counted; an estimate says so."""
    system: tuple[int, ...]
    """Turns that are always there: of the system, and pinned."""
    summaries: tuple[Fold, ...]
    """What stands for older turns."""
    newest: tuple[int, ...]
    """Turns that stand word for word in their place, the newest among them."""
    recalled: tuple[int, ...]
    """Older turns that are quoted, because the newest message asks about them."""
    shares: Mapping[str, int]
    """Tokens of `system`, `summaries`, `newest`, `recalled`."""

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole history as it was."""
        return len(self.system) + len(self.newest) == self.history_turns


@dataclass
class _Draft:
    """The parts of a context on its way, each in the order of its turns."""

    line: Branch
    budget: int
    pinned: list[Turn]
    newest: list[Turn]
    """The newest message."""
    summaries: SummaryBlock = field(default_factory=SummaryBlock)
    recent: list[Turn] = field(default_factory=list)
    """Those right before the newest message."""
    found: list[Quote] = field(default_factory=list)
    extra: str = ""
    """More exact strings, where recall left room."""

    @property
    def start(self) -> int:
        """The first turn that stands word for word in its place."""
        return (self.recent or self.newest)[0].seq

    @property
    def quoted(self) -> str:
        return "\n".join(filter(None, [self.extra, block(self.found) if self.found else ""]))

    @property
    def places(self) -> set[int]:
        """Of turns that stand word for word in it."""
        return {turn.seq for turn in (*self.pinned, *self.recent, *self.newest)}

    def leave_out_least(self) -> bool:
        """Leave out what is worth least; whether there was anything that may be."""
        if self.extra:
            self.extra = ""
        elif self.found:
            worst = min(self.found, key=lambda quote: quote.score)
            self.found = [quote for quote in self.found if quote is not worst]
        elif self.summaries.text:
            self.summaries = SummaryBlock()
        elif self.recent:
            self.recent = [turn for group in groups(self.recent)[1:] for turn in group]
        else:
            return False
        return True


class Composer:
    """Composes contexts of one conversation's branch from what is in the store; asks no model."""

    def __init__(self, store: Store, counter: TokenCounter, settings: MemorySettings) -> None:
        self.store = store
        self.counter = counter
        self.settings = settings

    def compose(self, line: Branch, tree: FoldTree, budget: int, question: str | None) -> Context:
        """See `ChatMemory.compose`.

        Raises: BudgetError; UnknownConversation where a repair set all turns aside.
        """
        window = Window(self.store, line, self.counter, tree.folded)
        if not window.newest:
            raise UnknownConversation(f"Conversation {line.conversation!r} has no turn left that can be read.")
        draft = _Draft(line, budget, self._pinned(line, tree, window), window.newest)
        room = budget - self._fixed(draft)
        if window.fits(room, tree):
            whole = self._whole(replace(draft, recent=window.older))
            if whole.tokens <= budget:
                return whole
        self._fill(draft, window, tree, question, room)
        return self._fitted(draft)

    # -- parts

    def _pinned(self, line: Branch, tree: FoldTree, window: Window) -> list[Turn]:
        """Turns that no span stands for: what the system says, and what was pinned; without the newest message."""
        places = [place for fold in (tree.levels[0] if tree.levels else ()) for place in fold.pinned]
        folded = [
            turn
            for place in places
            for turn in self.store.history(line.conversation, branch=line.branch, first=place, last=place)
        ]
        known, newest = set(places), {turn.seq for turn in window.newest}
        found = folded + [turn for turn in window.pinned if turn.seq not in known]
        return [turn for turn in found if turn.seq not in newest]

    def _fixed(self, draft: _Draft) -> int:
        """Tokens of what must be sent.

        Raises: BudgetError where that is over the budget.
        """
        fixed = self.counter.total(self._merged([shown(turn) for turn in [*draft.pinned, *draft.newest]]))
        if fixed > draft.budget:
            what = "system and pinned messages and the newest message" if draft.pinned else "newest message"
            raise self._too_small(draft, f"the {what}", fixed)
        return fixed

    def _fill(self, draft: _Draft, window: Window, tree: FoldTree, question: str | None, room: int) -> None:
        """Everything else, as far as there is room: newest turns, summaries, recalled turns, exact strings."""
        # What older spans and newest turns get must not hang on how long the newest message is, or the front would
        # change with it.
        shared = draft.budget - self.counter.total([shown(turn) for turn in draft.pinned])
        draft.recent = window.since(min(self.settings.tokens_for(self.settings.newest_share, shared), room), tree)
        if not draft.recent and question is None:
            draft.recent = window.before(room // 4)
        room -= window.cost(draft.recent)
        for_summaries = min(self.settings.tokens_for(self.settings.summary_share, shared), room)
        draft.summaries = summary_block(tree, draft.start, for_summaries, self.counter, self.settings)
        room -= draft.summaries.tokens
        asked = question_of(window.older + draft.newest) if question is None else question
        draft.found = self._recall(draft, tree, asked, room) if asked.strip() else []
        room -= self.counter.message(user(block(draft.found))) if draft.found else 0
        room -= self.counter.message(user(""))
        draft.extra = strings_block(tree, draft.start, draft.summaries, draft.found, room, self.counter)

    def _recall(self, draft: _Draft, tree: FoldTree, asked: str, room: int) -> list[Quote]:
        room -= self.counter.message(user(""))
        is_shown = draft.places.__contains__
        return quotes(self.store, draft.line, tree, asked, is_shown, room, self.counter.text)

    # -- the whole

    def _fitted(self, draft: _Draft) -> Context:
        """As much of a draft as the budget takes: texts may cost a little more together than one by one.

        Raises: BudgetError where an estimate that learned in this moment counts more than it did before.
        """
        composed = self._put_together(draft)
        while composed.tokens > draft.budget:
            if not draft.leave_out_least():
                raise self._too_small(draft, "what must be sent", composed.tokens)
            composed = self._put_together(draft)
        return composed

    def _put_together(self, draft: _Draft) -> Context:
        parts = [("system", shown(turn)) for turn in draft.pinned]
        if draft.summaries.text:
            parts.append(("summaries", user(draft.summaries.text)))
        parts += [("newest", shown(turn)) for turn in draft.recent]
        if draft.quoted:
            parts.append(("recalled", user(draft.quoted)))
        parts += [("newest", shown(turn)) for turn in draft.newest]
        return self._context(draft, parts)

    def _whole(self, draft: _Draft) -> Context:
        """Everything in its own place, where the budget has room for it."""
        parts = [("system", turn) for turn in draft.pinned] + [("newest", turn) for turn in draft.recent + draft.newest]
        in_order = sorted(parts, key=lambda part: part[1].seq)
        return self._context(draft, [(share, shown(turn)) for share, turn in in_order])

    def _context(self, draft: _Draft, parts: Sequence[tuple[str, dict[str, Any]]]) -> Context:
        """Messages, each with the share it belongs to, in the order they are sent. Each is counted once."""
        shares = dict.fromkeys(("system", "summaries", "newest", "recalled"), 0)
        for share, message in parts:
            shares[share] += self.counter.message(message)
        sent = [message for _, message in parts]
        messages = self._merged(sent)
        tokens = self.counter.total(messages) if len(messages) < len(sent) else self.counter.base + sum(shares.values())
        return Context(
            messages, tokens, draft.budget, draft.line.last, self.counter.name,
            system=tuple(turn.seq for turn in draft.pinned), summaries=draft.summaries.folds,
            newest=tuple(turn.seq for turn in (*draft.recent, *draft.newest)),
            recalled=tuple(quote.turn.seq for quote in draft.found), shares=shares,
        )  # fmt: skip

    def _merged(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return merged(messages) if self.settings.merge_roles else messages

    def _too_small(self, draft: _Draft, what: str, smallest: int) -> BudgetError:
        return BudgetError(
            f"A budget of {draft.budget} tokens is too small for {what} of conversation {draft.line.conversation!r}; "
            f"the smallest that works is {smallest} ({self.counter.name}).",
            smallest,
        )
