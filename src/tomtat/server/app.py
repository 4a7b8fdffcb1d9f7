"""The server put together: its parts opened and closed in order, its routes, and every error in OpenAI's shape."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from tomtat import __version__
from tomtat.errors import ConfigError, TomtatError
from tomtat.progress import Progress
from tomtat.server import catalog, chat, compact, conversations, errors, health, responses, summaries
from tomtat.server.admission import Gate
from tomtat.server.edge import FREE, Edge, is_loopback
from tomtat.server.errors import ApiError
from tomtat.server.keys import Keys
from tomtat.server.memories import Memories
from tomtat.server.metrics import Metrics
from tomtat.server.names import WholeNames
from tomtat.server.services import Models, Services, caller_of, services_of
from tomtat.server.settings import ServerSettings
from tomtat.server.unloaded import Unloaded
from tomtat.server.upstream import Upstreams
from tomtat.store import Store

if TYPE_CHECKING:
    from tomtat.server.models import Registry

log = logging.getLogger(__name__)

DESCRIPTION = """\
Summaries by small models of your own, and a memory in front of any chatbot, in OpenAI's shape: point a client's
`base_url` here. Errors are `{"error": {"message", "type", "param", "code"}}`; every answer has an `x-request-id`."""

TAGS = [
    {"name": "Summaries", "description": "Text or messages in, summaries out."},
    {"name": "Models", "description": "The summarizers, by the ids that clients name."},
    {
        "name": "Chat",
        "description": "OpenAI's chat completions: by a summarizer, or by an upstream through the memory.",
    },
    {"name": "Responses", "description": "OpenAI's responses, the same two ways, and their compaction."},
    {"name": "Conversations", "description": "Every turn kept: append, read, search, export, erase."},
    {"name": "Usage", "description": "What your requests cost and saved."},
    {"name": "Health", "description": "For balancers and Prometheus."},
]

TEXT_OF_JSON = re.compile(
    rb"""(?: [^"NI]++ | " (?: [^"\\]++ | \\ (?:
         u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2} | u(?!0000|[dD][89a-fA-F]) | [^u] ) )*+ " )*+""",
    re.VERBOSE,
)
"""JSON's bytes without what JSON's readers let through and databases and other servers do not: NaN and Infinity,
escaped NULs, halves of escaped surrogate pairs."""


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error, as OpenAI's clients read it."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request can't be answered as it is."},
    "5XX": {"model": ErrorBody, "description": "The server or the upstream failed."},
}


