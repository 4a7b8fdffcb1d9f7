"""What happens on the chat's tab when somebody presses something: values come in, what is to be shown goes out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.server.errors import ApiError
from tomtat.talking import Cost
from tomtat.ui.chat_layout import EMPTY
from tomtat.ui.chat_views import bar_html, hits_html, messages_of, receipt_html, saved_html, sent_html
from tomtat.ui.chatroom import SHOWN_TURNS, Chatroom, Talk, View, new_name
from tomtat.ui.context import Context, told
from tomtat.ui.sources import long_example
from tomtat.ui.tables import error_html, note_html

ERRORS = (ApiError, TomtatError)


class Handlers:
    def __init__(self, context: Context) -> None:
        self._caller = context.caller
        self._room = Chatroom(lambda: context.services, context.settings.device)
        self._stops: dict[str | None, asyncio.Event] = {}
        """Of the messages under way, by the reader's session."""

    # -- which conversation

    async def fill(self, request: gr.Request) -> tuple[Any, Any]:
        caller = self._caller(request)
        answerers = await self._room.answerers()
        return (
            gr.update(choices=await self._room.conversations(caller), value=new_name()),
            gr.update(choices=answerers, value=answerers[0]),
        )

    async def show(
        self, name: str, budget: float, who: str, costs: dict[str, Cost], request: gr.Request
    ) -> tuple[Any, ...]:
        """What stands there when another conversation is opened, or the budget moves."""
        caller = self._caller(request)
        try:
            view = await self._room.view(caller, name, int(budget), who)
            busy = await self._room.is_folding(caller)
        except ERRORS as error:
            return [], error_html(told(error) or ""), gr.update(), gr.update(), gr.update()
        return (
            messages_of(view.turns), _trouble(view), _panel(view, Cost(), costs.get(name, Cost())),
            gr.update(visible=_waits_for_answer(view)), gr.update(active=busy),
        )  # fmt: skip

    async def watch(
        self, name: str, budget: float, who: str, costs: dict[str, Cost], request: gr.Request
    ) -> tuple[Any, Any]:
        """What folds is told while it does."""
        caller = self._caller(request)
        try:
            busy = await self._room.is_folding(caller)
            view = await self._room.view(caller, name, int(budget), who)
        except ERRORS:
            return gr.update(), gr.update(active=False)
        return _panel(view, Cost(), costs.get(name, Cost())), gr.update(active=busy)

    async def open_example(self, identifier: str | None, request: gr.Request) -> tuple[Any, str]:
        if identifier is None:
            return gr.update(), ""
        caller = self._caller(request)
        try:
            await self._room.begin(caller, f"example {identifier}", long_example(identifier))
        except ERRORS as error:
            return gr.update(), error_html(told(error) or "")
        return gr.update(value=f"example {identifier}", choices=await self._room.conversations(caller)), ""

    # -- talking

    async def talk(
        self, text: str, name: str, budget: float, who: str, system: str, costs: dict[str, Cost], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        if not (text or "").strip():
            yield *_talking(told="Write a message first."), costs
            return
        async for state in self._answered(text.strip(), name, budget, who, system, costs, request):
            yield state

    async def ask_again(
        self, name: str, budget: float, who: str, system: str, costs: dict[str, Cost], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        async for state in self._answered("", name, budget, who, system, costs, request):
            yield state

    async def _answered(
        self, text: str, name: str, budget: float, who: str, system: str, costs: dict[str, Cost], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        caller, session = self._caller(request), request.session_hash
        name = (name or "").strip() or new_name()
        stopped = self._stops[session] = asyncio.Event()
        last: Talk | None = None
        try:
            async with aclosing(self._room.talk(caller, name, text, who, int(budget), system, stopped)) as states:
                async for last in states:
                    yield *_talking(last, costs, name), costs
        except ERRORS as error:
            kept = text if last is None else ""
            yield *_talking(last, costs, name, told=told(error) or "", is_over=True, keeps=kept), costs
            return
        finally:
            self._stops.pop(session, None)
        if last is not None:
            # A new one: what is changed in place is not what the next handler sees.
            costs = {**costs, name: costs.get(name, Cost()) + last.cost}
            yield *_talking(last, costs, name), costs

    async def names(self, name: str, request: gr.Request) -> tuple[Any, Any]:
        """Afterwards: a new conversation is among the others, and something may fold."""
        caller = self._caller(request)
        choices = await self._room.conversations(caller)
        return gr.update(choices=choices), gr.update(active=await self._room.is_folding(caller))

    def stop_it(self, request: gr.Request) -> None:
        if stopped := self._stops.get(request.session_hash):
            stopped.set()

    # -- searching and erasing

    async def find(self, name: str, query: str, request: gr.Request) -> str:
        if not query.strip():
            return note_html("Type what to look for.")
        try:
            return hits_html(await self._room.search(self._caller(request), name, query.strip()), query.strip())
        except ERRORS as error:
            return error_html(told(error) or "")

    async def ask_to_erase(self, name: str) -> tuple[Any, str, str]:
        question = note_html(f"Erase “{name}”, with all that was made from it? Nobody can undo it.")
        return gr.update(visible=True), question, ""

    async def erase_it(self, name: str, request: gr.Request) -> tuple[Any, ...]:
        caller = self._caller(request)
        try:
            gone = await self._room.erase(caller, name)
        except ERRORS as error:
            return gr.update(visible=False), error_html(told(error) or ""), gr.update(), [], EMPTY, ""
        left = gr.update(choices=await self._room.conversations(caller), value=new_name())
        return gr.update(visible=False), receipt_html(gone), left, [], EMPTY, ""


# -- what is shown


def _talking(
    talk: Talk | None = None, costs: dict[str, Cost] | None = None, name: str = "", *, told: str = "",
    is_over: bool = False, keeps: str = "",
) -> tuple[Any, ...]:  # fmt: skip
    """Chat, trouble, memory, message, and the buttons send, again, stop."""
    if talk is None:
        return gr.update(), error_html(told), gr.update(), gr.update(), *_buttons(False, False)
    is_over = is_over or talk.is_over
    messages = messages_of(talk.view.turns)
    if not (talk.is_over or told):
        messages.append({"role": "assistant", "content": talk.answer or "..."})
    failed = told or talk.failed
    panel = _panel(talk.view, talk.cost, (costs or {}).get(name, Cost()))
    can_repeat = is_over and bool(failed) and (bool(told) or _waits_for_answer(talk.view))
    trouble = error_html(failed) if failed else ""
    return messages, trouble, panel, gr.update(value=keeps), *_buttons(not is_over, can_repeat)


def _buttons(is_busy: bool, can_repeat: bool) -> tuple[Any, Any, Any]:
    return gr.update(interactive=not is_busy), gr.update(visible=can_repeat), gr.update(interactive=is_busy)


def _waits_for_answer(view: View) -> bool:
    return bool(view.turns) and view.turns[-1].message["role"] == "user"


def _trouble(view: View) -> str:
    return error_html(view.failed) if view.failed else ""


def _panel(view: View, last: Cost, so_far: Cost) -> str:
    if not view.count:
        return EMPTY
    newest = f" The newest {SHOWN_TURNS} are shown." if view.count > SHOWN_TURNS else ""
    head = note_html(f"{view.count:,} turns.{newest}") + view.folds
    if view.context is None:
        return head
    last = last if last.whole else replace(so_far)
    return "".join(
        [bar_html(view.context), saved_html(last, so_far if so_far.whole else last), head, view.recalled, view.sayings,
         sent_html(view.context)]
    )  # fmt: skip
