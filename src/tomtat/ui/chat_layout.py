"""What stands on the chat's tab, and where: no word here of what it does."""

from dataclasses import dataclass

import gradio as gr

from tomtat.ui.chatroom import ON_MACHINE
from tomtat.ui.sources import topics
from tomtat.ui.tables import html, note_html

LEAST_BUDGET, MOST_BUDGET = 200, 32_000
FOLDING_SECONDS = 3.0
"""Between two looks at what is being folded."""
EMPTY = note_html("Nothing was said yet. Write a message, or open an example: a long chat shows what the memory does.")


@dataclass(frozen=True)
class Choice:
    """Which conversation, who answers in it, and for how many tokens."""

    name: gr.Dropdown
    who: gr.Dropdown
    budget: gr.Slider
    new: gr.Button
    example: gr.Dropdown


@dataclass(frozen=True)
class Speech:
    """What was said, and what is to be said next."""

    said: gr.Chatbot
    trouble: gr.HTML
    text: gr.Textbox
    send: gr.Button
    again: gr.Button
    stop: gr.Button
    system: gr.Textbox


@dataclass(frozen=True)
class Search:
    query: gr.Textbox
    go: gr.Button
    hits: gr.HTML


@dataclass(frozen=True)
class Erasure:
    """A button, and the question that stands between it and the deed."""

    begin: gr.Button
    sure: gr.Group
    question: gr.HTML
    really: gr.Button
    rather_not: gr.Button
    receipt: gr.HTML


@dataclass(frozen=True)
class Layout:
    choice: Choice
    speech: Speech
    search: Search
    erasure: Erasure
    memory: gr.HTML
    costs: gr.State
    """Of each conversation so far, by its name."""
    folding: gr.Timer


def lay_out(budget_tokens: int) -> Layout:
    choice = _choice(budget_tokens)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            speech = _speech()
            search = _search()
            erasure = _erasure()
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("### The memory")
            memory = html(value=EMPTY, elem_id="memory")
    return Layout(choice, speech, search, erasure, memory, gr.State({}), gr.Timer(FOLDING_SECONDS, active=False))


def _choice(budget_tokens: int) -> Choice:
    with gr.Row():
        name = gr.Dropdown([], label="Conversation", allow_custom_value=True, elem_id="conversation", scale=3)
        who = gr.Dropdown(
            [ON_MACHINE], value=ON_MACHINE, label="Who answers", allow_custom_value=True, elem_id="who", scale=2
        )  # fmt: skip
        budget = gr.Slider(
            LEAST_BUDGET, MOST_BUDGET, value=budget_tokens, step=100, elem_id="budget", scale=2,
            label="Budget: tokens of a request",
        )  # fmt: skip
    with gr.Row():
        new = gr.Button("New conversation", size="sm", elem_id="new-chat")
        example = gr.Dropdown(_examples(), value=None, label="Open an example", elem_id="long-example", scale=2)
    return Choice(name, who, budget, new, example)


def _speech() -> Speech:
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
    return Speech(said, trouble, text, send, again, stop, system)


def _search() -> Search:
    with gr.Row():
        query = gr.Textbox(label="Search this conversation", elem_id="query", scale=3)
        go = gr.Button("Search", elem_id="search", min_width=90)
    return Search(query, go, html(value="", elem_id="hits"))


def _erasure() -> Erasure:
    begin = gr.Button("Erase this conversation", variant="stop", size="sm", elem_id="erase")
    with gr.Group(visible=False) as sure:
        question = html(value="", elem_id="erase-question")
        with gr.Row():
            really = gr.Button("Erase for good", variant="stop", elem_id="erase-really")
            rather_not = gr.Button("Keep it", elem_id="erase-not")
    return Erasure(begin, sure, question, really, rather_not, html(value="", elem_id="receipt"))


def _examples() -> list[tuple[str, str]]:
    return [(label, identifier) for identifier, label in topics("long").items()]