def create_app(
    settings: ServerSettings, *, store: Store | None = None, models: Models | None = None,
    upstreams: Upstreams | None = None, progress: Progress | None = None, page: bool = False,
) -> FastAPI:  # fmt: skip
    """An ASGI application; its lifespan opens what is not given here, and closes that again at the end.

    Bound to the loopback it answers to `localhost`, `127.0.0.1`, `[::1]` and `settings.hosts` only.
    page: show `tomtat.ui` at /ui, from a few seconds after the other parts are ready; needs the extra `ui`.

    Raises: ConfigError, for an address beyond the loopback without keys, or a file of keys that can't be read.
    """
    check_address(settings)
    keys, metrics = Keys.load(settings.keys), Metrics()
    gate = Gate(settings.limits, keys, metrics)
    # What is None here the lifespan opens.
    nothing: Any = None
    given = Services(
        settings, keys, store or nothing, models or nothing, nothing, upstreams or nothing, gate, metrics
    )  # fmt: skip
    app = FastAPI(
        title="tomtat", version=__version__, description=DESCRIPTION, openapi_tags=TAGS,
        # Their pages load scripts from elsewhere, which would then speak to this server as its user does.
        docs_url=None, redoc_url=None,
        redirect_slashes=False, responses=ERRORS, dependencies=[Depends(check_body)],
        generate_unique_id_function=_operation_id, lifespan=partial(_lifespan, given, progress or Progress()),
    )  # fmt: skip
    for part in (summaries, catalog, chat, responses, compact, conversations, health):
        app.include_router(part.router)
    # Before FastAPI's own route of that address, which its document is made from.
    app.router.routes.insert(0, Direct(f"/v1{chat.PATH}", _complete, methods=["POST"]))
    app.add_middleware(WholeNames)
    app.add_middleware(cast(Any, Edge), settings=settings, keys=keys, gate=gate, metrics=metrics, has_page=page)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(TomtatError, _library_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.openapi = partial(_openapi, app, keys.are_wanted)  # type: ignore[method-assign]
    app.state.page = None
    if page:
        from tomtat.ui.opening import mount

        app.state.page = mount(app, settings, keys, metrics)
    return app


def check_address(settings: ServerSettings) -> None:
    """Raises: ConfigError, where strangers could reach a server that asks nobody for a key."""
    if not is_loopback(settings.host) and settings.keys is None:
        raise ConfigError(
            f"host {settings.host}: others can reach this address, so keys are needed. Make one with "
            "tomtat keys add TENANT --keys keys.json, and serve with --keys keys.json."
        )


def _operation_id(route: APIRoute) -> str:
    return route.name


# -- opening and closing


@asynccontextmanager
async def _lifespan(given: Services, progress: Progress, app: FastAPI) -> AsyncIterator[None]:
    """Whoever runs the app has ended its requests before this closes: memories first, then models, the store last."""
    services = replace(given)
    async with AsyncExitStack() as parts:
        if services.store is None:
            services.store = await anyio.to_thread.run_sync(_open_store, services.settings)
            parts.push_async_callback(_in_thread, services.store.close)
        if services.upstreams is None:
            services.upstreams = Upstreams(services.settings)
            parts.push_async_callback(services.upstreams.close)
        if services.models is None:
            models = await anyio.to_thread.run_sync(_open_models, services.settings, services.metrics, progress)
            services.models = models
            parts.push_async_callback(models.close)
            await anyio.to_thread.run_sync(models.wait)
        services.memories = Memories(services.settings, services.store, services.models, services.metrics)
        parts.push_async_callback(services.memories.close)
        await parts.enter_async_context(cast(Gate, services.admission).saving())
        app.state.services, app.state.is_stopping = services, False
        if app.state.page is not None:
            await parts.enter_async_context(app.state.page.opening())
        try:
            yield
        finally:
            app.state.is_stopping = True


def _open_models(settings: ServerSettings, metrics: Metrics, progress: Progress) -> "Registry | Unloaded":
    if not (settings.summarizers or settings.runs):
        return Unloaded(settings, metrics, progress)
    from tomtat.server.models import Registry

    return Registry(settings, metrics, progress)


def _open_store(settings: ServerSettings) -> Store:
    from tomtat.store import open_store

    embedder = None
    if settings.meaning:
        from tomtat.models.embedding import MiniLM

        embedder = MiniLM()
    return open_store(settings.store, embedder=embedder, durability=settings.durability)


async def _in_thread(close: Any) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(close)


# -- requests


class Direct(Route):
    """A route without FastAPI, whose work for a request's parameters takes longer than reading it does."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}


async def _complete(request: Request) -> Response:
    await check_body(request)
    return await chat.complete(request, await caller_of(request), await services_of(request))


async def check_body(request: Request) -> None:
    """Raises: ApiError for a body of a kind that its route doesn't take, that is no UTF-8, or says what can't be kept
    or sent on."""
    body = await request.body()
    if not body:
        return
    _check_kind(request)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8 (byte {error.start}).", "invalid_json") from None
    found = TEXT_OF_JSON.match(body)
    end = found.end() if found else 0
    if end < len(body):
        raise ApiError(
            400, f"The body has a NUL, half of a surrogate pair, NaN or Infinity from byte {end} on.", "invalid_json"
        )  # fmt: skip


def _check_kind(request: Request) -> None:
    """What a page in a browser may send to any server unasked says that it is text, a form or nothing."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    taken = _kinds_of(request)
    if kind not in taken:
        raise ApiError(415, f"The body is wanted with Content-Type: {' or '.join(taken)}.", "unsupported_media_type")


def _kinds_of(request: Request) -> list[str]:
    """As the OpenAPI document has them."""
    extra = getattr(request.scope.get("route"), "openapi_extra", None) or {}
    return list(extra.get("requestBody", {}).get("content", ())) or ["application/json"]


# -- errors


def _answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _api_error(_: Request, error: Exception) -> JSONResponse:
    return _answer(cast(ApiError, error))


async def _library_error(request: Request, error: Exception) -> JSONResponse:
    answer = errors.of(cast(TomtatError, error))
    if answer.status >= 500:
        # What it says may name a conversation.
        kind = {"request_id": request.state.request_id, "kind": type(error).__name__}
        log.error("a request failed", extra={"fields": kind})
    return _answer(answer)


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    return _answer(invalid(cast(RequestValidationError, error)))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    found = cast(StarletteHTTPException, error)
    message = str(found.detail)
    code, headers = "invalid_request", dict(found.headers or {})
    if found.status_code == 404:
        message, code = f"Unknown address: {request.method} {_shown(request.url.path)}.", "unknown_url"
    elif found.status_code == 405:
        message, code = f"{_shown(request.url.path)} does not take {request.method}.", "method_not_allowed"
        headers |= _allowed(request)
    elif found.status_code == 413:
        code = "request_too_large"
    return _answer(ApiError(found.status_code, message, code, headers=headers))


def _allowed(request: Request) -> dict[str, str]:
    """The methods of all routes with this address: a router tells those of the first one."""
    address = re.sub(r":\w+}", "}", getattr(request.scope.get("route"), "path", ""))
    methods = sorted(method.upper() for method in request.app.openapi()["paths"].get(address, ()))
    return {"Allow": ", ".join(methods)} if methods else {}


def _shown(path: str) -> str:
    return path if len(path) <= 100 else path[:100] + "..."


def invalid(error: RequestValidationError) -> ApiError:
    """The finding that lies deepest, as one sentence: of alternatives it is the one that nearly fitted.

    Never what was sent: it may be a chat.
    """
    found = max(error.errors(), key=lambda one: len(_place(one, error.body)))
    if found["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON (character {found['loc'][-1]}).", "invalid_json")
    place = _place(found, error.body)
    if not place:
        return ApiError(400, "A JSON object is wanted as body.", "invalid_request")
    param = ".".join(place)
    return ApiError(400, f"{param}: {_sentence(found)}", "invalid_request", param)


def _place(finding: dict[str, Any], body: Any) -> list[str]:
    """Names and numbers that lead to a value. Pydantic puts the names of alternatives' types between them, which are
    nothing that a client has sent: what is not in the body is left out, but for the last name where it is missing."""
    where, *parts = finding["loc"]
    if where != "body":
        return [str(part) for part in parts[:1]]
    found: list[str] = []
    current = body
    for number, part in enumerate(parts):
        if _has(current, part):
            current = current[part]
        elif finding["type"] != "missing" or number < len(parts) - 1:
            continue
        found.append(str(part))
    return found


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and 0 <= part < len(value)
    return isinstance(value, dict) and part in value


def _sentence(found: dict[str, Any]) -> str:
    if found["type"] == "missing":
        return "this is required."
    if found["type"] == "extra_forbidden":
        return "this is not known here."
    message = str(found["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:].rstrip(".") + "."


# -- OpenAPI


def _openapi(app: FastAPI, are_keys_wanted: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        _describe_keys(document, are_keys_wanted)
        app.openapi_schema = document
    return app.openapi_schema


def _describe_keys(document: dict[str, Any], are_wanted: bool) -> None:
    """A key is always taken, and wanted only where keys are configured."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "From `tomtat keys add TENANT`."}
    document["security"] = [{"key": []}] if are_wanted else [{"key": []}, {}]
    for path, operations in document["paths"].items():
        if path in FREE:
            for operation in operations.values():
                operation["security"] = []
