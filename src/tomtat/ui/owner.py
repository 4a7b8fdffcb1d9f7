"""Runs and data are the machine's owner's: who else signs in sees no such tabs, and their handlers refuse them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.context import Context as Building

from tomtat.ui.context import Context
from tomtat.ui.readable import Readable

Allow = Callable[[gr.Request], None]
"""Raises gr.Error where this reader may not. Hiding a tab hides no handler: each asks this first."""


@dataclass(frozen=True)
class OwnersTab:
    tab: gr.Tab
    allow: Allow


def open_by_owner(context: Context) -> OwnersTab:
    """For the tab that is being built; it shows for the owner only."""
    tab, page = Building.block, Building.root_block
    if not isinstance(tab, gr.Tab) or page is None:
        raise TypeError("Call this within gr.Tab.")

    def allow(request: gr.Request) -> None:
        if not context.may_run(context.caller(request)):
            raise gr.Error("This is for the server's owner: sign in with a key that was made with --admin.")

    def show(request: gr.Request) -> gr.Tab:
        return gr.Tab(visible=context.may_run(context.caller(request)))

    # Hidden until it is known who asks.
    tab.visible = False
    page.load(show, None, tab, show_progress="hidden", api_visibility="private")
    return OwnersTab(tab, allow)


def readable(context: Context) -> Readable:
    """Where there are keys, owners come from afar, and only folders that the settings name are open to them."""
    here = [] if context.settings.keys else [Path()]
    return Readable([*here, context.runs_folder, *map(Path, context.settings.data_folders)])
