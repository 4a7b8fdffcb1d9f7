"""Which conversation a request belongs to, and where in it its last message stands.

With an id of the client's own, or found by the hash chain of what it sends. A client without an id can only get back
what it sent: it is led to conversations that nobody named, by histories that are equal to its own, and contexts are
composed as of the last turn it sent.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tomtat.errors import StoreError
from tomtat.memory import ChatMemory
from tomtat.server.errors import ApiError
from tomtat.server.recent import Recent
from tomtat.store import Branch, UnknownConversation
from tomtat.store.appending import named
from tomtat.store.messages import canonical
from tomtat.store.taken_back import as_said, newest, placed, until_first

Message = dict[str, Any]

AUTO = "~"
"""What the names of conversations begin with that were found by their histories, and not named by anybody."""
HEAD_ROLES = ("system", "developer")
KEPT_STATES = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request says about its conversation."""

    id: str | None = None
    only_new: bool = False
    """It brings only what comes after the turns that are there."""
    user: str | None = None
    is_retry: bool = False
    """The client says that it has sent this before."""
    key: str | None = None
    """Of idempotency: two requests with the same say the same."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request's last message stands."""

    conversation: str
    branch: int
    last: int
    new: int
    """Turns that were stored now."""
    wanted: Wanted
    fork: bool = False
    """An answer that came before, and was lost on its way, stands behind it: the next one goes beside it."""
    chain: bytes | None = None
    """Of the whole history up to there, where that came: see `prefixes`."""

    @property
    def keeps_answers(self) -> bool:
        return self.wanted.id is not None


class Answered:
    """Of conversations whose whole histories come again, where our copy of the last answer stands; and those whose
    clients send answers back changed, so that ours would open a branch each time."""

    def __init__(self) -> None:
        self._last: Recent[tuple[str, str], tuple[int, int]] = Recent(KEPT_STATES)
        self._changed: Recent[tuple[str, str], bool] = Recent(KEPT_STATES)

    def note(self, tenant: str, place: Place) -> None:
        self._last.put((tenant, place.conversation), (place.branch, place.last))

    def waits(self, tenant: str, conversation: str) -> bool:
        """Whether answers are not stored before the client sends them."""
        return (tenant, conversation) in self._changed

    def forget(self, tenant: str, conversation: str) -> None:
        self._last.drop(lambda key, _: key == (tenant, conversation))
        self._changed.drop(lambda key, _: key == (tenant, conversation))

    def compare(self, tenant: str, memory: ChatMemory, place: Place) -> None:
        """After a history came: whether it has our copy of the last answer in it."""
        known = self._last.get((tenant, place.conversation))
        if known is None or not place.new or place.last < known[1] or place.branch == known[0]:
            return
        line = memory.store.branches(place.conversation)[place.branch]
        if line.forked_from == known[0] and line.forked_after == known[1] - 1:
            self._changed.put((tenant, place.conversation), True)


def wanted_from(headers: Mapping[str, str], body: Mapping[str, Any]) -> Wanted:
    """By a request's headers and its `metadata`.

    Raises: ApiError 400.
    """
    metadata = body.get("metadata")
    id_ = header_text(headers, "x-conversation-id")
    if id_ is None and isinstance(metadata, Mapping):
        id_ = metadata.get("conversation_id")
    turns = headers.get("x-conversation-turns", "all").strip().lower()
    if turns not in ("all", "new"):
        raise ApiError(400, "X-Conversation-Turns is all or new.", "invalid_header", "X-Conversation-Turns")
    if turns == "new" and id_ is None:
        raise ApiError(
            400, "X-Conversation-Turns: new needs the conversation's id in X-Conversation-Id.", "invalid_header",
            "X-Conversation-Turns",
        )  # fmt: skip
    retries = headers.get("x-stainless-retry-count", "0")
    return checked(
        Wanted(
            id_,
            turns == "new",
            header_text(headers, "x-conversation-user"),
            is_retry=retries.isdecimal() and retries.strip("0") != "",
            key=header_text(headers, "idempotency-key"),
        )
    )


def checked(wanted: Wanted) -> Wanted:
    """Raises: ApiError 400 for names that no conversation or user can have."""
    try:
        if wanted.id is not None:
            named(wanted.id, "conversation")
        if wanted.user is not None:
            named(wanted.user, "user")
    except StoreError as error:
        raise ApiError(400, str(error), "invalid_conversation_id", "X-Conversation-Id") from None
    if wanted.only_new and wanted.id is not None and wanted.id.startswith(AUTO):
        raise ApiError(
            400, "A conversation begun without an id is found by its history: send all of it, or choose an id.",
            "invalid_conversation_id", "X-Conversation-Id",
        )  # fmt: skip
    return wanted


