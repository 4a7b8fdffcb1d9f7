"""The edge, before any route runs: request id, `Host`, key, place, limit of the body, and one line of log at the end.

Plain ASGI: Starlette's BaseHTTPMiddleware would buffer streams and costs time.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tomtat.server.admission import Gate
from tomtat.server.errors import ApiError
from tomtat.server.keys import Keys
from tomtat.server.logs import where
from tomtat.server.metrics import Metrics
from tomtat.server.services import Caller
from tomtat.server.settings import ServerSettings
from tomtat.store.sql_store import DEFAULT_TENANT

access = logging.getLogger("tomtat.access")
log = logging.getLogger(__name__)

PROBES = frozenset({"/healthz", "/readyz"})
"""Asked by balancers, which have no key and come with an address as `Host`."""
FREE = PROBES | {"/openapi.json"}
PAGE = "/ui"
"""Its door asks for the key itself: by a form, and a cookie afterwards."""
BESIDE_PAGE = frozenset({"/", PAGE, "/manifest.json", "/favicon.ico"})
"""What leads there, and what browsers ask for besides."""
VANISHED = 499
"""In logs and metrics, as nginx has it: the client went before it was answered."""

SANE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


@dataclass
class Exchange:
    """A request and its answer, as far as the edge sees them."""

    scope: Scope
    started: float
    request_id: str
    caller: Caller | None = None
    status: int = 0
    """0 until the answer has begun."""
    sent_bytes: int = 0
    is_done: bool = False
    is_vanished: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    """Put into the answer, whoever gives it."""

    @property
    def route(self) -> str:
        """As declared: a path itself may hold a conversation's name."""
        return str(getattr(self.scope.get("route"), "path", "-"))


