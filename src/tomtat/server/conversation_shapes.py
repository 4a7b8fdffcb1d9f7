"""What requests to conversations hold, and what is answered. Fields that nobody knows are ignored."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from tomtat.described import Described
from tomtat.memory import Context, Fold
from tomtat.server.which import Message
from tomtat.store import Branch, Hit, Receipt, Turn
from tomtat.store.taken_back import as_said

Metadata = dict[str, str]


class Given(Described):
    """What clients send: 0 is no `false`."""

    model_config = ConfigDict(strict=True)


class NewConversation(Given):
    id: str | None = None
    """Of your own choosing; a random one where it is not given."""
    items: list[dict[str, Any]] | None = None
    """As OpenAI's responses have them."""
    metadata: Metadata | None = Field(default=None, max_length=16)
    user: str | None = None
    """Whose it is: all of a user's conversations can be listed and erased together."""


class NewMetadata(Given):
    metadata: Metadata | None = Field(max_length=16)


class NewItems(Given):
    items: list[dict[str, Any]] = Field(min_length=1)


class NewMessages(Given):
    messages: list[dict[str, Any]]
    """As OpenAI's chats have them. One with an `id` that is known is not stored again; one with `"pinned": true` is
    never folded."""
    user: str | None = None
    branch: int | None = Field(default=None, ge=0)
    """The newest where not given."""
    after: int | None = Field(default=None, ge=0)
    """The turn they stand behind: those that stand there already are not stored again."""
    fork: bool = False
    """Where what stands behind `after` differs, open a branch instead of answering with 409."""


class Appended(Described):
    conversation: str
    branch: int
    first: int
    """Place of the first message given."""
    last: int
    new: int
    """How many were stored now."""


class Conversation(Described):
    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, Any] = Field(default={})
    user: str | None = None
    turns: int
    """Deleted ones among them."""
    branch: int
    """The newest: what other addresses mean unless they are given another."""


class Page(Described):
    object: str = "list"
    data: list[dict[str, Any]]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class Conversations(Described):
    object: str = "list"
    data: list[Conversation]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class Place(Described):
    turn: int
    """Its place, from 1 on."""
    at: float
    """Unix time at which it was stored."""
    message: dict[str, Any]
    is_cut: bool = False
    """An answer that broke off."""
    is_deleted: bool = False
    """Its items were deleted: it is kept until the conversation is erased, and no model is sent it."""


class Messages(Described):
    object: str = "list"
    data: list[Place]
    branch: int
    turns: int
    has_more: bool


class Found(Place):
    score: float
    """Comparable within one search only."""


class Hits(Described):
    object: str = "list"
    data: list[Found]


class Told(Described):
    """A fold: what stands for the turns from `first` to `last`."""

    first: int
    last: int
    level: int
    """0: made of turns; above, of the folds of the level below."""
    by: str
    """model, extract (the turns' own sentences) or both."""
    text: str
    summarizer: str
    verdicts: list[dict[str, Any]] = Field(default=[])
    """On every text that was tried, those refused too."""
    strings: list[dict[str, Any]] = Field(default=[])
    """Exact strings of its turns."""


class Folds(Described):
    object: str = "list"
    data: list[Told]
    has_more: bool


class Composed(Described):
    """What a model would be sent."""

    object: str = "conversation.context"
    messages: list[dict[str, Any]]
    tokens: int
    budget: int
    counter: str
    """Who counted; an estimate says so."""
    turns: int
    """Of the whole history."""
    is_whole: bool
    system: list[int]
    """Turns that are always there."""
    summaries: list[Told]
    newest: list[int]
    recalled: list[int]
    """Older turns that are quoted, because the query asks about them."""
    shares: dict[str, int]


class Erased(Described):
    """A receipt."""

    id: str | None = None
    object: str = "conversation.deleted"
    deleted: bool
    what: str
    conversations: int
    turns: int
    derived: int
    at: float
    files_rewritten: bool
    """False where another process held the store's files open."""
    remains: list[str]
    """Where copies may live on that no store can reach."""


class ImportedRows(Described):
    object: str = "conversation.import"
    conversations: int
    turns: int
    derived: int
    known: int
    """Turns that were there already."""


def conversation(line: Branch, metadata: Mapping[str, Any]) -> Conversation:
    return Conversation(
        id=line.conversation, created_at=int(line.created), metadata=dict(metadata), user=line.user, turns=line.last,
        branch=line.branch,
    )  # fmt: skip


def place(turn: Turn, cut: frozenset[int], is_deleted: bool) -> Place:
    return Place(
        turn=turn.seq, at=turn.at, message=dict(as_said(turn.message)), is_cut=turn.seq in cut, is_deleted=is_deleted
    )  # fmt: skip


def hit(found: Hit) -> Found:
    return Found(turn=found.turn.seq, at=found.turn.at, message=dict(as_said(found.turn.message)), score=found.score)


def told(fold: Fold, in_full: bool = True) -> Told:
    shape = Told(
        first=fold.span.first, last=fold.span.last, level=fold.level, by=fold.by, text=fold.text,
        summarizer=fold.summarizer,
    )  # fmt: skip
    if in_full:
        shape.verdicts = [
            {"text": one.text, "how": one.how, "first": one.first, "last": one.last, "refused": list(one.reasons)}
            for one in fold.verdicts
        ]
        shape.strings = [{"turn": one.turn, "kind": one.kind, "text": one.text} for one in fold.ledger]
    return shape


def composed(context: Context) -> Composed:
    messages: list[Message] = context.messages
    return Composed(
        messages=messages, tokens=context.tokens, budget=context.budget, counter=context.counter,
        turns=context.history_turns, is_whole=context.is_whole, system=list(context.system),
        summaries=[told(fold, in_full=False) for fold in context.summaries], newest=list(context.newest),
        recalled=list(context.recalled), shares=dict(context.shares),
    )  # fmt: skip


def erased(receipt: Receipt, id_: str | None) -> Erased:
    return Erased(
        id=id_, deleted=receipt.conversations > 0, what=receipt.what, conversations=receipt.conversations,
        turns=receipt.turns, derived=receipt.derived, at=receipt.at, files_rewritten=receipt.files_rewritten,
        remains=list(receipt.remains),
    )  # fmt: skip
