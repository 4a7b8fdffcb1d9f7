"""The page's part on runs: look at them while they go, compare them, start, stop, resume and score them.

`run_looks.Runs` says what is to be shown; here it is laid out. Every answer asks `allow` first, because a hidden tab's
handlers can be called all the same.
"""

from typing import Any

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.ui.context import Context
from tomtat.ui.look_part import LookPart, look_part
from tomtat.ui.owner import Allow, OwnersTab, open_by_owner, readable
from tomtat.ui.recipes import Recipes
from tomtat.ui.run_looks import Runs
from tomtat.ui.run_shelf import RunShelf
from tomtat.ui.tables import error_html, html, note_html, or_error


def tab(context: Context) -> None:
    """Called within the page's tab."""
    shelf = RunShelf(context.runs_folder)
    runs = Runs(shelf, Recipes("recipes", shelf, readable(context)))
    runs_tab(runs, open_by_owner(context))


def runs_tab(runs: Runs, owner: OwnersTab) -> None:
    with gr.Tabs() as parts:
        with gr.Tab("Look", id="look"):
            look = look_part(runs, owner)
        with gr.Tab("Compare", id="compare") as compare_part:
            _compare_part(runs, owner.allow, compare_part)
        with gr.Tab("Start", id="start") as start_part:
            _start_part(runs, owner.allow, start_part, parts, look)


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
        return or_error(lambda: runs.comparison(a, b, across_limits))

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
