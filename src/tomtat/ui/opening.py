"""The page put at /ui, and made while the server answers already: Gradio alone takes 3 to 8 seconds to come in.

Nothing here loads Gradio. Until the page is there its place says so, and a browser looks again by itself.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tomtat.server.edge import PAGE
from tomtat.server.errors import ApiError
from tomtat.server.keys import Keys
from tomtat.server.metrics import Metrics
from tomtat.server.settings import ServerSettings
from tomtat.ui.door import Door

log = logging.getLogger(__name__)

TITLE = "tomtat"
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">'
    '<path fill="#0f766e" d="M0 1h8v1H0zM0 3h6v1H0zM0 5h3v2H0z"/></svg>'
)
"""Lines that grow shorter."""
AGAIN_SECONDS = 1
LOADING = "The page is being loaded; it comes by itself in a few seconds. The server answers already."
FAILED = "The page can't be loaded: the server's log says why. Everything below /v1 answers."
WAITING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>tomtat</title>{again}
<style>:root {{ color-scheme: light dark; }} body {{ margin: 2rem; font: 1rem/1.5 system-ui, sans-serif; }}</style>
</head><body><main><h1>tomtat</h1><p role="status">{told}</p></main></body></html>"""


class LatePage:
    """An ASGI application that is there a few seconds after the server's other parts."""

    def __init__(self, make: Callable[[], FastAPI]) -> None:
        """make: an application with the page as its last route; called in a thread."""
        self._make = make
        self._page: ASGIApp | None = None
        self._has_failed = False

    @property
    def is_there(self) -> bool:
        return self._page is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._page or self._wait)(scope, receive, send)

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Begins to make it, and closes it at the end."""
        ends = asyncio.Event()
        task = asyncio.create_task(self._open(ends))
        try:
            yield
        finally:
            ends.set()
            await task

    async def _open(self, ends: asyncio.Event) -> None:
        try:
            made = await anyio.to_thread.run_sync(self._make)
            async with made.router.lifespan_context(made):
                page = made.router.routes[-1]
                assert isinstance(page, Mount)
                self._page = page.app
                await ends.wait()
        except Exception as error:  # the server goes on without it
            self._page, self._has_failed = None, True
            log.error("the page can't be loaded: %s: %s", type(error).__name__, error)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = FAILED if self._has_failed else LOADING
        headers = {"cache-control": "no-store"} | ({} if self._has_failed else {"retry-after": str(AGAIN_SECONDS)})
        response: Response
        if "text/html" in Request(scope).headers.get("accept", ""):
            again = "" if self._has_failed else f'<meta http-equiv="refresh" content="{AGAIN_SECONDS}">'
            response = HTMLResponse(WAITING.format(again=again, told=told), 503, headers)
        else:
            response = JSONResponse(ApiError(503, told, "page_not_loaded").body, 503, headers)
        await response(scope, receive, send)


def mount(app: FastAPI, settings: ServerSettings, keys: Keys, metrics: Metrics) -> LatePage:
    """Put the page's place at /ui, behind its door, and lead `/` there; `opening` fills it."""

    def make() -> FastAPI:
        from tomtat.ui.app import make as make_page

        return make_page(app, settings)

    page = LatePage(make)
    app.mount(PAGE, Door(page, keys, metrics, lambda: bool(app.state.is_stopping)))
    for place, answer in {
        "/": _lead_to_page, PAGE: _lead_to_page, "/manifest.json": _manifest, "/favicon.ico": _icon,
    }.items():  # fmt: skip
        app.router.routes.insert(0, Route(place, answer, include_in_schema=False))
    return page


async def _lead_to_page(_: object) -> RedirectResponse:
    return RedirectResponse(f"{PAGE}/", 303)


async def _manifest(_: object) -> JSONResponse:
    """Gradio's page names one at this address."""
    return JSONResponse({"name": TITLE, "short_name": TITLE, "start_url": f"{PAGE}/", "display": "browser"})


async def _icon(_: object) -> Response:
    return Response(ICON, media_type="image/svg+xml")
