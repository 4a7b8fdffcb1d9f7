"""OpenAI Agents SDK: a session whose items are kept in the store, beside everything else that was said.

    from agents import Agent, Runner
    from tomtat.integrations.agents import StoreSession
    from tomtat.store import open_store

    session = StoreSession("chat-1", open_store("chats.db"))
    result = await Runner.run(Agent(name="Shop"), "My order LM-48213 came cracked.", session=session)

Where `tomtat serve` runs, the SDK's own `OpenAIConversationsSession` keeps items there, and its
`OpenAIResponsesCompactionSession` has them compacted there: neither needs anything from here.
"""

import asyncio
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from tomtat.store import Branch, Conflict, Receipt, Store, Turn
from tomtat.store.taken_back import FIELD, are_in, as_said, marks_of, newest, placed, take_back, until_first

Item = dict[str, Any]
"""As OpenAI's responses take it: a message, a call of a tool, its result, reasoning, ..."""

P = ParamSpec("P")
R = TypeVar("R")


class StoreSession:
    """The SDK's `Session`, on a conversation of a store.

    Items come back as they were added. Their texts can be searched, folded by a `ChatMemory` and exported like those
    of any conversation. Threads and processes may share the store; of several that speak in one session at once
    each sees what the others added.

    session_id: the conversation's name.
    keep_cleared: what `clear_session` takes out of the session stays in the store, to be searched; so does then what a
    compaction replaces. Otherwise clearing erases the conversation for good, and `erase` always does. An item that
    `pop_item` takes back stays in the store either way, until then.
    """

    session_settings: Any = None

    def __init__(
        self, session_id: str, store: Store, *, user: str | None = None, keep_cleared: bool = False,
        session_settings: Any = None,
    ) -> None:  # fmt: skip
        self.session_id = session_id
        self.session_settings = session_settings
        self._store, self._user, self._keeps = store, user, keep_cleared
        self._lock = asyncio.Lock()

    # -- as the SDK asks

    async def get_items(self, limit: int | None = None) -> list[Item]:
        """All items, or the newest `limit`, in order."""
        if limit is None:
            limit = getattr(self.session_settings, "limit", None)
        _, turns = await self._do(self._view)
        if limit is not None:
            turns = turns[max(0, len(turns) - limit) :]
        return [item_of(turn.message) for turn in turns]

    async def add_items(self, items: Sequence[Mapping[str, Any]]) -> None:
        """All of them are kept, or none."""
        if items:
            await self._do(self._add, list(items))

    async def pop_item(self) -> Item | None:
        """Take back the newest item."""
        turn = await self._do(self._pop)
        return item_of(turn.message) if turn else None

    async def clear_session(self) -> None:
        """Begin anew; see `keep_cleared`."""
        await self._do(self._hide_all if self._keeps else self._erase)

    async def erase(self) -> Receipt:
        """Remove the conversation from the store, with all that was cleared and popped before."""
        return await self._do(self._erase)

    # -- in a thread

    async def _do(self, work: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """To its end even if the caller is cancelled: what comes next must find it done or not begun."""
        async with self._lock:
            task = asyncio.ensure_future(asyncio.to_thread(functools.partial(work, *args, **named)))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait([task])
                raise

    def _view(self) -> tuple[Branch | None, list[Turn]]:
        """The newest branch, and those of its turns that were not taken back."""
        line, _ = newest(self._store, self.session_id)
        if line is None:
            return None, []
        marks = marks_of(self._store, line)
        turns = self._store.history(self.session_id, branch=line.branch, last=line.last)
        return line, [turn for turn in turns if not are_in(marks, turn.seq)]

    def _add(self, items: Sequence[Mapping[str, Any]]) -> None:
        said = [message_of(item) for item in items]

        def append() -> None:
            messages, where = placed(*newest(self._store, self.session_id), said)
            self._store.append(self.session_id, messages, user=self._user, **where)

        until_first(append)

    def _pop(self) -> Turn | None:
        while True:
            line, turns = self._view()
            if line is None or not turns:
                return None
            try:
                take_back(self._store, line, turns[-1].seq, turns[-1].seq)
                return turns[-1]
            except Conflict:  # somebody else took it back
                continue

    def _hide_all(self) -> None:
        line, end = newest(self._store, self.session_id)
        if line is not None and end:
            take_back(self._store, line, 1, line.last)

    def _erase(self) -> Receipt:
        return self._store.erase(conversation=self.session_id)


# -- items and messages


def message_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """A message that says what the item says, for search and summaries, with the item in it where it says more."""
    if item.keys() == {"role", "content"} and isinstance(item["content"], str):
        return dict(item)
    kind = item.get("type", "message")
    said: dict[str, Any]
    if kind == "message":
        said = {"role": item.get("role", "assistant"), "content": _text(item.get("content"))}
    elif kind == "function_call":
        function = {"name": str(item.get("name")), "arguments": str(item.get("arguments"))}
        call = {"id": str(item.get("call_id")), "type": "function", "function": function}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
    elif kind == "function_call_output":
        said = {"role": "tool", "tool_call_id": str(item.get("call_id")), "content": _text(item.get("output"))}
    else:
        said = {"role": "assistant", "content": _text(item.get("summary")) or f"[{kind}]"}
    return {**said, FIELD: {"item": dict(item)}}


def item_of(message: Mapping[str, Any]) -> Item:
    said = as_said(message)
    return dict(said[FIELD]["item"] if FIELD in said else said)


def _text(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    if isinstance(content, Sequence):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, Mapping) and "text" in part)
    return json.dumps(content, ensure_ascii=False, default=str)
