"""`tomtat ui`: the page alone, on this machine."""

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomtat.cli.options import Device, ServedEngine, Tokenizer, UpstreamKey, given
from tomtat.cli.serve import names_of, page_is_installed, serve, upstreams_of, with_embedded
from tomtat.cli.store import Meaning, Place
from tomtat.cli.terminal import console

if TYPE_CHECKING:
    from tomtat.server import ServerSettings


def ui_command(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN|MODEL]", help="The summarizer to look at; else the embedded model.")
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
    runs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of runs to show and start. Default: RUN's own, or runs.")
    ] = None,
    store: Place = None,
    meaning: Meaning = False,
    upstream: Annotated[
        str | None, typer.Option(help="Who answers in the chat: http://localhost:8000/v1.", metavar="URL")
    ] = None,
    upstream_key: UpstreamKey = None,
    tokenizer: Tokenizer = None,
    engine: ServedEngine = None,
    device: Device = "auto",
) -> None:
    """The page in a browser: summaries side by side, a chat with its memory, runs and data.

    tomtat ui runs/chats

    tomtat ui runs/chats --upstream http://localhost:8000/v1
    """
    from tomtat.errors import ConfigError
    from tomtat.server import load_settings
    from tomtat.server.logs import set_up

    if not page_is_installed():
        raise ConfigError("tomtat ui needs Gradio: pip install 'tomtat[ui]'")
    upstreams = upstreams_of(upstream, upstream_key, tokenizer, "name it")
    if run and (folder := _untrained(run)):
        console.print(f"{run} is not trained yet: look at it under Runs. Summaries are the embedded model's.")
        run, runs = None, runs or folder.parent
    values = {
        "port": port, "store": store, "meaning": meaning, "engine": engine, "device": device,
        "runs": names_of([run]) if run else None, "runs_folder": str(runs) if runs else None,
        "upstreams": upstreams,
    }  # fmt: skip
    settings = _with_untuned(with_embedded(load_settings(None, given(values))))
    console.print("Loading ...", style="dim")

    def listening(address: str) -> None:
        set_up("warning")
        console.print(f"The page: {address}/ui (Ctrl-C stops)", markup=False, highlight=False, soft_wrap=True)
        if not no_browser:
            # A browser that does not fork would keep the server waiting.
            threading.Thread(target=webbrowser.open, args=[f"{address}/ui/"], daemon=True).start()

    serve(settings, True, listening)


def _untrained(run: str) -> Path | None:
    """The folder of a run that has no weights to load so far; its training may be under way."""
    from tomtat.errors import RunError
    from tomtat.run_folder import RunFolder

    if not Path(run, "config.toml").is_file():
        return None
    try:
        _ = RunFolder.open(run).trained_path
        return None
    except RunError:
        return Path(run).resolve()


def _with_untuned(settings: "ServerSettings") -> "ServerSettings":
    """The base of a trained run stands beside it; over one base both take the memory of one."""
    from tomtat.engines.opening import place_of
    from tomtat.server.settings import RunSettings

    found: dict[str, Any] = dict(settings.runs)
    for one in settings.runs.values():
        info = place_of(one.run, settings.device).info()
        if info is not None:
            base = str(info.base["name"])
            found.setdefault(Path(base).name if Path(base).exists() else base, RunSettings(run=base))
    return settings.model_copy(update={"runs": found})
