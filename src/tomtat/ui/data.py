"""The page's part on data: what `tomtat data check` finds, and the review of drafted references."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from tomtat.checking import check_data, name_splits
from tomtat.config import RunConfig, load_config
from tomtat.data.compression import COMPRESSED_ENDINGS
from tomtat.data.sources import KINDS
from tomtat.errors import ConfigError, TomtatError
from tomtat.models.tokenizer_only import open_tokenizer
from tomtat.progress import Advance, Progress
from tomtat.ui import check_views
from tomtat.ui.context import Context
from tomtat.ui.owner import Allow, open_by_owner, readable
from tomtat.ui.recipes import Recipes
from tomtat.ui.review_part import review_part
from tomtat.ui.run_shelf import RunShelf
from tomtat.ui.tables import error_html, html

BUNDLED = ("chats@train", "chats@validation", "chats@test")
SOURCES_OWN = "what the sources say, or the defaults"
TAKEN = (*KINDS, *COMPRESSED_ENDINGS)
"""Endings of files that a reader may bring. No recipes: they could name files that are here."""
SHOWN = gr.Progress()
"""As a default it tells Gradio to hand the handler one of its own."""


def tab(context: Context) -> None:
    """Called within the page's tab."""
    owner = open_by_owner(context)
    files = readable(context)
    recipes = Recipes("recipes", RunShelf(context.runs_folder), files)
    with gr.Tabs():
        with gr.Tab("Check", id="check"):
            _check_part(recipes, owner.allow, owner.tab)
        with gr.Tab("Review", id="review") as part:
            review_part(files, owner.allow, part)


def check(
    sources: Sequence[str], uploaded: Path | None, recipe: str | None, recipes: Recipes, progress: Progress
) -> str:
    """The report of a check as HTML. `uploaded` is a file that the page took from its reader.

    Raises: ConfigError, DataError, RunError.
    """
    if uploaded is not None and uploaded.suffix.lower() not in TAKEN:
        raise ConfigError(f"{uploaded.name} is no data: {', '.join(TAKEN)} are taken.")
    wanted = [*sources, *([str(uploaded)] if uploaded else [])]
    if not wanted:
        raise ConfigError("Name what to check: a file, chats@train, a recipe; or upload a file.")
    for source in sources:
        recipes.readable.require_source(source)
    named = name_splits(wanted)
    for split in named.splits:
        if split.source != str(uploaded):
            recipes.readable.require_data(split.source)
    config = load_config(recipes.path(recipe)) if recipe else named.config or RunConfig()
    tokenizer = open_tokenizer(config.model, config.prompt, fetch=False)
    found = check_views.report_html(check_data(named.splits, config, tokenizer, progress))
    # Where an upload lies for a moment is nobody's concern.
    return found.replace(escape(str(uploaded)), escape(uploaded.name)) if uploaded else found


class PageProgress(Progress):
    """On Gradio's own progress, over the place where the answer will stand."""

    def __init__(self, show: Callable[..., Any]) -> None:
        self._show = show

    @contextmanager
    def task(self, name: str, total: int, unit: str = "examples", done: int = 0) -> Iterator[Advance]:
        place = done

        def advance(count: int, figures: str = "") -> None:
            nonlocal place
            place += count
            self._show((place, total), desc=f"{name} {figures}".strip(), unit=unit)

        yield advance


def _check_part(recipes: Recipes, allow: Allow, tab: gr.Tab) -> None:
    sources = gr.Textbox(
        "\n".join(BUNDLED), label="What to check, one a line", lines=3,
        info="The splits of one set: files, LABEL=FILE, chats@train, hub data sets; or a recipe, or a run's folder.",
    )  # fmt: skip
    with gr.Row():
        uploaded = gr.File(label="Or a file of yours", file_types=list(TAKEN), height=120)
        recipe = gr.Dropdown([SOURCES_OWN], value=SOURCES_OWN, label="Limits, model and fields of", interactive=True)
    button = gr.Button("Check", variant="primary")
    result = html()

    def fill(current: str | None, request: gr.Request) -> Any:
        allow(request)
        choices = [SOURCES_OWN, *recipes.names()]
        return gr.Dropdown(choices=choices, value=current if current in choices else SOURCES_OWN)

    def check_them(
        lines: str, path: str | None, recipe: str | None, request: gr.Request, progress: gr.Progress = SHOWN
    ) -> list[Any]:
        allow(request)
        wanted = [line.strip() for line in lines.splitlines() if line.strip()]
        if path and wanted == list(BUNDLED):
            wanted = []  # as the page was before the reader brought a file
        try:
            chosen = None if recipe == SOURCES_OWN else recipe
            return [check(wanted, Path(path) if path else None, chosen, recipes, PageProgress(progress)), None]
        except TomtatError as error:
            return [error_html(str(error).replace(str(path), Path(path).name) if path else str(error)), None]
        finally:
            if path:
                Path(path).unlink(missing_ok=True)

    tab.select(fill, recipe, recipe, show_progress="hidden", api_visibility="private")
    button.click(check_them, [sources, uploaded, recipe], [result, uploaded], api_visibility="private")
