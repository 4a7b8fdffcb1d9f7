"""A chat's memory: every turn kept, older ones summarized, and brought back when they are asked about."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from tomtat.config import MemorySettings
from tomtat.memory.context import Composer, Context
from tomtat.memory.folding import BATCH, Folder, NoSummarizer, SpanSummarizer
from tomtat.memory.folds import Fold, FoldTree, Line
from tomtat.memory.kept import Kept
from tomtat.memory.sources import likeliest
from tomtat.memory.tokens import EstimatedTokens, TokenCounter
from tomtat.memory.worker import Worker
from tomtat.store import Appended, Branch, Hit, Receipt, Store, Turn, UnknownConversation
from tomtat.store.messages import AnyMessage

TREE_BYTES = 1 << 27
"""Of all folds that are kept in memory, so that a context needs to read only those made since."""


class Trees(Kept[tuple[object, str, int], tuple[int, FoldTree]]):
    """Of one memory, or of several that keep within a limit together. Only to be used under `lock`.

    By memory, conversation and branch, with the branch's number, which changes where it is erased and begun anew.
    """

    def __init__(self) -> None:
        super().__init__(TREE_BYTES)
        self.lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class FoldReport:
    """How a conversation was folded."""

    spans: int
    """Of level 0."""
    by_model: int
    """Of these, those whose accepted summary the model wrote, whole or in halves."""
    turns: int
    """Folded; each was read whole."""
    waiting: int
    """Turns of the span that is still open."""
    levels: int

    @property
    def model_share(self) -> float:
        """From 0 to 1; 1 where nothing is folded."""
        return self.by_model / self.spans if self.spans else 1.0


class ChatMemory:
    """Conversations that never lose a turn, and contexts of them that fit a budget.

        memory = ChatMemory(Summarizer.load("runs/chats"), open_store("chats.db"))
        memory.append("chat-1", [{"role": "user", "content": "My order LM-48213 came cracked."}])
        messages = memory.context("chat-1", budget_tokens=2000)

    Turns are folded in the background, span by span, as they come in; a context takes what is folded and asks no
    model. Safe to use from several threads; several processes may share a store, and fold to the same result.

    summarizer: None folds without a model: spans are then told by sentences of their own.
    store: `tomtat.store.open_store`, or any that keeps its contract. It stays the caller's to close.
    counter: of the model that will read contexts; by default an estimate.
    trees: shared by several memories, which then take no more room together than one does.
    others_are_busy: whether somebody waits for this process now: folding in the background lets them go first.
    """

    def __init__(
        self, summarizer: SpanSummarizer | None, store: Store, settings: MemorySettings | None = None,
        counter: TokenCounter | None = None, trees: Trees | None = None,
        others_are_busy: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or MemorySettings()
        self.store = store
        self.counter = counter or EstimatedTokens()
        self._composer = Composer(store, self.counter, self.settings)
        self._folder = Folder(summarizer or NoSummarizer(), store, self.settings.drawn)
        self._trees = trees if trees is not None else Trees()
        self._own = object()
        """What its trees are known by among others'."""
        self._folding = threading.Lock()
        self._worker = Worker(self._fold_some, others_are_busy) if self.settings.background else None

    # -- turns

    def append(
        self, conversation: str, messages: Sequence[AnyMessage], *, user: str | None = None, branch: int | None = None,
        after: int | None = None, fork: bool = False,
    ) -> Appended:  # fmt: skip
        """Keep messages, in OpenAI's shape, and fold ahead. One with `"pinned": true` is never folded.

        The other arguments are the store's: see `Store.append`.
        """
        appended = self.store.append(conversation, messages, user=user, branch=branch, after=after, fork=fork)
        if self._worker and appended.new:
            self._worker.ask(conversation, appended.branch)
        return appended

    def history(self, conversation: str, *, branch: int | None = None, newest: int | None = None) -> list[Turn]:
        """Every turn, in order, as it was said: always, whatever was folded."""
        return self.store.history(conversation, branch=branch, newest=newest)

    def search(self, conversation: str, query: str, *, branch: int | None = None, limit: int = 10) -> list[Hit]:
        """The turns that a question asks about, best first."""
        return self.store.search(query, conversation=conversation, branch=branch, limit=limit)

    def erase(self, conversation: str) -> Receipt:
        """Remove a conversation's turns, and all that was made from them."""
        receipt = self.store.erase(conversation=conversation)
        self.forget(conversation)
        return receipt

    # -- contexts

    def context(
        self, conversation: str, budget_tokens: int, query: str | None = None, *, branch: int | None = None
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Messages to send to a model, of at most `budget_tokens` by the memory's counter.

        query: what to recall older turns for; by default the newest message, and "" recalls nothing.

        Raises: BudgetError where the system's, pinned and newest messages alone take more, with the smallest budget
        that works; UnknownConversation.
        """
        return self.compose(conversation, budget_tokens, query, branch=branch).messages

    def compose(
        self, conversation: str, budget_tokens: int, query: str | None = None, *, branch: int | None = None,
        last: int | None = None, counter: TokenCounter | None = None,
    ) -> Context:  # fmt: skip
        """The same, with where each part of it comes from and what it costs.

        last: as of this turn: nothing of what was said later is in it, nor of what that was folded to.
        counter: in place of the memory's own, where several models read its contexts.
        """
        line = self._line(conversation, branch)
        if last is not None and last < line.last:
            line = replace(line, last=last)
        if not line.last:
            raise UnknownConversation(f"Conversation {conversation!r} has no turns yet: there is nothing to send.")
        composer = Composer(self.store, counter, self.settings) if counter else self._composer
        tree = self._tree(line)
        with tree.lock:
            if tree.folded <= line.last:
                return composer.compose(line, tree, budget_tokens, query)
        earlier = FoldTree()
        earlier.read(self.store, line)
        return composer.compose(line, earlier, budget_tokens, query)

    # -- folding

    def fold(self, conversation: str, *, branch: int | None = None, limit: int | None = None) -> int:
        """Fold now what is closed, at most `limit` spans; how many were folded. In the background this goes by itself.

        Each span is kept as it is done, so it may be interrupted at any time and goes on where it was.
        """
        line = self._line(conversation, branch)
        done = 0
        while limit is None or done < limit:
            most = BATCH if limit is None else min(BATCH, limit - done)
            with self._folding:
                folded = self._folder.fold(line, self._tree(line), most)
            done += folded
            if folded < most:
                break
        return done

    def fold_soon(self, conversation: str, *, branch: int | None = None) -> None:
        """Fold in the background what is closed: for a conversation that came into the store another way."""
        if self._worker:
            self._worker.ask(conversation, self._line(conversation, branch).branch)

    def folds(self, conversation: str, *, branch: int | None = None) -> list[Fold]:
        """All folds, level by level, with their lines, ledgers and every verdict of the gate."""
        return [fold for level in self._tree(self._line(conversation, branch)).levels for fold in level]

    def sources(
        self, conversation: str, text: str, *, branch: int | None = None, limit: int = 3,
        span: tuple[int, int] | None = None,
    ) -> list[Turn]:  # fmt: skip
        """The turns that a sentence of a summary was most likely made from, the likeliest first.

        Looked for within the span of the fold that says it. Empty where no fold does.

        span: the first and last turn of the fold that is meant, where several may say the same; else the first counts.
        """
        line = self._line(conversation, branch)
        said = next(
            (
                fold
                for fold in self.folds(conversation, branch=line.branch)
                if text in fold.text and span in (None, (fold.span.first, fold.span.last))
            ),
            None,
        )
        if said is None:
            return []
        part = next(
            (part for part in said.lines if text in part.text), Line(text, said.span.first, said.span.last, "model")
        )
        turns = self.store.history(conversation, branch=line.branch, first=part.first, last=part.last)
        return likeliest(turns, text)[:limit]

    def report(self, conversation: str, *, branch: int | None = None) -> FoldReport:
        """How the conversation was folded, and by whom."""
        line = self._line(conversation, branch)
        tree = self._tree(line)
        spans = tree.levels[0] if tree.levels else []
        return FoldReport(
            spans=len(spans),
            by_model=sum(fold.by == "model" for fold in spans),
            turns=tree.folded,
            waiting=line.last - tree.folded,
            levels=sum(bool(level) for level in tree.levels),
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Until the background has nothing to fold; whether that came within `timeout` seconds."""
        return self._worker.wait(timeout) if self._worker else True

    def close(self) -> None:
        """End the background's work after the few spans at hand; the rest is folded when somebody appends again."""
        if self._worker:
            self._worker.close()
        with self._trees.lock:
            self._trees.drop(lambda key: key[0] is self._own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # -- inside

    def _fold_some(self, conversation: str, branch: int) -> bool:
        """Fold a few spans; whether there may be more, which wait until others had their turn."""
        with suppress(UnknownConversation):  # erased meanwhile
            line = self._line(conversation, branch)
            tree = self._kept(line)
            if not tree.levels:
                tree.read(self.store, line)
            if self._folder.may_close(line, tree):
                return self.fold(conversation, branch=branch, limit=BATCH) == BATCH
        return False

    def _line(self, conversation: str, branch: int | None) -> Branch:
        try:
            found = self.store.branches(conversation)
        except UnknownConversation:
            self.forget(conversation)
            raise
        if branch is None:
            return found[-1]
        for line in found:
            if line.branch == branch:
                return line
        raise UnknownConversation(f"Conversation {conversation!r} has no branch {branch}; it has {len(found)}.")

    def _tree(self, line: Branch) -> FoldTree:
        """The conversation's folds, read as far as there are any."""
        tree = self._kept(line)
        tree.read(self.store, line)
        with self._trees.lock:
            self._trees.put((self._own, line.conversation, line.branch), (line.number, tree), tree.bytes)
        return tree

    def _kept(self, line: Branch) -> FoldTree:
        """The same as far as they were read last."""
        key = self._own, line.conversation, line.branch
        with self._trees.lock:
            number, tree = self._trees.get(key) or (line.number, FoldTree())
            if number != line.number:  # erased by another process, and begun anew
                tree = FoldTree()
            self._trees.put(key, (line.number, tree), tree.bytes)
        return tree

    def forget(self, conversation: str) -> None:
        """Keep nothing of it in memory."""
        with self._trees.lock:
            self._trees.drop(lambda key: key[:2] == (self._own, conversation))
