"""Chat: talk through the memory, and see what it keeps, sends, saves and recalls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.server.errors import ApiError
from tomtat.talking import Cost
from tomtat.ui.chat_views import bar_html, hits_html, messages_of, receipt_html, saved_html, sent_html
from tomtat.ui.chatroom import ON_MACHINE, SHOWN_TURNS, Chatroom, Talk, View, new_name
from tomtat.ui.context import Context, told
from tomtat.ui.sources import long_example, topics
from tomtat.ui.tables import error_html, html, note_html

LEAST_BUDGET, MOST_BUDGET = 200, 32_000
FOLDING_SECONDS = 3.0
"""Between two looks at what is being folded."""
EMPTY = note_html("Nothing was said yet. Write a message, or open an example: a long chat shows what the memory does.")
ERRORS = (ApiError, TomtatError)


def tab(context: Context) -> None:
    room = Chatroom(lambda: context.services, context.settings.device)
    stops: dict[str | None, asyncio.Event] = {}
    """Of the messages under way, by the reader's session."""

    with gr.Row():
        name = gr.Dropdown([], label="Conversation", allow_custom_value=True, elem_id="conversation", scale=3)
        who = gr.Dropdown(
            [ON_MACHINE], value=ON_MACHINE, label="Who answers", allow_custom_value=True, elem_id="who", scale=2
        )  # fmt: skip
        budget = gr.Slider(
            LEAST_BUDGET, MOST_BUDGET, value=context.settings.budget_tokens, step=100, elem_id="budget", scale=2,
            label="Budget: tokens of a request",
        )  # fmt: skip
    with gr.Row():
        new = gr.Button("New conversation", size="sm", elem_id="new-chat")
        example = gr.Dropdown(_examples(), value=None, label="Open an example", elem_id="long-example", scale=2)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            said = gr.Chatbot(
                [], label="What was said", height=440, elem_id="said", render_markdown=False, buttons=[],
                group_consecutive_messages=False,
                placeholder="Nothing was said yet.",
            )  # fmt: skip
            trouble = html(value="", elem_id="trouble")
            text = gr.Textbox(
                label="Your message", placeholder="Enter sends, Shift+Enter begins a line", lines=1, max_lines=6,
                elem_id="message",
            )  # fmt: skip
            with gr.Row():
                send = gr.Button("Send", variant="primary", elem_id="send", min_width=100)
                again = gr.Button("Ask again", elem_id="again", visible=False, min_width=100)
                stop = gr.Button("Stop", interactive=False, elem_id="stop-answer", min_width=100)
            with gr.Accordion("Instructions for a new conversation", open=False):
                system = gr.Textbox(label="System message", lines=2, elem_id="system")
            with gr.Row():
                query = gr.Textbox(label="Search this conversation", elem_id="query", scale=3)
                search = gr.Button("Search", elem_id="search", min_width=90)
            hits = html(value="", elem_id="hits")
            erase = gr.Button("Erase this conversation", variant="stop", size="sm", elem_id="erase")
            with gr.Group(visible=False) as sure:
                question = html(value="", elem_id="erase-question")
                with gr.Row():
                    really = gr.Button("Erase for good", variant="stop", elem_id="erase-really")
                    rather_not = gr.Button("Keep it", elem_id="erase-not")
            receipt = html(value="", elem_id="receipt")
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("### The memory")
            panel = html(value=EMPTY, elem_id="memory")
    costs = gr.State({})
    folding = gr.Timer(FOLDING_SECONDS, active=False)

    async def fill(request: gr.Request) -> tuple[Any, Any]:
        caller = context.caller(request)
        answerers = await room.answerers()
        return (
            gr.update(choices=await room.conversations(caller), value=new_name()),
            gr.update(choices=answerers, value=answerers[0]),
        )

    async def show(name: str, budget: float, who: str, costs: dict[str, Cost], request: gr.Request) -> tuple[Any, ...]:
        """What stands there when another conversation is opened, or the budget moves."""
        caller = context.caller(request)
        try:
            view = await room.view(caller, name, int(budget), who)
            busy = await room.is_folding(caller)
        except ERRORS as error:
            return [], error_html(told(error) or ""), gr.update(), gr.update(), gr.update()
        return (
            messages_of(view.turns), _trouble(view), _panel(view, Cost(), costs.get(name, Cost())),
            gr.update(visible=_waits_for_answer(view)), gr.update(active=busy),
        )  # fmt: skip

    async def watch(
        name: str, budget: float, who: str, costs: dict[str, Cost], request: gr.Request
    ) -> tuple[Any, Any]:  # fmt: skip
        """What folds is told while it does."""
        caller = context.caller(request)
        try:
            busy = await room.is_folding(caller)
            view = await room.view(caller, name, int(budget), who)
        except ERRORS:
            return gr.update(), gr.update(active=False)
        return _panel(view, Cost(), costs.get(name, Cost())), gr.update(active=busy)

    async def talk(
        text: str, name: str, budget: float, who: str, system: str, costs: dict[str, Cost], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        if not (text or "").strip():
            yield *_talking(told="Write a message first."), costs
            return
        async for state in _answered(text.strip(), name, budget, who, system, costs, request):
            yield state

    async def ask_again(
        name: str, budget: float, who: str, system: str, costs: dict[str, Cost], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        async for state in _answered("", name, budget, who, system, costs, request):
            yield state

    async def _answered(
        text: str, name: str, budget: float, who: str, system: str, costs: dict[str, Cost], request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        caller, session = context.caller(request), request.session_hash
        name = (name or "").strip() or new_name()
        stopped = stops[session] = asyncio.Event()
        last: Talk | None = None
        try:
            async with aclosing(room.talk(caller, name, text, who, int(budget), system, stopped)) as states:
                async for last in states:
                    yield *_talking(last, costs, name), costs
        except ERRORS as error:
            kept = text if last is None else ""
            yield *_talking(last, costs, name, told=told(error) or "", is_over=True, keeps=kept), costs
            return
        finally:
            stops.pop(session, None)
        if last is not None:
            # A new one: what is changed in place is not what the next handler sees.
            costs = {**costs, name: costs.get(name, Cost()) + last.cost}
            yield *_talking(last, costs, name), costs

    async def names(name: str, request: gr.Request) -> tuple[Any, Any]:
        caller = context.caller(request)
        return gr.update(choices=await room.conversations(caller)), gr.update(active=await room.is_folding(caller))

    def stop_it(request: gr.Request) -> None:
        if stopped := stops.get(request.session_hash):
            stopped.set()

    async def open_example(identifier: str | None, request: gr.Request) -> tuple[Any, str]:
        if identifier is None:
            return gr.update(), ""
        caller = context.caller(request)
        try:
            await room.begin(caller, f"example {identifier}", long_example(identifier))
        except ERRORS as error:
            return gr.update(), error_html(told(error) or "")
        return gr.update(value=f"example {identifier}", choices=await room.conversations(caller)), ""

    async def find(name: str, query: str, request: gr.Request) -> str:
        if not query.strip():
            return note_html("Type what to look for.")
        try:
            return hits_html(await room.search(context.caller(request), name, query.strip()), query.strip())
        except ERRORS as error:
            return error_html(told(error) or "")

    async def ask_to_erase(name: str) -> tuple[Any, str, str]:
        return (
            gr.update(visible=True),
            note_html(f"Erase “{name}”, with all that was made from it? Nobody can undo it."),
            "",
        )

    async def erase_it(name: str, request: gr.Request) -> tuple[Any, ...]:
        caller = context.caller(request)
        try:
            gone = await room.erase(caller, name)
        except ERRORS as error:
            return gr.update(visible=False), error_html(told(error) or ""), gr.update(), [], EMPTY, ""
        left = gr.update(choices=await room.conversations(caller), value=new_name())
        return gr.update(visible=False), receipt_html(gone), left, [], EMPTY, ""

    gr.on(None, fill, None, [name, who], show_progress="hidden")
    shown = [said, trouble, panel, again, folding]
    for changed in (name.change, who.input, budget.release):
        changed(show, [name, budget, who, costs], shown, show_progress="hidden")
    name.input(lambda: ("", ""), None, [hits, receipt], show_progress="hidden")
    folding.tick(watch, [name, budget, who, costs], [panel, folding], show_progress="hidden")
    new.click(new_name, None, name, show_progress="hidden")
    example.input(open_example, example, [name, trouble], show_progress="hidden")
    spoken = [said, trouble, panel, text, send, again, stop, costs]
    asked = [name, budget, who, system, costs]
    for begun in (send.click, text.submit):
        begun(talk, [text, *asked], spoken, show_progress="hidden").then(
            names, name, [name, folding], show_progress="hidden"
        )
    again.click(ask_again, asked, spoken, show_progress="hidden").then(
        names, name, [name, folding], show_progress="hidden"
    )
    stop.click(stop_it, None, None, show_progress="hidden")
    for looked in (search.click, query.submit):
        looked(find, [name, query], hits, show_progress="hidden")
    erase.click(ask_to_erase, name, [sure, question, receipt], show_progress="hidden")
    rather_not.click(lambda: gr.update(visible=False), None, sure, show_progress="hidden")
    really.click(erase_it, name, [sure, receipt, name, said, panel, hits], show_progress="hidden")


# -- what is shown


def _talking(
    talk: Talk | None = None, costs: dict[str, Cost] | None = None, name: str = "", *, told: str = "",
    is_over: bool = False, keeps: str = "",
) -> tuple[Any, ...]:  # fmt: skip
    """Of `spoken` above, without its last: chat, trouble, panel, message, send, again, stop."""
    if talk is None:
        return gr.update(), error_html(told), gr.update(), gr.update(), *_buttons(False, False)
    is_over = is_over or talk.is_over
    messages = messages_of(talk.view.turns)
    if not talk.is_over:
        messages.append({"role": "assistant", "content": talk.answer or "..."} if not told else {})
        messages = [one for one in messages if one]
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


def _examples() -> list[tuple[str, str]]:
    return [(label, identifier) for identifier, label in topics("long").items()]
