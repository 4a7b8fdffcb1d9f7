"""Summarize: a text or a chat in, the tuned model's summary beside the untuned one's."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from tomtat.data.rows import as_source
from tomtat.errors import TomtatError
from tomtat.server.errors import ApiError
from tomtat.server.services import Caller, ModelCard, Services
from tomtat.types import Summary
from tomtat.ui.context import Context, told
from tomtat.ui.marks import LEGEND, facts, facts_html, marked
from tomtat.ui.sources import SHORT, from_file, short_example, topics
from tomtat.ui.tables import error_html, html, note_html

NOBODY = "none"
AS_TRAINED = "as it was made"
DECODES = {
    "greedy: the likeliest word each time": "greedy",
    "beam: the likeliest of several texts": "beam",
    "sample: drawn by chance": "sample",
    "mbr: of several drawn, the one most like the others": "mbr",
}
SHOWN_EVERY = 0.1
"""Seconds between two looks at what is being written."""
EMPTY = note_html("Summaries come here. Paste a text, drop a file or pick an example, then press Summarize.")


@dataclass
class Writing:
    """A summary on its way."""

    model: str
    is_tuned: bool
    begun: float = field(default_factory=time.monotonic)
    text: str = ""
    summary: Summary | None = None
    seconds: float = 0.0
    failed: str = ""
    is_stopped: bool = False

    @property
    def is_over(self) -> bool:
        return self.summary is not None or bool(self.failed) or self.is_stopped


def tab(context: Context) -> None:
    stops: dict[str | None, asyncio.Event] = {}
    """Of what is being written, by the reader's session."""

    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            text = gr.Textbox(
                label="Text or chat", lines=12, max_lines=24, elem_id="source",
                placeholder="Paste an article here, or a chat with a line per turn:\nNina: Friday is off, I am ill.",
            )  # fmt: skip
        with gr.Column(scale=2, min_width=280):
            example = gr.Dropdown(_examples(), value=None, label="Or an example", elem_id="example", filterable=True)
            file = gr.File(
                label="Or a file: text, JSON, JSON Lines", file_types=[".txt", ".md", ".json", ".jsonl"],
                height=170, elem_id="file",
            )  # fmt: skip
            brought = html(value="", elem_id="brought")
    with gr.Row():
        model = gr.Dropdown([], label="Summarizer", elem_id="model", min_width=200)
        beside = gr.Dropdown([NOBODY], value=NOBODY, label="Beside it", elem_id="beside", min_width=200)
        decode = gr.Dropdown(
            [AS_TRAINED, *DECODES], value=AS_TRAINED, label="Decoding", elem_id="decode", min_width=200
        )
        sentences = gr.Number(
            value=0, label="Most sentences (0: any)", minimum=0, maximum=50, precision=0, min_width=120
        )
        words = gr.Number(value=0, label="Most words (0: any)", minimum=0, maximum=1000, precision=0, min_width=120)
    with gr.Row():
        go = gr.Button("Summarize", variant="primary", elem_id="summarize", scale=0, min_width=180)
        stop = gr.Button("Stop", interactive=False, elem_id="stop-summary", scale=0, min_width=120)
    with gr.Row(equal_height=False):
        first = html(value=EMPTY, elem_id="first-summary")
        second = html(value="", elem_id="second-summary", visible=False)

    def fill(request: gr.Request) -> tuple[Any, Any]:
        cards, untuned = _cards(context, context.caller(request).tenant)
        chosen, other = usual_pair([*cards, *untuned])
        names = [card.id for card in cards]
        beside = [NOBODY, *names, *(card.id for card in untuned)]
        return gr.update(choices=names, value=chosen), gr.update(choices=beside, value=other)

    async def write(
        source: str, model: str | None, beside: str, decode: str, sentences: float | None, words: float | None,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any, Any]]:  # fmt: skip
        caller = context.caller(request)
        if not model:  # whoever is quicker than the list
            cards, untuned = _cards(context, caller.tenant)
            model, beside = usual_pair([*cards, *untuned])
        models = [name for name in (model, beside) if name and name != NOBODY]
        generate = _generate(decode, sentences, words)
        stopped = stops[request.session_hash] = asyncio.Event()
        try:
            async with aclosing(summaries(context.services, caller, models, source, generate, stopped)) as states:
                async for writings in states:
                    yield _shown(writings, source, context.settings.engine)
        except (ApiError, TomtatError) as error:
            yield error_html(told(error) or ""), gr.update(visible=False), *_buttons(False)
        finally:
            stops.pop(request.session_hash, None)

    def stop_it(request: gr.Request) -> None:
        if stopped := stops.get(request.session_hash):
            stopped.set()

    gr.on(None, fill, None, [model, beside], show_progress="hidden")
    example.input(_bring_example, example, [text, brought], show_progress="hidden")
    file.upload(_bring_file, file, [text, brought, file], show_progress="hidden")
    inputs, outputs = [text, model, beside, decode, sentences, words], [first, second, go, stop]
    go.click(write, inputs, outputs, show_progress="hidden")
    stop.click(stop_it, None, None, show_progress="hidden")


def usual_pair(cards: Sequence[ModelCard]) -> tuple[str | None, str]:
    """The first tuned summarizer, and its own base where that is in memory too."""
    tuned = next((card for card in cards if card.weights), None)
    if tuned is None:
        return (cards[0].id if cards else None), NOBODY
    base = next((card.id for card in cards if card.weights is None and card.base == tuned.base), NOBODY)
    return tuned.id, base


