"""The page's door: who is not signed in sees the form, who comes from another site sees nothing.

The edge has looked at `Host` and bounds the body before this; everything below /ui comes through here.
"""

import asyncio
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tomtat.server.edge import PAGE
from tomtat.server.errors import ApiError
from tomtat.server.keys import Keys
from tomtat.server.metrics import Metrics
from tomtat.server.services import Caller
from tomtat.store.sql_store import DEFAULT_TENANT
from tomtat.ui.sessions import SECONDS, Sessions

COOKIE = "tomtat_session"
FORM = Path(__file__).with_name("sign_in.html")

HEADERS = {
    # Gradio's page has scripts and styles of its own inline; nothing comes from, or goes to, anywhere else.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
STOP_SECONDS = 0.5
"""How often it is looked at whether the server stops: streams that never end would keep it."""


class Door:
    def __init__(self, page: ASGIApp, keys: Keys, metrics: Metrics, is_stopping: Callable[[], bool]) -> None:
        self.page, self.keys, self.metrics, self.is_stopping = page, keys, metrics, is_stopping
        self.sessions = Sessions(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        place = scope["path"].removeprefix(PAGE)
        send = _with_headers(send)
        if _is_from_elsewhere(request):
            error = ApiError(403, "Only this server's own page may ask here.", "cross_origin")
            await JSONResponse(error.body, 403)(scope, receive, send)
        elif place == "/sign-in":
            await (await self._sign_in(request))(scope, receive, send)
        elif place == "/sign-out" and request.method == "POST":
            self.sessions.end(request.cookies.get(COOKIE))
            await self._form(request, "You are signed out.", cookie="")(scope, receive, send)
        elif (caller := self._caller(request)) is None:
            await self._refused(request)(scope, receive, send)
        else:
            scope["state"]["caller"] = caller
            await self._show(scope, receive, send)

    def _caller(self, request: Request) -> Caller | None:
        number = request.state.request_id
        if not self.keys.are_wanted:
            return Caller(DEFAULT_TENANT, "-", number, admin=True)
        record = self.sessions.find(request.cookies.get(COOKIE))
        return Caller(record.tenant, record.name, number, record.admin) if record else None

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "/heartbeat/" not in scope["path"]:
            await self.page(scope, receive, send)
            return
        is_over = False

        async def until_over(message: Message) -> None:
            if not is_over:
                await send(message)

        beating = asyncio.ensure_future(cast("asyncio.Future[None]", self.page(scope, receive, until_over)))
        try:
            while not beating.done() and not self.is_stopping():
                await asyncio.wait([beating], timeout=STOP_SECONDS)
            if not beating.done():
                is_over = True
                await send({"type": "http.response.body", "body": b""})
        finally:
            beating.cancel()

    # -- signing in

    async def _sign_in(self, request: Request) -> Response:
        if not self.keys.are_wanted:
            return RedirectResponse(f"{PAGE}/", 303)
        if request.method != "POST":
            return self._form(request, "Your session is over. Sign in again." if request.url.query == "over" else "")
        address = request.client.host if request.client else ""
        if wait := self.sessions.wait(address):
            seconds = math.ceil(wait)
            told = f"Too many wrong keys from this address. Try again in {seconds} s."
            return self._form(request, told, 429, {"retry-after": str(seconds)})
        key = (parse_qs((await request.body()).decode("utf-8", "replace")).get("key") or [""])[0].strip()
        if not key:
            return self._form(request, "Type or paste a key first.", 400)
        token = self.sessions.begin(key, address)
        if token is None:
            self.metrics.refused("key")
            told = (
                "This key is not known here, or no longer valid. Keys begin with tt-; whoever runs the server has them."
            )
            return self._form(request, told, 401)
        response = RedirectResponse(f"{PAGE}/", 303)
        self._set_cookie(request, response, token)
        return response

    def _form(
        self, request: Request, told: str = "", status: int = 200, headers: dict[str, str] | None = None,
        cookie: str | None = None,
    ) -> Response:  # fmt: skip
        kind = "note" if status == 200 else "error"
        shown = f'<p class="{kind}" role="alert">{escape(told)}</p>' if told else ""
        page = FORM.read_text(encoding="utf-8").replace("<!-- told -->", shown)
        response = HTMLResponse(page, status, {"cache-control": "no-store"} | (headers or {}))
        if cookie is not None:
            self._set_cookie(request, response, cookie)
        return response

    def _set_cookie(self, request: Request, response: Response, token: str) -> None:
        is_secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        response.set_cookie(
            COOKIE, token, max_age=int(SECONDS) if token else 0, path=PAGE, secure=is_secure, httponly=True,
            samesite="strict",
        )  # fmt: skip

    def _refused(self, request: Request) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"{PAGE}/sign-in", 303)
        error = ApiError(401, "You are not signed in, or your session is over. Load the page again.", "not_signed_in")
        return JSONResponse(error.body, 401)


def _is_from_elsewhere(request: Request) -> bool:
    """Gradio lets other sites' pages ask a server that is not on the loopback, with the reader's cookie: we don't."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return True
    # A link from elsewhere may lead here; a script or a form there may not.
    site, is_visit = request.headers.get("sec-fetch-site"), request.headers.get("sec-fetch-mode") == "navigate"
    return site in ("cross-site", "same-site") and not (is_visit and request.method == "GET")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in HEADERS.items():
                headers[name] = value
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            message = {**message, "headers": headers.raw}
        await send(message)

    return sending
