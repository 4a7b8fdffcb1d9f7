"""What an upstream's answer said: read along while it passes, never changed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

Message = dict[str, Any]
OF_AN_ANSWER = ("role", "content", "name", "refusal", "tool_calls", "function_call")
"""What of an answer is a turn: what clients send back."""


@dataclass
class Heard:
    messages: list[Message] = field(default_factory=list)
    """What was answered, as chat messages; of several choices the first."""
    prompt_tokens: int | None = None
    total_tokens: int | None = None
    is_whole: bool = False
    """Whether it came to its end."""
    response_id: str | None = None
    unread_bytes: int = 0
    """Of an answer too large to be read."""


class Ears(Protocol):
    """Listens to a stream of events."""

    def line(self, data: bytes) -> None:
        """What stands behind a `data:`."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end."""

    def heard(self) -> Heard: ...


def listen(ears: Ears, lines: bytes) -> None:
    for line in lines.split(b"\n"):
        if line.startswith(b"data:"):
            ears.line(line[5:].strip())


# -- chat completions


def chat_heard(answer: Mapping[str, Any]) -> Heard:
    choices = answer.get("choices")
    message = choices[0].get("message") if isinstance(choices, list) and choices and _is_map(choices[0]) else None
    heard = Heard([_turn(message)] if _is_map(message) else [], is_whole=True)
    _count(heard, answer.get("usage"), "prompt_tokens")
    return heard


class ChatEars:
    """Puts a stream's deltas together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, Message] = {}
        self._function: Message | None = None
        self._usage: Any = None
        self.is_over = self.is_whole = False

    def line(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.is_over = self.is_whole = True
            return
        chunk = _parsed(data)
        if chunk is None:
            return
        self.is_over |= chunk.get("error") is not None
        self._usage = chunk.get("usage") or self._usage
        for choice in _list(chunk.get("choices")):
            if _is_map(choice) and choice.get("index", 0) == 0:
                self.is_whole |= choice.get("finish_reason") is not None
                if _is_map(choice.get("delta")):
                    self._add(choice["delta"])

    def _add(self, delta: Mapping[str, Any]) -> None:
        if isinstance(delta.get("content"), str):
            self._text.append(delta["content"])
        if isinstance(delta.get("refusal"), str):
            self._refusal.append(delta["refusal"])
        if _is_map(delta.get("function_call")):
            self._function = _joined(self._function or {}, delta["function_call"])
        for call in _list(delta.get("tool_calls")):
            if _is_map(call):
                index = call.get("index")
                number = index if isinstance(index, int) else len(self._calls)
                known = self._calls.setdefault(number, {})
                said = call.get("function")
                function = _joined(known.get("function") or {}, said if _is_map(said) else {})
                known |= {key: value for key, value in call.items() if key != "index" and value is not None}
                known["function"] = function

    def heard(self) -> Heard:
        message: Message = {"role": "assistant", "content": "".join(self._text) or None}
        if self._refusal:
            message["refusal"] = "".join(self._refusal)
        if self._calls:
            calls = [self._calls[number] for number in sorted(self._calls)]
            message["tool_calls"] = calls if self.is_whole else [call for call in calls if _is_complete(call)]
        if self._function:
            message["function_call"] = self._function
        heard = Heard([_turn(message)] if any(message.get(name) for name in OF_AN_ANSWER[1:]) else [])
        heard.is_whole = self.is_whole
        _count(heard, self._usage, "prompt_tokens")
        return heard


def _joined(known: Mapping[str, Any], more: Mapping[str, Any]) -> Message:
    """A function's name comes once, its arguments in pieces."""
    arguments = str(known.get("arguments") or "") + str(more.get("arguments") or "")
    return {"name": more.get("name") or known.get("name") or "", "arguments": arguments}


def _is_complete(call: Message) -> bool:
    return _parsed(str(call["function"].get("arguments") or "{}").encode()) is not None


def _turn(message: Mapping[str, Any]) -> Message:
    turn = {name: message[name] for name in OF_AN_ANSWER if message.get(name)}
    audio = message.get("audio")
    if _is_map(audio) and audio.get("id"):
        turn["audio"] = {"id": audio["id"]}
    return {"role": "assistant", "content": None} | turn


# -- both


def _count(heard: Heard, usage: Any, prompt: str) -> None:
    if _is_map(usage):
        heard.prompt_tokens, heard.total_tokens = (
            value if isinstance(value, int) else None for value in (usage.get(prompt), usage.get("total_tokens"))
        )


def _parsed(data: bytes) -> Message | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_map(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


# -- responses


def response_heard(answer: Mapping[str, Any]) -> Heard:
    from tomtat.server.items import messages_of

    output = answer.get("output")
    heard = Heard(messages_of(output) if isinstance(output, list) else [])
    heard.is_whole = answer.get("status") in (None, "completed", "incomplete")
    heard.response_id = answer["id"] if isinstance(answer.get("id"), str) else None
    _count(heard, answer.get("usage"), "input_tokens")
    return heard


ENDS = ("response.completed", "response.incomplete", "response.failed")


class ResponseEars:
    """Waits for the event that has everything; of a stream that is cut, what is done and what was said last."""

    def __init__(self) -> None:
        self._items: list[Message] = []
        self._text: list[str] = []
        self._end: Message | None = None
        self.is_over = self.is_whole = False

    def line(self, data: bytes) -> None:
        if not data.startswith(b"{"):
            return
        event = _parsed(data) or {}
        kind = event.get("type")
        if kind == "response.output_text.delta":
            self._text.append(str(event.get("delta") or ""))
        elif kind == "response.output_item.done" and _is_map(event.get("item")):
            self._items.append(event["item"])
            self._text = []
        elif kind in ENDS:
            self.is_over, self.is_whole = True, kind != "response.failed"
            self._end = event["response"] if _is_map(event.get("response")) else None
        elif kind == "error":
            self.is_over = True

    def heard(self) -> Heard:
        if self._end is not None:
            return response_heard(self._end)
        items: Iterable[Message] = self._items
        if text := "".join(self._text):
            items = [*self._items, {"type": "message", "role": "assistant", "content": text}]
        return response_heard({"output": list(items), "status": "in_progress"})
