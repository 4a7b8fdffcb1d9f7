"""The page's part on runs: look at them while they go, compare them, start, stop, resume and score them.

`run_looks.Runs` says what is to be shown; here it is laid out. Every answer asks `allow` first, because a hidden tab's
handlers can be called all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.ui.context import Context
from tomtat.ui.owner import Allow, OwnersTab, open_by_owner, readable
from tomtat.ui.recipes import Recipes
from tomtat.ui.run_looks import Runs
from tomtat.ui.run_shelf import RunShelf
from tomtat.ui.tables import error_html, html, note_html

GOING_SECONDS, IDLE_SECONDS = 2.0, 15.0
"""How often a page asks anew, while the run that it shows goes on and else."""


def tab(context: Context) -> None:
    """Called within the page's tab."""
    shelf = RunShelf(context.runs_folder)
    runs = Runs(shelf, Recipes("recipes", shelf, readable(context)))
    runs_tab(runs, open_by_owner(context))


@dataclass(frozen=True)
class Seen:
    """What a page shows already."""

    mark: str = ""
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LookPart:
    """What the others need of the part that shows one run."""

    chosen: gr.Dropdown
    inputs: list[Any]
    outputs: list[Any]
    refresh: Callable[..., list[Any]]


def runs_tab(runs: Runs, owner: OwnersTab) -> None:
    with gr.Tabs() as parts:
        with gr.Tab("Look", id="look"):
            look = _look_part(runs, owner)
        with gr.Tab("Compare", id="compare") as compare_part:
            _compare_part(runs, owner.allow, compare_part)
        with gr.Tab("Start", id="start") as start_part:
            _start_part(runs, owner.allow, start_part, parts, look)