class Edge:
    def __init__(
        self, app: ASGIApp, settings: ServerSettings, keys: Keys, gate: Gate, metrics: Metrics, has_page: bool = False
    ) -> None:  # fmt: skip
        self.app, self.settings, self.keys, self.gate, self.metrics = app, settings, keys, gate, metrics
        self._has_page = has_page
        self._is_local = is_loopback(settings.host)
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._hosts = LOOPBACK_NAMES | {name.lower() for name in (own, *settings.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(Exchange(scope, time.perf_counter(), _request_id(scope)), receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        exchange.headers["x-request-id"] = exchange.request_id
        sending = _counted(exchange, send, self.settings.limits.send_seconds)
        try:
            await self._let_in(exchange, receive, sending)
        except ApiError as error:
            if not exchange.status:
                await _refuse(error, sending)
        except ClientDisconnect:  # it went before its request was there
            exchange.is_vanished = True
        except asyncio.CancelledError:
            if not exchange.is_vanished:
                if not exchange.status:
                    await _refuse(ApiError(503, "The server is stopping. Try again soon.", "stopping"), sending)
                raise
            _uncancel()
        except Exception as error:
            if exchange.is_vanished:  # it reads no more: what its answer was made of fails on that, in its own ways
                return
            # A bug of ours: told in the log, and to the client by its number only.
            self._tell_of_bug(exchange, error)
            if not exchange.status:
                await _refuse(_bug(exchange), sending)
            # Else the answer stays without its end, and the server cuts the connection: nobody takes it for whole.
        finally:
            self._note(exchange)

    async def _let_in(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        scope, headers = exchange.scope, Headers(scope=exchange.scope)
        path = scope["path"]
        _check_text(scope)
        self._check_host(path, headers)
        state = scope.setdefault("state", {})
        state["request_id"] = exchange.request_id
        limited = _Body(receive, headers, self.settings.limits.body_bytes, self.settings.limits.body_seconds)
        if path in FREE:
            await self.app(scope, limited, send)
            return
        if self._is_of_page(path):
            try:
                await self.app(scope, limited, send)
            finally:
                exchange.caller = state.get("caller")  # as the page's door found out
            return
        exchange.caller = state["caller"] = self._caller(exchange, headers)
        if not path.startswith("/v1/"):
            await self.app(scope, limited, send)
            return
        self.metrics.asked(exchange.caller.tenant)
        async with self.gate.request(exchange.caller), _while_client_stays(exchange, limited) as watched:
            exchange.headers |= self.gate.headers(exchange.caller)
            await self.app(scope, watched, send)

    def _is_of_page(self, path: str) -> bool:
        return self._has_page and (path in BESIDE_PAGE or path.startswith(f"{PAGE}/"))

    def _check_host(self, path: str, headers: Headers) -> None:
        """A page in a browser here may point a name of its own at this machine, and would then read what only its
        reader may: but the browser tells that name."""
        if path in PROBES or not (self._is_local or self.settings.hosts):
            return
        host = headers.get("host", "").lower()
        name = re.sub(r":\d*$", "", host)
        if name not in self._hosts:
            self.metrics.refused("host")
            raise ApiError(
                421, "This server does not go by the name in the request's Host header; its setting hosts lists more.",
                "misdirected_request",
            )  # fmt: skip

    def _caller(self, exchange: Exchange, headers: Headers) -> Caller:
        if not self.keys.are_wanted:
            return Caller(DEFAULT_TENANT, "-", exchange.request_id, admin=True)
        found = self.keys.find(headers.get("authorization"))
        if found is not None:
            tenant, key, record = found
            return Caller(tenant, key, exchange.request_id, record.admin)
        self.metrics.refused("key")
        message = "Incorrect API key provided." if headers.get("authorization") else "You didn't provide an API key."
        raise ApiError(
            401, f"{message} Send it as: Authorization: Bearer tt-...", "invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )  # fmt: skip

    def _tell_of_bug(self, exchange: Exchange, error: Exception) -> None:
        fields = {"request_id": exchange.request_id, "route": exchange.route, "exception": list(where(error))}
        log.error("a request failed on a bug", extra={"fields": fields})

    def _note(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        status = VANISHED if exchange.is_vanished else exchange.status or VANISHED
        self.metrics.request(exchange.route, status, seconds)
        if access.isEnabledFor(logging.INFO):
            caller = exchange.caller
            fields = {
                "request_id": exchange.request_id,
                "tenant": caller.tenant if caller else None,
                "key": caller.key if caller else None,
                "method": exchange.scope["method"],
                "route": exchange.route,
                "status": status,
                "seconds": round(seconds, 4),
                "bytes": exchange.sent_bytes,
            }
            access.info("request", extra={"fields": fields})


def _uncancel() -> None:
    if (task := asyncio.current_task()) is not None:
        task.uncancel()


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _check_text(scope: Scope) -> None:
    """What no name of ours has, and databases choke on."""
    path = scope["path"]
    if "\0" in path or "%00" in scope["query_string"].decode("latin-1") or not _is_utf8(path):
        raise ApiError(400, "The address holds a NUL or half a character.", "invalid_request")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bug(exchange: Exchange) -> ApiError:
    return ApiError(
        500, f"The server failed on this request, by a bug of its own. Its log has more under {exchange.request_id}.",
        "server_error",
    )  # fmt: skip


async def _refuse(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))} | error.headers
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _counted(exchange: Exchange, send: Send, seconds: float) -> Send:
    """Also gives up a client that takes nothing for so long: it would hold its place, and what its answer is read from.

    `send` raises then what servers raise where a client went: OSError.
    """

    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in exchange.headers.items():
                headers[name] = value
            message = {**message, "headers": headers.raw}
        elif message["type"] == "http.response.body":
            exchange.sent_bytes += len(message.get("body", b""))
            exchange.is_done = not message.get("more_body", False)
        if exchange.is_vanished:
            raise ConnectionAbortedError
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            exchange.is_vanished = True
            raise ConnectionAbortedError from None

    return counted


class _Body:
    """A request's body: no longer than it may be, by its header and as it comes in, and there in time.

    What is wrong is raised as FastAPI's own exception: it makes "error parsing the body" of every other.
    """

    def __init__(self, receive: Receive, headers: Headers, limit: int, seconds: float) -> None:
        self._receive, self._limit, self._left, self._seconds = receive, limit, limit, seconds
        self._ends: float | None = None
        """By the loop's clock; set when somebody begins to read."""
        self.is_read = False
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal():
            raise ApiError(400, "content-length is no number.", "invalid_request")
        if int(length[:20]) > limit:
            raise ApiError(413, self._too_large, "request_too_large")

    @property
    def _too_large(self) -> str:
        return f"The body is larger than the {self._limit:,} bytes that this server takes."

    async def __call__(self) -> Message:
        if self.is_read:
            return await self._receive()
        if self._ends is None:
            self._ends = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            message_to_client = f"The body did not come within {self._seconds:g} seconds."
            raise HTTPException(408, message_to_client, {"connection": "close"}) from None
        if message["type"] != "http.request":
            self.is_read = True
            return message
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, self._too_large)
        self.is_read = not message.get("more_body", False)
        return message


@asynccontextmanager
async def _while_client_stays(exchange: Exchange, body: _Body) -> AsyncIterator[Receive]:
    """Once the body is read, what comes next from the client is that it went: the work for it is ended then, so that
    its place and its turn in queues are free at once."""
    task = asyncio.current_task()
    gone = asyncio.Event()
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        while (await body())["type"] != "http.disconnect":
            pass
        gone.set()
        if not exchange.is_done and task is not None:
            exchange.is_vanished = True
            task.cancel()

    async def receive() -> Message:
        nonlocal watcher
        if watcher is not None:
            await gone.wait()
            return {"type": "http.disconnect"}
        message = await body()
        if body.is_read:
            if message["type"] == "http.disconnect":
                exchange.is_vanished = True
            watcher = asyncio.create_task(watch())
        return message

    try:
        yield receive
    finally:
        if watcher is not None:
            watcher.cancel()
