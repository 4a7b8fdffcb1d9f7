"""The page's shell: four tabs, one theme, no asset from elsewhere."""

import os
from html import escape
from pathlib import Path

# Read by Gradio when it is loaded: nothing of ours is told to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from tomtat.server.edge import PAGE
from tomtat.server.services import Caller
from tomtat.server.settings import ServerSettings
from tomtat.ui import chat, data, runs, summarize
from tomtat.ui.context import Context
from tomtat.ui.opening import TITLE
from tomtat.ui.tables import html

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
CSS = [Path(__file__).with_name(name) for name in ("page.css", "runs.css")]
JS = Path(__file__).with_name("page.js")
TABS = (("Summarize", summarize), ("Chat", chat), ("Runs", runs), ("Data", data))


def build(context: Context) -> gr.Blocks:
    """The page, not yet mounted. Every tab is a module with `tab(context)`, called within its `gr.Tab`."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True) as page:
        head = html(value=_head(None), elem_id="head")

        def sign(request: gr.Request) -> str:
            return _head(context.caller(request))

        gr.on(None, sign, None, head, show_progress="hidden")
        for name, module in TABS:
            with gr.Tab(name, id=name.lower(), elem_id=f"tab-{name.lower()}"):
                module.tab(context)
    # Of one tenant's long answer no other waits: the server's own gate says how many may be under way.
    return page.queue(default_concurrency_limit=None)


def _head(caller: Caller | None) -> str:
    who = "Summaries by small models of your own, and a memory in front of any chatbot."
    out = ""
    if caller is not None and caller.key != "-":
        who = f"Tenant <b>{escape(caller.tenant)}</b>, by the key {escape(caller.key)}."
        out = '<form method="post" action="sign-out"><button type="submit">Sign out</button></form>'
    return f'<div class="tt-head"><h1>{TITLE}</h1><p>{who}</p>{out}</div>'


def make(app: FastAPI, settings: ServerSettings) -> FastAPI:
    """An application with the page as its only route; its lifespan starts and ends Gradio's queue.

    app: the server's, whose parts the page uses.
    """
    made = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        made, build(Context(app, settings, runs_folder(settings))), PAGE, theme=theme(), css_paths=CSS,
        footer_links=[], run_history=False, ssr_mode=False, js=JS.read_text(encoding="utf-8"),
        enable_monitoring=False, pwa=False, max_file_size=settings.limits.body_bytes,
    )  # fmt: skip
    return made


def theme() -> gr.themes.Base:
    """Of fonts that are on the reader's machine already."""
    # Gradio's own greys and teals are too pale to be read by all: WCAG wants a contrast of 4.5.
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=[gr.themes.Font(name) for name in FONT],
        font_mono=[gr.themes.Font(name) for name in MONO],
    ).set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700", block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700", block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_600", input_placeholder_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        slider_color="*primary_700", slider_color_dark="*primary_400",
        color_accent="*primary_700",
    )  # fmt: skip


def runs_folder(settings: ServerSettings) -> Path:
    """The settings' own; else where the first served run lies; else `runs` where the server was started."""
    if settings.runs_folder:
        return Path(settings.runs_folder)
    folders = [Path(one.run) for one in settings.runs.values() if Path(one.run).is_dir()]
    return folders[0].resolve().parent if folders else Path("runs").resolve()