def _look_part(runs: Runs, owner: OwnersTab) -> LookPart:
    allow = owner.allow
    seen = gr.State(Seen())
    clock = gr.Timer(IDLE_SECONDS, active=False)
    listing = html()
    chosen = gr.Dropdown([], label="Run", interactive=True)
    with gr.Row():
        stop = gr.Button("Stop", interactive=False, min_width=80)
        resume = gr.Button("Resume", interactive=False, min_width=80)
        score = gr.Button("Score", interactive=False, min_width=80)
    message, body = html(visible=False), html()
    with gr.Accordion("What the training said", open=False):
        log = html()
    scored = gr.Dropdown([], label="Scores of", interactive=True, visible=False)
    scores = html()
    show_report = gr.Button("Show the report", visible=False)
    report = html()
    shown = [listing, chosen, stop, resume, score, body, log, scored, clock, seen]

    def everything(name: str | None, label: str | None) -> list[Any]:
        names = runs.names()
        name = name if name in names else (names[0] if names else None)
        choices = gr.Dropdown(choices=names, value=name)
        if name is None:
            nothing = gr.Button(interactive=False)
            empty = [nothing, nothing, nothing, "", "", gr.Dropdown(choices=[], value=None, visible=False)]
            return [runs.listing(), choices, *empty, gr.Timer(IDLE_SECONDS, active=True), Seen(runs.mark(None))]
        mark = runs.mark(name)
        look = runs.look(name)
        labels = runs.labels(name) if name in runs.shelf.names() else []
        kept = label if label in labels else (labels[0] if labels else None)
        return [
            runs.listing(), choices,
            gr.Button(interactive=look.state.is_ours and look.state.kind != "stopping"),
            gr.Button(interactive=look.state.can_resume),
            gr.Button(interactive=look.state.can_score),
            look.html, look.log,
            gr.Dropdown(choices=labels, value=kept, visible=bool(labels)),
            gr.Timer(GOING_SECONDS if look.state.is_going else IDLE_SECONDS, active=True),
            Seen(mark, tuple(names), tuple(labels)),
        ]  # fmt: skip

    def refresh(name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        allow(request)
        try:
            return [*everything(name, label), _problem(None)]
        except TomtatError as error:
            return [*([gr.skip()] * len(shown)), _problem(error)]

    def tick(name: str | None, label: str | None, before: Seen, request: gr.Request) -> Any:
        allow(request)
        try:
            if runs.mark(name) == before.mark:
                return [gr.skip()] * len(shown)
            found = everything(name, label)
        except TomtatError:
            return [gr.skip()] * len(shown)  # a folder that is being replaced; the next look finds it whole
        # What the reader may be choosing from at this moment is left alone.
        now: Seen = found[-1]
        for place, is_same in ((chosen, now.names == before.names), (scored, now.labels == before.labels)):
            if is_same:
                found[shown.index(place)] = gr.skip()
        return found

    def act(name: str | None, label: str | None, what: Callable[[str], None]) -> list[Any]:
        problem = None
        try:
            if name is not None:
                what(name)
        except TomtatError as error:
            problem = error
        return [*everything(name, label), _problem(problem)]

    def stop_run(name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        allow(request)
        return act(name, label, runs.jobs.stop)

    def resume_run(name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        allow(request)
        return act(name, label, runs.jobs.resume)

    def score_run(name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        allow(request)
        return act(name, label, runs.jobs.score)

    def show_scores(label: str | None, request: gr.Request) -> list[Any]:
        allow(request)
        if not label:
            return ["", gr.Button(visible=False), ""]
        return [_told(lambda: runs.scores(label)), gr.Button(visible=True), ""]

    def show_the_report(label: str | None, request: gr.Request) -> str:
        allow(request)
        return _told(lambda: runs.report(label)) if label else ""

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    owner.tab.select(refresh, [chosen, scored], [*shown, message], **quiet)
    chosen.input(refresh, [chosen, scored], [*shown, message], **quiet)
    clock.tick(tick, [chosen, scored, seen], shown, **quiet)
    stop.click(stop_run, [chosen, scored], [*shown, message], **quiet)
    resume.click(resume_run, [chosen, scored], [*shown, message], **quiet)
    score.click(score_run, [chosen, scored], [*shown, message], **quiet)
    scored.change(show_scores, scored, [scores, show_report, report], **quiet)
    show_report.click(show_the_report, scored, report, api_visibility="private")
    return LookPart(chosen, [chosen, scored], [*shown, message], refresh)


def _compare_part(runs: Runs, allow: Allow, part: gr.Tab) -> None:
    with gr.Row():
        one = gr.Dropdown([], label="This", interactive=True)
        other = gr.Dropdown([], label="With this", interactive=True)
    across = gr.Checkbox(False, label="Although they wrote under different length limits (--across-limits)")
    button = gr.Button("Compare", variant="primary")
    result = html()

    def fill(a: str | None, b: str | None, request: gr.Request) -> list[Any]:
        allow(request)
        sides = runs.sides()
        firsts = [side for side in sides if ": " not in side]
        b = b if b in sides else (firsts[0] if firsts else None)
        # The oldest; of a single run, what it was before it was tuned, or else another yardstick.
        others = [*reversed(firsts), f"{b}: untuned", *sides]
        a = a if a in sides else next((side for side in others if side != b and side in sides), None)
        few = note_html("Nothing to compare yet: two scored runs are wanted. “Score” under “Look” does that.")
        message = gr.skip() if len(sides) > 1 else few
        return [gr.Dropdown(choices=sides, value=a), gr.Dropdown(choices=sides, value=b), message]

    def compare_both(a: str | None, b: str | None, across_limits: bool, request: gr.Request) -> str:
        allow(request)
        return _told(lambda: runs.comparison(a, b, across_limits))

    part.select(fill, [one, other], [one, other, result], show_progress="hidden", api_visibility="private")
    button.click(compare_both, [one, other, across], result, api_visibility="private")


def _start_part(runs: Runs, allow: Allow, part: gr.Tab, parts: gr.Tabs, look: LookPart) -> None:
    recipe = gr.Dropdown([], label="Recipe", interactive=True)
    name = gr.Textbox(label="Name of the run", max_lines=1, placeholder="my-chats")
    settings = gr.Textbox(
        label="Settings over the recipe's, one a line", lines=4, placeholder="train.epochs=2\ndata.train=mine.jsonl"
    )
    evaluate = gr.Checkbox(False, label="Score it on its test data afterwards")
    button = gr.Button("Start the training", variant="primary")
    message = html()

    def fill(current: str | None, request: gr.Request) -> Any:
        allow(request)
        names = runs.recipes.names()
        return gr.Dropdown(choices=names, value=current if current in names else names[0])

    def start(recipe: str | None, name: str, settings: str, evaluate: bool, request: gr.Request) -> list[Any]:
        allow(request)
        try:
            runs.start(recipe, name, settings, evaluate)
        except TomtatError as error:
            return [error_html(str(error)), gr.skip(), gr.skip()]
        return ["", gr.Tabs(selected="look"), gr.Dropdown(choices=runs.names(), value=name.strip())]

    part.select(fill, recipe, recipe, show_progress="hidden", api_visibility="private")
    button.click(
        start, [recipe, name, settings, evaluate], [message, parts, look.chosen], api_visibility="private"
    ).then(look.refresh, look.inputs, look.outputs, show_progress="hidden", api_visibility="private")


def _told(what: Callable[[], str]) -> str:
    """What a user can fix is a sentence in the place of the answer."""
    try:
        return what()
    except TomtatError as error:
        return error_html(str(error))


def _problem(error: TomtatError | None) -> gr.HTML:
    """Takes no room where there is none."""
    return gr.HTML(error_html(str(error)) if error else "", visible=error is not None)
