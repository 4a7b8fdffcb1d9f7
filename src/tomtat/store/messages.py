"""Messages in OpenAI's shape: what is refused, what is searched, and the hash chain that names a history.

A chain value stands for a message and all before it: equal chains, equal histories. So a history that a client sends
again is recognised by hashing it, without comparing texts, and a retry is told from a message that says the same twice.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tomtat.errors import StoreError
from tomtat.types import Message

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CHAIN_BYTES = 16
START = bytes(CHAIN_BYTES)
"""The chain of an empty history."""

AnyMessage = Mapping[str, Any] | Message


def in_openai_shape(message: AnyMessage) -> dict[str, Any]:
    """A message as OpenAI's API takes it, checked only as far as a store must: unknown fields are kept.

    Raises: StoreError.
    """
    if isinstance(message, Message):
        return _from_type(message)
    if not isinstance(message, Mapping):
        raise StoreError(f"A message is an object with a role and content, not {type(message).__name__}.")
    role = message.get("role")
    if role not in ROLES:
        raise StoreError(f"A message's role is one of {', '.join(ROLES)}, not {role!r}.")
    content = message.get("content")
    if not (content is None or isinstance(content, str) or _is_parts(content)):
        raise StoreError(
            f"The content of a message from {role} is a text or a list of parts with a type, not {content!r:.80}."
        )
    if content is None and not (message.get("tool_calls") or message.get("function_call") or message.get("refusal")):
        raise StoreError(f"A message from {role} has neither content nor tool calls.")
    if not isinstance(message.get("id", ""), str | None):
        raise StoreError(f"A message's id is a text, not {message['id']!r:.80}.")
    return dict(message)


def _is_parts(content: Any) -> bool:
    return isinstance(content, Sequence) and all(
        isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in content
    )


def _from_type(message: Message) -> dict[str, Any]:
    shaped: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        shaped["name"] = message.name
    if message.id is not None:
        shaped["id"] = message.id
    if message.tool_calls:
        shaped["tool_calls"] = [
            {
                **({"id": call.id} if call.id is not None else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return in_openai_shape(shaped)


def canonical(message: Mapping[str, Any]) -> bytes:
    """The same bytes for equal messages, whatever the order of their keys; the client's id is no part of what was said.

    Raises: StoreError where it can't be written as JSON or as UTF-8.
    """
    said = {key: value for key, value in message.items() if key != "id"} if "id" in message else message
    return dump(said, sort_keys=True).encode()


def dump(value: Any, sort_keys: bool = False) -> str:
    """Compact JSON.

    Raises: StoreError.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        raise StoreError(
            "A message has half of a surrogate pair in it, which is no character; it can't be stored."
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"A message can't be written as JSON: {error}.") from None
    return text


def follow(chain: bytes, message: bytes, key: bytes = b"") -> bytes:
    """The chain after one more message, given in its canonical bytes. `key` hides it from who has the file but not the
    key."""
    return hashlib.blake2b(chain + message, digest_size=CHAIN_BYTES, key=key).digest()


def chains(start: bytes, messages: Iterable[bytes], key: bytes = b"") -> Iterator[bytes]:
    """The chain after each message."""
    for message in messages:
        start = follow(start, message, key)
        yield start


def text_of(message: Mapping[str, Any]) -> str:
    """What a search reads of a message: its text, its parts' texts, the names and arguments of its tool calls."""
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return content
    parts = [content] if isinstance(content, str) else list(_texts(content))
    for name, arguments in functions_called(message):
        parts += [name, arguments]
    for name in ("name", "refusal"):
        if isinstance(message.get(name), str):
            parts.insert(0, message[name])
    return "\n".join(part for part in parts if part)


def functions_called(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and arguments of the functions that a message calls, in `tool_calls` or in the older `function_call`."""
    calls = [call.get("function") for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    for function in [*calls, message.get("function_call")]:
        if isinstance(function, Mapping):
            yield str(function.get("name") or ""), str(function.get("arguments") or "")


def _texts(content: Any) -> Iterator[str]:
    for part in content or ():
        for name in ("text", "refusal"):
            if isinstance(part.get(name), str):
                yield part[name]
        file = part.get("file")
        if isinstance(file, Mapping) and isinstance(file.get("filename"), str):
            yield file["filename"]
