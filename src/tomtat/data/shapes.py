"""Conversations as other tools write them, into OpenAI's messages: `[{"role": "user", "content": "hi"}, ...]`.

ShareGPT          {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "Hello."}]}
speakers          {"dialogue": [{"speaker": "Ann", "text": "hi"}]}
logs of requests  {"request": {"messages": [...]}, "response": {"choices": [{"message": {...}}]}}
ChatGPT's export  {"title": "...", "mapping": {NODE: {"message": {...}, "parent": NODE}}, "current_node": NODE}

What is no such conversation is left as it is, for rows.py to judge.
"""

from collections.abc import Mapping
from typing import Any

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "function_call": "assistant",
    "observation": "tool",
}
"""Who speaks, by the words that tools have for it; anybody else is a user with a name."""

SPEAKER_FIELDS = ("from", "speaker", "author", "sender", "name", "user", "username", "participant")
WORDS_FIELDS = ("value", "text", "content", "message", "utterance", "body")


def unwrapped(row: Any) -> Any:
    """A row whose conversation lies deeper, with its messages in `messages`; any other as it is."""
    if isinstance(row, list) and row and all(map(is_message, row)):
        return {"messages": row}
    if not isinstance(row, Mapping):
        return row
    if isinstance(row.get("mapping"), Mapping):
        identifier = row.get("conversation_id") or row.get("id")
        return {"id": identifier, **_without(row, "id", "mapping"), "messages": _chatgpt_messages(row)}
    messages = _logged_messages(row)
    if messages is None:
        return row
    return {"id": row.get("custom_id"), **_without(row, "request", "response", "body"), "messages": messages}


def openai_message(value: object) -> object:
    """A message by speaker and words in OpenAI's shape."""
    if not isinstance(value, Mapping):
        return value
    if isinstance(value.get("role"), str) and "content" in value:
        return {**value, "role": ROLES.get(value["role"].lower(), value["role"])}
    words = next((value[name] for name in WORDS_FIELDS if isinstance(value.get(name), str)), None)
    speaker = next((value[name] for name in ("role", *SPEAKER_FIELDS) if isinstance(value.get(name), str)), None)
    if words is None or not speaker:
        return value
    return {**said(speaker, words), "id": value.get("id")}


def said(speaker: str, words: str) -> dict[str, Any]:
    """A message of somebody who is known by name, or by what tools call the two sides."""
    speaker = speaker.strip()
    role = ROLES.get(speaker.lower())
    if role is None:
        return {"role": "user", "name": speaker, "content": words}
    return {"role": role, "content": words}


def is_message(value: object) -> bool:
    """Whether somebody says something in it, in any of the shapes."""
    shaped = openai_message(value)
    return isinstance(shaped, Mapping) and isinstance(shaped.get("role"), str)


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _logged_messages(row: Mapping[str, Any]) -> list[Any] | None:
    """Of a request to a chat API, with the answer it got; None if the row holds no request."""
    request = row.get("request", row.get("body"))
    if isinstance(request, Mapping) and isinstance(request.get("body"), Mapping):
        request = request["body"]
    if not isinstance(request, Mapping):
        return None
    asked = request.get("messages", request.get("input"))
    if not isinstance(asked, list):
        return None
    instructions = request.get("instructions")
    first = [{"role": "system", "content": instructions}] if isinstance(instructions, str) and instructions else []
    return [*first, *asked, *_answers(row.get("response"))]


def _answers(response: object) -> list[Any]:
    if isinstance(response, Mapping) and isinstance(response.get("body"), Mapping):
        response = response["body"]
    if isinstance(response, str) and response.strip():
        return [{"role": "assistant", "content": response}]
    if not isinstance(response, Mapping):
        return []
    choices, output = response.get("choices"), response.get("output")
    if isinstance(choices, list):
        return [choice["message"] for choice in choices[:1] if isinstance(choice, Mapping) and "message" in choice]
    if isinstance(output, list):
        return [item for item in output if isinstance(item, Mapping) and item.get("type", "message") == "message"]
    return [response] if is_message(response) else []


def _chatgpt_messages(row: Mapping[str, Any]) -> list[Any]:
    """What was said on the branch that was shown last; hidden and empty nodes are none."""
    nodes = row["mapping"]
    path, seen = [], set()
    node = row.get("current_node") or _last_leaf(nodes)
    while isinstance(node, str) and node in nodes and node not in seen:
        seen.add(node)
        path.append(nodes[node])
        node = nodes[node].get("parent") if isinstance(nodes[node], Mapping) else None
    return [message for node in reversed(path) if (message := _chatgpt_message(node))]


def _last_leaf(nodes: Mapping[str, Any]) -> str | None:
    parents = {node.get("parent") for node in nodes.values() if isinstance(node, Mapping)}
    leaves = [name for name in nodes if name not in parents]
    return leaves[-1] if leaves else None


def _chatgpt_message(node: object) -> dict[str, Any] | None:
    message = node.get("message") if isinstance(node, Mapping) else None
    if not isinstance(message, Mapping):
        return None
    author, content = message.get("author"), message.get("content")
    metadata = message.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("is_visually_hidden_from_conversation"):
        return None
    if not isinstance(author, Mapping) or not isinstance(author.get("role"), str) or not isinstance(content, Mapping):
        return None
    parts = content.get("parts")
    words = "\n".join(map(_part, parts)) if isinstance(parts, list) else str(content.get("text") or "")
    if not words.strip():
        return None
    identifier = message.get("id")
    return {"role": author["role"], "content": words, "id": identifier}


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("content_type") if isinstance(part, Mapping) else None
    return str(part["text"]) if isinstance(part, Mapping) and "text" in part else f"[{kind or 'attachment'}]"
