"""A conversation's turns as the items of OpenAI's conversations: one turn may be several, each with an id by its
place."""

import re
from collections.abc import Iterator, Sequence

from tomtat.memory import ChatMemory
from tomtat.memory.turns import shown
from tomtat.server.conversation_shapes import Page
from tomtat.server.errors import ApiError, not_found
from tomtat.server.items import Item, Said, items_of, stands_beside
from tomtat.server.which import Message, normal
from tomtat.store import Conflict, Span, Turn
from tomtat.store.taken_back import are_in, end_of, marks_of, said_anew, take_back

PAGE = 100
KIND = "beside"
"""What is attached to a turn that came with reasoning or a provider's own calls."""
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ID = re.compile(r"[a-z]+_(\d{1,9})_(\d{1,4})")


def keep_beside(memory: ChatMemory, conversation: str, branch: int, first: int, sayings: Sequence[Said]) -> None:
    """What no message holds, kept with the turn it came with."""
    for seq, said in enumerate(sayings, start=first):
        beside = [item for item in said.items if stands_beside(item)]
        if beside:
            try:
                memory.store.attach(conversation, Span(seq, seq), KIND, beside, branch=branch)
            except Conflict:  # it came twice
                continue


def items_from(memory: ChatMemory, conversation: str, turns: Sequence[Turn]) -> list[Item]:
    """Of some turns, in order."""
    beside: dict[int, list[Item]] = {}
    if turns:
        beside = {
            one.span.first: one.value for one in memory.store.derived(conversation, kind=KIND, last=turns[-1].seq)
        }
    return [item for turn in turns for item in _numbered(turn, beside.get(turn.seq, ()))]


def _numbered(turn: Turn, beside: Sequence[Item]) -> Iterator[Item]:
    for number, item in enumerate([*beside, *items_of(shown(turn))]):
        kind = str(item.get("type"))
        yield _in_full(item) | {"id": f"{_PREFIXES.get(kind, 'item')}_{turn.seq}_{number}"}


def _in_full(item: Item) -> Item:
    """As the API shows it, whatever short form it came in."""
    if item.get("type") == "message" and isinstance(item["content"], str):
        answered = {"type": "output_text", "text": item["content"], "annotations": [], "logprobs": []}
        asked = {"type": "input_text", "text": item["content"]}
        item = {**item, "content": [answered if item["role"] == "assistant" else asked]}
    return {"status": "completed", **item}


def page_of(items: list[Item], has_more: bool) -> Page:
    ids = [str(item["id"]) for item in items]
    return Page(data=items, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)


def list_items(memory: ChatMemory, conversation: str, after: str | None, limit: int, ascending: bool) -> Page:
    """Raises: UnknownConversation; ApiError 404 for an `after` that isn't there."""
    line = memory.store.branches(conversation)[-1]
    marks = marks_of(memory.store, line)
    begin = place_of(after) if after is not None else None
    if begin is not None and not 1 <= begin[0] <= line.last:
        raise not_found("item", str(after))
    found: list[Item] = []
    place = begin[0] if begin else 1 if ascending else line.last
    while 1 <= place <= line.last and len(found) <= limit:
        first, last = (place, place + PAGE - 1) if ascending else (max(1, place - PAGE + 1), place)
        turns = memory.store.history(conversation, branch=line.branch, first=first, last=min(last, line.last))
        items = items_from(memory, conversation, [turn for turn in turns if not are_in(marks, turn.seq)])
        items = items if ascending else items[::-1]
        if begin is not None:
            items = [item for item in items if _is_behind(item, begin, ascending)]
        found += items
        place = last + 1 if ascending else first - 1
    return page_of(found[:limit], len(found) > limit)


def _is_behind(item: Item, place: tuple[int, int], ascending: bool) -> bool:
    own = place_of(str(item["id"]))
    return own > place if ascending else own < place


def find_item(memory: ChatMemory, conversation: str, id_: str) -> Item:
    """Raises: UnknownConversation; ApiError 404."""
    line = memory.store.branches(conversation)[-1]
    seq, _ = place_of(id_)
    turns = memory.store.history(conversation, branch=line.branch, first=max(seq, 1), last=seq)
    if are_in(marks_of(memory.store, line), seq):
        raise not_found("item", id_)
    for item in items_from(memory, conversation, turns):
        if item["id"] == id_:
            return item
    raise not_found("item", id_)


def delete_item(memory: ChatMemory, conversation: str, id_: str) -> None:
    """Take back the newest item, with the reasoning that came with it.

    Raises: UnknownConversation; ApiError 404, and 409 for an older one; Conflict where somebody else was first.
    """
    find_item(memory, conversation, id_)
    line = memory.store.branches(conversation)[-1]
    end = end_of(memory.store, line)
    turns = memory.store.history(conversation, branch=line.branch, first=max(end, 1), last=end)
    items = items_from(memory, conversation, turns)
    if not items or items[-1]["id"] != id_:
        raise ApiError(
            409, "Only the newest item can be deleted: those before it stay until the conversation is.",
            "not_the_newest", "item_id",
        )  # fmt: skip
    left = _without_last(shown(turns[0]))
    if left is None:
        take_back(memory.store, line, end, end)
        return
    beside = memory.store.derived(conversation, branch=line.branch, kind=KIND, covering=end, last=end)
    messages = said_anew(line, [left])
    done = memory.append(conversation, messages, branch=line.branch, after=end - 1, fork=True)
    for one in beside:
        memory.store.attach(conversation, Span(end, end), KIND, one.value, branch=done.branch)


def _without_last(message: Message) -> Message | None:
    """A message without its last call; None where that is all it says."""
    calls = message.get("tool_calls") or []
    if not calls or not (message.get("content") or calls[1:]):
        return None
    return normal({**message, "tool_calls": calls[:-1]})


def place_of(id_: str) -> tuple[int, int]:
    """The turn and the number in it that an id stands for.

    Raises: ApiError 404.
    """
    match = _ID.fullmatch(id_)
    if match is None:
        raise not_found("item", id_[:100])
    return int(match[1]), int(match[2])


def at_most(given: Sequence[object], most: int, what: str) -> None:
    """Raises: ApiError 400."""
    if len(given) > most:
        raise ApiError(400, f"A request has at most {most:,} {what}, not {len(given):,}.", "too_many", what)
