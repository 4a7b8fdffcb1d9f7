"""Chat: talk through the memory, and see what it keeps, sends, saves and recalls."""

from typing import Any

import gradio as gr

from tomtat.ui.chat_handlers import Handlers
from tomtat.ui.chat_layout import Layout, lay_out
from tomtat.ui.chatroom import new_name
from tomtat.ui.context import Context

QUIET: dict[str, Any] = {"show_progress": "hidden"}


def tab(context: Context) -> None:
    layout, handlers = lay_out(context.settings.budget_tokens), Handlers(context)
    _choosing(layout, handlers)
    _talking(layout, handlers)
    _searching(layout, handlers)
    _erasing(layout, handlers)


def _choosing(layout: Layout, handlers: Handlers) -> None:
    choice, speech = layout.choice, layout.speech
    seen = [choice.name, choice.budget, choice.who, layout.costs]
    gr.on(None, handlers.fill, None, [choice.name, choice.who], **QUIET)
    for changed in (choice.name.change, choice.who.input, choice.budget.release):
        changed(
            handlers.show, seen, [speech.said, speech.trouble, layout.memory, speech.again, layout.folding], **QUIET
        )
    choice.name.input(lambda: ("", ""), None, [layout.search.hits, layout.erasure.receipt], **QUIET)
    layout.folding.tick(handlers.watch, seen, [layout.memory, layout.folding], **QUIET)
    choice.new.click(new_name, None, choice.name, **QUIET)
    choice.example.input(handlers.open_example, choice.example, [choice.name, speech.trouble], **QUIET)


def _talking(layout: Layout, handlers: Handlers) -> None:
    choice, speech = layout.choice, layout.speech
    asked = [choice.name, choice.budget, choice.who, speech.system, layout.costs]
    shown = [
        speech.said, speech.trouble, layout.memory, speech.text, speech.send, speech.again, speech.stop, layout.costs,
    ]  # fmt: skip
    for begun in (speech.send.click, speech.text.submit):
        begun(handlers.talk, [speech.text, *asked], shown, **QUIET).then(
            handlers.names, choice.name, [choice.name, layout.folding], **QUIET
        )
    speech.again.click(handlers.ask_again, asked, shown, **QUIET).then(
        handlers.names, choice.name, [choice.name, layout.folding], **QUIET
    )
    speech.stop.click(handlers.stop_it, None, None, **QUIET)


def _searching(layout: Layout, handlers: Handlers) -> None:
    search = layout.search
    for asked in (search.go.click, search.query.submit):
        asked(handlers.find, [layout.choice.name, search.query], search.hits, **QUIET)


def _erasing(layout: Layout, handlers: Handlers) -> None:
    erasure, name = layout.erasure, layout.choice.name
    erasure.begin.click(handlers.ask_to_erase, name, [erasure.sure, erasure.question, erasure.receipt], **QUIET)
    erasure.rather_not.click(lambda: gr.update(visible=False), None, erasure.sure, **QUIET)
    erasure.really.click(
        handlers.erase_it, name,
        [erasure.sure, erasure.receipt, name, layout.speech.said, layout.memory, layout.search.hits], **QUIET,
    )  # fmt: skip
