"""The runs' part that shows one of them as it goes: curves, log, scores, and buttons that stop, resume and score it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.ui.owner import Allow, OwnersTab
from tomtat.ui.run_looks import Runs
from tomtat.ui.tables import error_html, html, message, or_error

GOING_SECONDS, IDLE_SECONDS = 2.0, 15.0
"""How often a page asks anew, while the run that it shows goes on and else."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class LookPart:
    """What the others need of it."""

    chosen: gr.Dropdown
    inputs: list[Any]
    outputs: list[Any]
    refresh: Callable[..., list[Any]]


@dataclass(frozen=True)
class Seen:
    """What a page shows already."""

    mark: str = ""
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """What a look fills: the components themselves, or what is to stand in them."""

    listing: Any
    chosen: Any
    stop: Any
    resume: Any
    score: Any
    body: Any
    log: Any
    scored: Any
    clock: Any
    seen: Any

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Scores:
    """Of the evaluation that was chosen."""

    scores: gr.HTML
    show_report: gr.Button
    report: gr.HTML


def look_part(runs: Runs, owner: OwnersTab) -> LookPart:
    shown, told, scores = _lay_out()
    handlers = Handlers(runs, owner.allow)
    asked, outputs = [shown.chosen, shown.scored], [*shown, told]
    for opened in (owner.tab.select, shown.chosen.input):
        opened(handlers.refresh, asked, outputs, **QUIET)
    shown.clock.tick(handlers.tick, [*asked, shown.seen], [*shown], **QUIET)
    shown.stop.click(handlers.stop_run, asked, outputs, **QUIET)
    shown.resume.click(handlers.resume_run, asked, outputs, **QUIET)
    shown.score.click(handlers.score_run, asked, outputs, **QUIET)
    shown.scored.change(handlers.show_scores, shown.scored, [scores.scores, scores.show_report, scores.report], **QUIET)
    scores.show_report.click(handlers.show_the_report, shown.scored, scores.report, api_visibility="private")
    return LookPart(shown.chosen, asked, outputs, handlers.refresh)


def _lay_out() -> tuple[Shown, gr.HTML, Scores]:
    seen = gr.State(Seen())
    clock = gr.Timer(IDLE_SECONDS, active=False)
    listing = html()
    chosen = gr.Dropdown([], label="Run", interactive=True)
    with gr.Row():
        stop = gr.Button("Stop", interactive=False, min_width=80)
        resume = gr.Button("Resume", interactive=False, min_width=80)
        score = gr.Button("Score", interactive=False, min_width=80)
    told, body = html(visible=False), html()
    with gr.Accordion("What the training said", open=False):
        log = html()
    scored = gr.Dropdown([], label="Scores of", interactive=True, visible=False)
    scores = Scores(html(), gr.Button("Show the report", visible=False), html())
    return Shown(listing, chosen, stop, resume, score, body, log, scored, clock, seen), told, scores


class Handlers:
    def __init__(self, runs: Runs, allow: Allow) -> None:
        self._runs = runs
        self._allow = allow

    def refresh(self, name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        self._allow(request)
        try:
            return [*self._look(name, label), _problem(None)]
        except TomtatError as error:
            return [*_unchanged(), _problem(error)]

    def tick(self, name: str | None, label: str | None, before: Seen, request: gr.Request) -> list[Any]:
        self._allow(request)
        try:
            if self._runs.mark(name) == before.mark:
                return _unchanged()
            found = self._look(name, label)
        except TomtatError:
            return _unchanged()  # a folder that is being replaced; the next look finds it whole
        # What the reader may be choosing from at this moment is left alone.
        if found.seen.names == before.names:
            found = replace(found, chosen=gr.skip())
        if found.seen.labels == before.labels:
            found = replace(found, scored=gr.skip())
        return [*found]

    def stop_run(self, name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        self._allow(request)
        return self._act(name, label, self._runs.jobs.stop)

    def resume_run(self, name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        self._allow(request)
        return self._act(name, label, self._runs.jobs.resume)

    def score_run(self, name: str | None, label: str | None, request: gr.Request) -> list[Any]:
        self._allow(request)
        return self._act(name, label, self._runs.jobs.score)

    def show_scores(self, label: str | None, request: gr.Request) -> list[Any]:
        self._allow(request)
        if not label:
            return ["", gr.Button(visible=False), ""]
        return [or_error(lambda: self._runs.scores(label)), gr.Button(visible=True), ""]

    def show_the_report(self, label: str | None, request: gr.Request) -> str:
        self._allow(request)
        return or_error(lambda: self._runs.report(label)) if label else ""

    def _act(self, name: str | None, label: str | None, what: Callable[[str], None]) -> list[Any]:
        problem = None
        try:
            if name is not None:
                what(name)
        except TomtatError as error:
            problem = error
        return [*self._look(name, label), _problem(problem)]

    def _look(self, name: str | None, label: str | None) -> Shown:
        """Of the run and the evaluation that were chosen, or the first where these are gone."""
        names = self._runs.names()
        name = _kept(name, names)
        return self._look_at(name, names, label) if name is not None else self._nothing()

    def _look_at(self, name: str, names: Sequence[str], label: str | None) -> Shown:
        mark = self._runs.mark(name)
        look = self._runs.look(name)
        labels = self._runs.labels(name) if name in self._runs.shelf.names() else []
        return Shown(
            listing=self._runs.listing(),
            chosen=gr.Dropdown(choices=[*names], value=name),
            stop=gr.Button(interactive=look.state.is_ours and look.state.kind != "stopping"),
            resume=gr.Button(interactive=look.state.can_resume),
            score=gr.Button(interactive=look.state.can_score),
            body=look.html,
            log=look.log,
            scored=gr.Dropdown(choices=labels, value=_kept(label, labels), visible=bool(labels)),
            clock=gr.Timer(GOING_SECONDS if look.state.is_going else IDLE_SECONDS, active=True),
            seen=Seen(mark, tuple(names), tuple(labels)),
        )

    def _nothing(self) -> Shown:
        off = gr.Button(interactive=False)
        return Shown(
            listing=self._runs.listing(),
            chosen=gr.Dropdown(choices=[], value=None),
            stop=off,
            resume=off,
            score=off,
            body="",
            log="",
            scored=gr.Dropdown(choices=[], value=None, visible=False),
            clock=gr.Timer(IDLE_SECONDS, active=True),
            seen=Seen(self._runs.mark(None)),
        )


def _kept(chosen: str | None, choices: Sequence[str]) -> str | None:
    return chosen if chosen in choices else next(iter(choices), None)


def _unchanged() -> list[Any]:
    return [gr.skip() for _ in fields(Shown)]


def _problem(error: TomtatError | None) -> gr.HTML:
    return message(error_html(str(error)) if error else "")
