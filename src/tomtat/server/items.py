"""Items of OpenAI's responses as chat messages, and back: memory and store know messages only.

Reasoning, and calls that a provider makes itself, stand beside the message after them: where that goes out word for
word, they go with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tomtat.memory.turns import shown
from tomtat.server.compaction import is_compaction, unpacked
from tomtat.server.which import Message, normal
from tomtat.store import Turn

Item = dict[str, Any]

BESIDE = frozenset({
    "reasoning", "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call",
    "mcp_list_tools", "mcp_call",
})  # fmt: skip
ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def stands_beside(item: Mapping[str, Any]) -> bool:
    kind = item.get("type")  # a client's: it may be of any type
    return isinstance(kind, str) and kind in BESIDE


class Unreadable(Exception):
    """An item that is no message, and can't be left out either: what it needs may stand elsewhere."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass
class Said:
    message: Message
    """In its normal shape; a compaction item of ours stands as it is."""
    items: list[Item]
    """What it was made from, with what stands beside it."""


def read_items(items: Iterable[Any]) -> list[Said]:
    """Raises: Unreadable."""
    found: list[Said] = []
    beside: list[Item] = []
    for item in items:
        if not isinstance(item, dict):
            raise Unreadable(type(item).__name__)
        if stands_beside(item):
            beside.append(item)
            continue
        message = item if is_compaction(item) else normal(_message(item))
        if found and _are_calls(found[-1].message) and _are_calls(message):
            # Calls made at once are one message in a chat, or their results would stand between them.
            found[-1].message = {
                **found[-1].message,
                "tool_calls": found[-1].message["tool_calls"] + message["tool_calls"],
            }
            found[-1].items += [*beside, item]
        else:
            found.append(Said(message, [*beside, item]))
        beside = []
    if beside and found:
        found[-1].items += beside
    return found


def messages_of(items: Iterable[Any]) -> list[Message]:
    """What can be read of an answer's output."""
    found: list[Message] = []
    for item in items:
        try:
            found += [said.message for said in read_items([item])]
        except Unreadable:
            continue
    return _with_calls_joined(found)


def expanded_sayings(sayings: Sequence[Said]) -> list[Said]:
    """With compaction items of ours as messages."""
    found: list[Said] = []
    for said in sayings:
        compacted = unpacked(said.message) if is_compaction(said.message) else None
        if compacted is not None:
            found += [Said(message, items_of(message)) for message in compacted.messages()]
        elif not is_compaction(said.message):
            found.append(said)
    return found


def _with_calls_joined(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        if found and _are_calls(found[-1]) and _are_calls(message):
            found[-1] = {**found[-1], "tool_calls": found[-1]["tool_calls"] + message["tool_calls"]}
        else:
            found.append(message)
    return found


def _are_calls(message: Message) -> bool:
    return bool(message.get("tool_calls")) and not message.get("content")


# -- an item as a message


def _message(item: Item) -> Message:
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") in ROLES:
        return {"role": item["role"], "content": _content(item.get("content"))}
    if kind == "function_call" and "call_id" in item:
        function = {"name": str(item.get("name") or ""), "arguments": str(item.get("arguments") or "")}
        return _call({"id": str(item["call_id"]), "type": "function", "function": function})
    if kind == "custom_tool_call" and "call_id" in item:
        custom = {"name": str(item.get("name") or ""), "input": str(item.get("input") or "")}
        return _call({"id": str(item["call_id"]), "type": "custom", "custom": custom})
    if kind in ("function_call_output", "custom_tool_call_output") and "call_id" in item:
        return {"role": "tool", "tool_call_id": str(item["call_id"]), "content": _content(item.get("output"))}
    raise Unreadable(str(kind))


def _call(call: Message) -> Message:
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _content(content: Any) -> Any:
    if isinstance(content, list):
        return [_part(part) for part in content]
    return "" if content is None else content


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": str(part.get("text") or "")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": str(part.get("refusal") or "")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file" and not part.get("file_url"):
        return {"type": "file", "file": {name: value for name, value in part.items() if name != "type" and value}}
    return dict(part)


# -- a message as items


def items_of(message: Mapping[str, Any], custom: frozenset[str] = frozenset()) -> list[Item]:
    """custom: ids of calls of custom tools, whose results are items of another type."""
    role = message["role"]
    if role in ("tool", "function"):
        call = str(message.get("tool_call_id") or message.get("name") or "")
        kind = "custom_tool_call_output" if call in custom else "function_call_output"
        return [{"type": kind, "call_id": call, "output": _content_back(message.get("content"), "user")}]
    found: list[Item] = []
    content = message.get("content")
    if message.get("refusal"):
        content = [{"type": "refusal", "refusal": message["refusal"]}]
    calls = message.get("tool_calls") or ()
    if content or not (calls or message.get("function_call")):
        found.append({"type": "message", "role": role, "content": _content_back(content or "", role)})
    found += [_call_back(call) for call in calls if isinstance(call, Mapping)]
    older = message.get("function_call")
    if isinstance(older, Mapping):
        found.append(_call_back({"id": older.get("name"), "function": older}))
    return found


def _call_back(call: Mapping[str, Any]) -> Item:
    if isinstance(call.get("custom"), Mapping):
        return {"type": "custom_tool_call", "call_id": call.get("id"), **call["custom"]}
    function = call.get("function") or {}
    return {
        "type": "function_call", "call_id": call.get("id"), "name": function.get("name", ""),
        "arguments": function.get("arguments", ""),
    }  # fmt: skip


def _content_back(content: Any, role: str) -> Any:
    if isinstance(content, list):
        return [_part_back(part, role) for part in content]
    return "" if content is None else content


def _part_back(part: Any, role: str) -> Any:
    match part:
        case {"type": "text", "text": text}:
            answered = {"type": "output_text", "text": text, "annotations": []}
            return answered if role == "assistant" else {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "image_url": url, "detail": more.get("detail", "auto")}
        case {"type": "file", "file": {**file}}:
            return {"type": "input_file", **file}
    return part


# -- a context as items


def items_for(messages: Sequence[Message], places: Sequence[int], sayings: Sequence[Said], offset: int) -> list[Item]:
    """A context's messages as items: those that the request brought as it brought them, the memory's as a user's words.

    places: of the turns among them, in order. sayings: what the request brought, from turn `offset + 1` on.
    """
    brought = dict(enumerate(sayings, start=offset + 1))
    custom = _custom_calls(messages)
    found: list[Item] = []
    left = list(places)
    for message in messages:
        said = brought.get(left[0]) if left else None
        if said is not None and shown(Turn(0, said.message, 0.0)) == message:
            found += said.items
            left.pop(0)
        else:
            if left and said is None and not is_memory(message):
                left.pop(0)
            found += items_of(message, custom)
    return found


def is_memory(message: Mapping[str, Any]) -> bool:
    """Whether it is what the memory says of older turns."""
    return message["role"] == "user" and str(message.get("content")).startswith("<memory what=")


def _custom_calls(messages: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    calls = [call for message in messages for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    return frozenset(str(call.get("id")) for call in calls if call.get("type") == "custom")