def _cards(context: Context, tenant: str) -> tuple[list[ModelCard], list[ModelCard]]:
    """What the tenant sees, and the bases under it that are not served themselves."""
    models = context.services.models
    cards = models.cards(tenant)
    served = {card.base for card in cards if card.weights is None}
    return cards, [card for card in models.untuned(tenant) if card.base not in served]


async def summaries(
    services: Services, caller: Caller, models: Sequence[str], source: str, generate: dict[str, Any],
    stopped: asyncio.Event,
) -> AsyncGenerator[list[Writing]]:  # fmt: skip
    """The state of all of them, again and again until each is written, failed or stopped.

    Raises: ApiError where the tenant has no place or no tokens left; DataError for an empty text.
    """
    text = as_source(source)
    if not models:
        raise ApiError(400, "There is no summarizer here: start the server with a run, as in tomtat ui runs/chats.")
    tuned = {card.id: card.weights is not None for card in services.models.cards(caller.tenant)}
    writings = [Writing(model, tuned.get(model, False)) for model in models]
    async with services.admission.request(caller):
        tasks = [asyncio.create_task(_write(services, caller, one, text, generate)) for one in writings]
        try:
            while not (all(task.done() for task in tasks) or stopped.is_set()):
                yield writings
                await asyncio.wait(tasks, timeout=SHOWN_EVERY)
            for one, task in zip(writings, tasks, strict=True):
                one.is_stopped = not task.done()
                if task.done():
                    task.result()  # a bug of ours is raised here
            yield writings
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _write(services: Services, caller: Caller, one: Writing, source: Any, generate: dict[str, Any]) -> None:
    try:
        async with aclosing(services.models.stream(caller, one.model, source, generate)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Summary):
                    services.admission.spent(caller, piece.prompt_tokens + piece.new_tokens)
                    one.summary, one.text = piece, piece.text
                else:
                    one.text += piece
    except (ApiError, TomtatError) as error:
        one.failed = told(error) or ""
    finally:
        one.seconds = time.monotonic() - one.begun


def _generate(decode: str, sentences: float | None, words: float | None) -> dict[str, Any]:
    """As `Summarizer.ask_for` takes it; what isn't asked for stays as the model was made."""
    asked = {"decode": DECODES.get(decode), "max_sentences": _count(sentences), "max_words": _count(words)}
    return {name: value for name, value in asked.items() if value}


def _count(value: float | None) -> int | None:
    return max(1, int(value)) if value else None


# -- what is shown


def _shown(writings: Sequence[Writing], source: str, engine: str) -> tuple[Any, Any, Any, Any]:
    cards = [_card(one, source, engine) for one in writings]
    second = gr.update(value=cards[1], visible=True) if len(cards) > 1 else gr.update(value="", visible=False)
    return cards[0], second, *_buttons(not all(one.is_over for one in writings))


def _buttons(is_busy: bool) -> tuple[Any, Any]:
    return gr.update(interactive=not is_busy), gr.update(interactive=is_busy)


def _card(one: Writing, source: str, engine: str) -> str:
    kind = "tuned" if one.is_tuned else "untuned"
    head = f'<h3>{escape(one.model)} <span class="tt-badge">{kind}</span></h3>'
    if one.failed:
        body = error_html(one.failed) + (f'<p class="tt-summary">{escape(one.text)}</p>' if one.text else "")
    elif one.is_stopped:
        body = note_html("Stopped.") + (f'<p class="tt-summary">{escape(one.text)}</p>' if one.text else "")
    elif one.summary is None:
        shown = f'<p class="tt-summary">{escape(one.text)}<span class="tt-caret"></span></p>' if one.text else ""
        body = f'<p class="tt-note" role="status">Writing ...</p>{shown}'
    else:
        body = _finished(one, one.summary, source, engine)
    return f'<section class="tt-card" aria-busy="{str(not one.is_over).lower()}">{head}{body}</section>'


def _finished(one: Writing, summary: Summary, source: str, engine: str) -> str:
    if not summary.text.strip():
        return note_html("The model wrote nothing.") + _figures(one, summary, engine)
    return (
        f'<p class="tt-summary">{marked(summary.text, source)}</p>{LEGEND}'
        f"{_figures(one, summary, engine)}{facts_html(facts(summary.text, source))}"
    )


def _figures(one: Writing, summary: Summary, engine: str) -> str:
    parts = [
        f"{one.seconds:.1f} s",
        f"{summary.prompt_tokens:,} tokens read, {summary.new_tokens:,} written",
        f"{len(summary.text.split()):,} words",
        f"engine {engine}",
    ]
    if summary.pieces > 1:
        parts.append(f"read in {summary.pieces} pieces")
    if summary.share_read < 1:
        parts.append(f"{summary.share_read:.0%} of the source read")
    if summary.finish_reason == "length":
        parts.append("cut at its limit of tokens")
    return f'<p class="tt-figures" role="status">{" · ".join(map(escape, parts))}</p>'


# -- what is brought


def _examples() -> list[tuple[str, str]]:
    return [(label, identifier) for identifier, label in topics(SHORT).items()]


def _bring_example(identifier: str | None) -> tuple[Any, str]:
    if identifier is None or identifier not in topics(SHORT):
        return gr.update(), ""
    found = short_example(identifier)
    return found.text, note_html(found.note)


def _bring_file(path: str | None) -> tuple[Any, str, Any]:
    if path is None:
        return gr.update(), "", gr.update()
    place = Path(path)
    try:
        found = from_file(place)
        return found.text, note_html(found.note), None
    except TomtatError as error:
        return gr.update(), error_html(str(error)), None
    finally:
        place.unlink(missing_ok=True)  # somebody's text: nothing of it is left lying about