def header_text(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, which HTTP takes for Latin-1, as the UTF-8 that clients write. Programs that fill a template
    (Open WebUI, LibreChat) send an empty one where they have nothing to put in: that is none."""
    value = headers.get(name)
    if not value:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


# -- messages


def split(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """What the system says first, which clients change from request to request, and the turns after it."""
    count = 0
    while count < len(messages) and messages[count].get("role") in HEAD_ROLES:
        count += 1
    return list(messages[:count]), list(messages[count:])


_PLAIN_KEYS = {"role", "content"}


def normal(message: Message) -> Message:
    """A message in the one shape that is matched and kept, however its client dresses it."""
    if message.keys() == _PLAIN_KEYS and isinstance(message["content"], str):
        return message
    kept = {name: value for name, value in message.items() if value is not None and value != [] and value != {}}
    if kept.get("role") == "assistant":
        kept.pop("annotations", None)
        if not kept.get("refusal"):
            kept.pop("refusal", None)
        if isinstance(kept.get("tool_calls"), list):
            kept["tool_calls"] = [_normal_call(call) for call in kept["tool_calls"]]
    content = kept.get("content")
    if isinstance(content, list) and len(content) == 1:
        part = content[0]
        if isinstance(part, Mapping) and part.keys() == {"type", "text"} and part["type"] == "text":
            kept["content"] = part["text"]
    if not kept.get("content"):
        has_more = kept.get("tool_calls") or kept.get("function_call") or kept.get("refusal")
        kept["content"] = None if has_more else ""
    return kept


def _normal_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    kept = {name: value for name, value in call.items() if name != "index" and value is not None}
    function = kept.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
        kept["function"] = {**function, "arguments": _normal_json(function["arguments"])}
    return kept


def _normal_json(text: str) -> str:
    """Frameworks read arguments and write them anew, with other blanks."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else text


# -- places


def find_place(
    memory: ChatMemory, wanted: Wanted, turns: Sequence[Message], require_wanted: Callable[[], None] = lambda: None
) -> Place:
    """Store what is new of a request's turns, in their normal shape, and say where the last of them stands.

    require_wanted: raises where the request was given up meanwhile, and its client may have sent it again.

    Raises: StoreError; what `require_wanted` raises.
    """
    if wanted.only_new:
        return until_first(lambda: _added(memory, wanted, turns, require_wanted))
    turns = [{name: value for name, value in turn.items() if name != "id"} if "id" in turn else turn for turn in turns]
    if wanted.id is None:
        return _located(memory, wanted, turns)
    appended = memory.append(wanted.id, turns, user=wanted.user, after=0, fork=True)
    return Place(wanted.id, appended.branch, appended.last, appended.new, wanted)


def continued(memory: ChatMemory, place: Place, turns: Sequence[Message]) -> Place:
    """The same for turns that stand behind a place that is known."""
    appended = memory.append(
        place.conversation, turns, user=place.wanted.user, branch=place.branch, after=place.last, fork=True
    )
    return replace(place, branch=appended.branch, last=appended.last, new=appended.new)


def _located(memory: ChatMemory, wanted: Wanted, turns: Sequence[Message]) -> Place:
    found = memory.store.locate(turns, prefix=AUTO)
    if found is not None:
        try:
            appended = memory.append(
                found.conversation, turns, user=wanted.user, branch=found.branch, after=0, fork=True
            )
            return Place(found.conversation, appended.branch, appended.last, appended.new, wanted)
        except UnknownConversation:  # erased in between
            pass
    name = new_name()
    appended = memory.append(name, turns, user=wanted.user, after=0, fork=True)
    return Place(name, appended.branch, appended.last, appended.new, wanted)


def new_name() -> str:
    """Nobody can guess it."""
    return AUTO + secrets.token_hex(16)


def _added(
    memory: ChatMemory, wanted: Wanted, turns: Sequence[Message], require_wanted: Callable[[], None]
) -> Place:  # fmt: skip
    """Turns at the end, unless they are what a client that got no answer has sent before.

    Raises: Conflict where somebody else was first.
    """
    assert wanted.id is not None
    line, end = newest(memory.store, wanted.id)
    if wanted.key is not None:
        turns = [{"id": f"{wanted.key}/{number}", **turn} for number, turn in enumerate(turns)]
    elif turns and line and (place := _sent_before(memory, wanted, turns, line, end)) is not None:
        return place
    # After the end was read: if a repeated request adds and is answered from here on, what is added stands behind an
    # end that is no end any more, and the store refuses or knows it.
    require_wanted()
    # The one that came before may be writing still, though nobody waits for it: what it adds is not added again.
    messages, where = placed(line, end, turns, exactly=True)
    appended = memory.append(wanted.id, messages, user=wanted.user, **where)
    if appended.new or not turns:
        return Place(wanted.id, appended.branch, appended.last, appended.new, wanted)
    last = appended.first + len(turns) - 1
    is_answered = last < memory.store.branches(wanted.id)[appended.branch].last
    return Place(wanted.id, appended.branch, last, 0, wanted, fork=is_answered)


def _sent_before(
    memory: ChatMemory, wanted: Wanted, turns: Sequence[Message], line: Branch, end: int
) -> Place | None:  # fmt: skip
    """People say "ok" twice, but not before somebody has answered; and a client that says so sends it again."""
    assert wanted.id is not None
    late = memory.store.history(wanted.id, branch=line.branch, last=end, newest=len(turns) + 1)
    said = [canonical(turn) for turn in turns]
    there = [canonical(as_said(turn.message)) for turn in late]
    if there[-len(said) :] == said:
        return Place(wanted.id, line.branch, end, 0, wanted)
    if wanted.is_retry and there[:-1] == said and late[-1].message["role"] == "assistant":
        return Place(wanted.id, line.branch, end - 1, 0, wanted, fork=True)
    return None
