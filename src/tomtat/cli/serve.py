"""`tomtat serve`."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomtat.cli.options import ServedEngine, Tokenizer, UpstreamKey, given
from tomtat.cli.store import Meaning, Place
from tomtat.cli.terminal import TerminalProgress, console

if TYPE_CHECKING:
    from tomtat.server import ServerSettings


def serve_command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Summarizers: a run folder (clients name it by the folder's name), NAME=FOLDER, or a model. "
            "Without one the embedded model.",
        ),
    ] = None,
    no_summarizer: Annotated[
        bool, typer.Option("--no-summarizer", help="Load no model: a memory only, which picks sentences instead.")
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings in TOML.")] = None,
    host: Annotated[str | None, typer.Option(help="Beyond 127.0.0.1 only with --keys.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=0, max=65535, help="0: any free. Default: 8400.")
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="From tomtat keys add; without it everybody is one tenant.")
    ] = None,
    store: Place = None,
    meaning: Meaning = False,
    upstream: Annotated[
        str | None,
        typer.Option(help="Who answers as other models, through the memory: http://localhost:8000/v1.", metavar="URL"),
    ] = None,
    upstream_key: UpstreamKey = None,
    tokenizer: Tokenizer = None,
    budget: Annotated[int | None, typer.Option("--budget", "-b", min=1, help="Tokens of what goes upstream.")] = None,
    engine: ServedEngine = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info (each request), warning or error.")] = "info",
    no_page: Annotated[bool, typer.Option("--no-page", help="Without the page at /ui (extra ui).")] = False,
) -> None:
    """Summaries, and a memory in front of any chatbot, in OpenAI's shape over HTTP.

    tomtat serve runs/chats

    tomtat serve runs/chats --upstream http://localhost:8000/v1 --budget 4000

    tomtat serve mail=runs/mail runs/chats --keys keys.json --host 0.0.0.0

    tomtat serve --upstream http://localhost:8000/v1 --no-summarizer
    """
    from tomtat.server import load_settings
    from tomtat.server.logs import set_up

    _require_level(log_level)
    flags = {
        "host": host, "port": port, "keys": keys, "store": store, "meaning": meaning or None, "engine": engine,
        "device": device, "budget_tokens": budget, "runs": names_of(runs or []),
        "summarizers": False if no_summarizer else None,
        "upstreams": upstreams_of(upstream, upstream_key, tokenizer, "name it, or write them into --config"),
    }  # fmt: skip
    settings = with_embedded(load_settings(config, given(flags)))
    has_page = not no_page and page_is_installed()

    def listening(address: str) -> None:
        set_up(log_level)
        _greet(address, settings, has_page)

    serve(settings, has_page, listening)


def serve(settings: "ServerSettings", has_page: bool, listening: Callable[[str], None]) -> None:
    """Until it is stopped; `listening` is told the address.

    Raises: ConfigError where a package is missing.
    """
    # Until it is ready, nearly all that is made stays: to look through it for garbage is a sixth of a start.
    gc.disable()
    try:
        app, run = _server_of(settings, has_page)
        # Until it listens, what goes wrong is raised, and told in one line.
        logging.getLogger("tomtat").addHandler(logging.NullHandler())
        run(app, settings, listening)
    finally:
        gc.enable()


def _require_level(name: str) -> None:
    from tomtat.errors import ConfigError
    from tomtat.server.logs import LEVELS

    if name not in LEVELS:
        raise ConfigError(f"--log-level {name}: there are {', '.join(LEVELS)}.")


def page_is_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("gradio") is not None


def _server_of(settings: "ServerSettings", has_page: bool) -> tuple[Any, Any]:
    """The application, and what runs it."""
    from tomtat.errors import ConfigError

    try:
        from tomtat.server.app import create_app
        from tomtat.server.running import run

        return create_app(settings, progress=TerminalProgress(), page=has_page), run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tomtat"):
            raise  # a bug of ours, which no package mends
        raise ConfigError(f"tomtat serve needs {error.name}: pip install 'tomtat[serve]'") from None


def names_of(names: list[str]) -> dict[str, dict[str, Any]] | None:
    """`NAME=FOLDER`, or a folder or model that is called by its last part."""
    from tomtat.errors import ConfigError

    found: dict[str, dict[str, Any]] = {}
    for text in names:
        name, equals, run = text.partition("=")
        if not equals:
            name, run = Path(text).resolve().name if Path(text).is_dir() else text, text
        if not name or not run:
            raise ConfigError(f"{text}: write it as NAME=FOLDER, or give the folder alone.")
        if name in found:
            raise ConfigError(f"Two summarizers can't both be called {name!r}: name one of them, as in other={run}.")
        found[name] = {"run": run}
    return found or None


def upstreams_of(url: str | None, key: str | None, tokenizer: str | None, advice: str) -> dict[str, Any] | None:
    """advice: what to do about an upstream that is missing."""
    from tomtat.errors import ConfigError

    if url is None and (key or tokenizer):
        raise ConfigError(f"--upstream-key and --tokenizer belong to --upstream; {advice}.")
    return {"upstream": {"url": url, "key": key, "tokenizer": tokenizer}} if url is not None else None


def with_embedded(settings: "ServerSettings") -> "ServerSettings":
    from tomtat.server.settings import EMBEDDED, RunSettings

    if settings.runs or not settings.summarizers:
        return settings
    return settings.model_copy(update={"runs": {EMBEDDED: RunSettings(run=EMBEDDED)}})


def _greet(address: str, settings: "ServerSettings", has_page: bool) -> None:
    """On standard output: the lines on standard error are JSON, for machines."""
    from tomtat.store.opening import default_place

    key = " -H 'Authorization: Bearer tt-...'" if settings.keys else ""
    without = "off" if page_is_installed() else "none: pip install 'tomtat[ui]'"
    page = f"{address}/ui" if has_page else without
    lines = [
        f"Listening on {address} (Ctrl-C stops)",
        f"  summarizers  {', '.join(settings.runs) or 'none'}",
        f"  upstream     {', '.join(one.url for one in settings.upstreams.values()) or 'none'}",
        f"  store        {_without_password(settings.store or default_place())}",
        f"  keys         {settings.keys or 'none: everybody on this machine is the tenant default'}",
        f"  page         {page}",
        f"  try          curl {address}{_to_try(settings, key)}",
        f"  docs         {address}/openapi.json and docs/server.md; clients take {address}/v1 as base_url",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)


def _to_try(settings: "ServerSettings", key: str) -> str:
    for model in settings.runs:
        return (
            f"/v1/summaries{key} -H 'Content-Type: application/json' "
            f"""-d '{{"model": "{model}", "input": "Nina: Friday is off, I am ill. Omar: Get well!"}}'"""
        )
    return f"/v1/models{key}"


def _without_password(place: str) -> str:
    import re

    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", place)
