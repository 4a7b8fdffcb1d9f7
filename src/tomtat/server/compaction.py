"""What `POST /v1/responses/compact` gives in place of older turns, and what becomes of it when it comes back.

A compaction item names the conversation and the turn up to which it stands: with these at hand a request goes on as if
all of its turns had been sent. Where they are not at hand, in another store or after an erasure, the item's own text
stands in.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tomtat.memory.framing import CLOSE, SUMMARY_OPEN, one_line
from tomtat.server.which import AUTO, Message, Place, Wanted
from tomtat.store import Store, UnknownConversation

MARK = "tomtat1."
MOST_BYTES = 2**20
"""Of an item's content, unpacked: nobody's memory is so long, and something small can unpack to a lot."""


@dataclass(frozen=True, slots=True)
class Compacted:
    conversation: str
    branch: int
    last: int
    """The turn up to which it stands."""
    lines: tuple[str, ...]
    """What was said, in short."""
    pinned: tuple[Message, ...] = ()
    """What must be there word for word."""

    def messages(self) -> list[Message]:
        """As messages, where its conversation is not at hand. What it says was the client's to change: it is framed
        anew, and never weighs more than a user's word."""
        text = "\n".join([SUMMARY_OPEN, *map(one_line, self.lines), CLOSE])
        return [*self.pinned, {"role": "user", "content": text}]


def packed(compacted: Compacted) -> str:
    data = zlib.compress(json.dumps(asdict(compacted), ensure_ascii=False).encode(), 9)
    return MARK + base64.urlsafe_b64encode(data).decode()


def is_compaction(item: Any) -> bool:
    """Whether it is one of ours."""
    return (
        isinstance(item, Mapping)
        and item.get("type") in ("compaction", "compaction_summary")
        and str(item.get("encrypted_content", "")).startswith(MARK)
    )


def unpacked(item: Mapping[str, Any]) -> Compacted | None:
    """None where it was damaged on its way."""
    try:
        data = base64.urlsafe_b64decode(str(item["encrypted_content"]).removeprefix(MARK))
        reader = zlib.decompressobj()
        value = json.loads(reader.decompress(data, MOST_BYTES))
        lines = tuple(str(line) for line in value["lines"])
        pinned = tuple(dict(message) for message in value["pinned"])
        return Compacted(str(value["conversation"]), int(value["branch"]), int(value["last"]), lines, pinned)
    except (ValueError, KeyError, TypeError, zlib.error):
        return None


def base_of(store: Store, turns: Sequence[Message], wanted: Wanted) -> Place | None:
    """Where the turns stand that a first compaction item is for; None where there is none, or they are not at hand.

    Only of the conversation that is asked for, or of one whose name nobody can guess.
    """
    if wanted.only_new or not turns or not is_compaction(turns[0]):
        return None
    found = unpacked(turns[0])
    if found is None or not (found.conversation == wanted.id or found.conversation.startswith(AUTO)):
        return None
    try:
        lines = {line.branch: line.last for line in store.branches(found.conversation)}
    except UnknownConversation:
        return None
    if not 0 < found.last <= lines.get(found.branch, 0):
        return None
    return Place(found.conversation, found.branch, found.last, 0, wanted)


def expanded(turns: Sequence[Message]) -> list[Message]:
    """With compaction items as messages."""
    found: list[Message] = []
    for turn in turns:
        if is_compaction(turn):
            compacted = unpacked(turn)
            found += compacted.messages() if compacted else []
        else:
            found.append(turn)
    return found
