"""What a store promises: the contract that SQLite, PostgreSQL and anybody's own store keep.

`tomtat.store.conformance` is the same contract as tests: `pytest --pyargs tomtat.store.conformance --store
package.module:Subject`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

from tomtat.store.messages import AnyMessage
from tomtat.store.values import Appended, Branch, Derived, Health, Hit, Imported, Located, Receipt, Span, Stats, Turn


class Store(Protocol):
    """Every turn kept in order, found again, erased for good: for one tenant. Safe to use from several threads and
    processes.

    An operation is done whole or not at all, and what has returned stays, whatever is killed afterwards. Conversations
    and users are named by texts of the caller's; a tenant never sees another's. Where `branch` is not given, the
    newest is meant.

    Every method raises StoreError, or one of its kinds named below, where a user can do something about it.
    """

    def append(
        self, conversation: str, messages: Sequence[AnyMessage], *, user: str | None = None, branch: int | None = None,
        after: int | None = None, fork: bool = False,
    ) -> Appended:  # fmt: skip
        """Put messages behind a conversation's turns; the first ones make the conversation.

        Safe to repeat: a message with an `id` that is known is not stored again; and with `after`, the place the
        messages stand behind (0: they are the whole history), those that stand there already are not. Turns that
        differ from the messages given behind `after` are a conflict, or with `fork` the messages go to a branch that
        shares what is equal: the one that has most of them already, or else a new one. So `append(name, whole_history,
        after=0, fork=True)` takes what a client sends that keeps its history itself.

        Raises: Conflict, UnknownConversation (a branch that isn't there).
        """

    def history(
        self, conversation: str, *, branch: int | None = None, first: int = 1, last: int | None = None,
        newest: int | None = None,
    ) -> list[Turn]:  # fmt: skip
        """Turns in order: all, from `first` on, as of `last`, or of these the `newest`.

        Raises: UnknownConversation; Damaged, where a turn can't be read.
        """

    def conversations(self, *, user: str | None = None) -> Iterator[Branch]:
        """The newest branch of each conversation, by name."""

    def branches(self, conversation: str) -> list[Branch]:
        """All branches of a conversation, the oldest first.

        Raises: UnknownConversation.
        """

    def locate(self, messages: Sequence[AnyMessage], *, prefix: str = "") -> Located | None:
        """The branch that begins with most of these messages: one that ends with them, or has something derived from
        them. Looked for among conversations whose names begin with `prefix`."""

    def search(
        self, query: str, *, conversation: str | None = None, branch: int | None = None, last: int | None = None,
        user: str | None = None, limit: int = 10,
    ) -> list[Hit]:  # fmt: skip
        """The turns that a question asks about, best first: of a conversation (as of turn `last`), of a user, or of
        all.

        Raises: UnknownConversation.
        """

    def attach(
        self, conversation: str, span: Span, kind: str, value: Any, *, branch: int | None = None,
        expected: int | None = None, number: int | None = None, alone: bool = False,
    ) -> Derived:  # fmt: skip
        """Keep something made from a span of turns, if it is still at version `expected` (None: not there).

        number: the branch's, as it was when its turns were read. Where it has another one now, the conversation was
        erased meanwhile and begun anew, and what was made from the old one must not come to the new.
        span: `Span(0, 0)` for what is said of the whole conversation, which may have no turns yet; all branches see it.
        alone: only if no other span of this kind begins at the same turn, for things of which each goes on where the
        last one ends.

        Raises: Conflict, where somebody else was first, or the branch is another one; UnknownConversation.
        """

    def derived(
        self, conversation: str, *, branch: int | None = None, kind: str | None = None, covering: int | None = None,
        last: int | None = None,
    ) -> list[Derived]:  # fmt: skip
        """What was made from a conversation's turns: of a kind, from spans with turn `covering` in them, as of turn
        `last`. What is said of the whole conversation only with `covering=0`.

        Raises: UnknownConversation; Damaged.
        """

    def erase(self, *, conversation: str | None = None, user: str | None = None) -> Receipt:
        """Remove a conversation, or all of a user: turns, what was derived from them, index entries and vectors.

        What isn't there is nothing to remove: a receipt of zeros. Raises: StoreError unless exactly one is given.
        """

    def export(self, *, conversation: str | None = None, user: str | None = None) -> Iterator[dict[str, Any]]:
        """Everything as rows for JSON Lines, one conversation after the other, each as of one moment."""

    def import_(self, rows: Iterable[dict[str, Any]]) -> Imported:
        """What `export` gave, from this store or another; turns that are there already are left alone.

        Raises: StoreError, with the row's number.
        """

    def stats(self) -> Stats: ...

    def check(self, *, repair: bool = False) -> Health:
        """Read everything of every tenant, and compare it with its checksums, its chain and the index.

        With `repair`, what is damaged is set aside so that the rest can be read again, and the index is made anew
        where it is wrong.
        """

    def tidy(self) -> None:
        """What may wait, done now: new turns into the index, old ones compressed, vectors for those that have none."""

    def for_tenant(self, tenant: str) -> Self:
        """The same store, as another tenant."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *details: object) -> None: ...
