"""The servers behind this one: which of them a model's requests go to, and how a request gets there.

Nothing is tried twice: clients do that, and know what it costs them.
"""

import json
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import anyio
import httpx2

from tomtat.errors import ConfigError
from tomtat.server.errors import ApiError
from tomtat.server.settings import ServerSettings, UpstreamSettings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 3.0
"""Of a connection that is kept for the next request. uvicorn and node close theirs after 5: a request that is sent in
that moment is lost, so we close first."""
MOST_BYTES = 32 * 2**20
"""Of an answer that is read whole before it goes on; a larger one goes on as it comes, unread."""
LIST_SECONDS, LIST_BYTES = 3.0, 4 * 2**20
"""Of an upstream's list of models: what takes longer or is larger is none."""
LIST_KEPT_SECONDS = 60.0

TAKEN_ALONG = frozenset(
    "accept idempotency-key user-agent traceparent tracestate baggage http-referer x-title x-client-request-id".split()
)
"""Of a request's headers; and those whose names begin with..."""
TAKEN_ALONG_FROM = ("openai-", "x-stainless-")
BROUGHT_BACK = frozenset("content-type retry-after retry-after-ms x-should-retry".split())
"""Of an answer's headers; and those whose names begin with..."""
BROUGHT_BACK_FROM = ("openai-", "x-ratelimit-")


class Answer:
    """What an upstream answers: the head is here, the body is still on its way. To be closed."""

    def __init__(self, upstream: "Upstream", response: httpx2.Response) -> None:
        self.upstream, self._response = upstream, response
        self.status = response.status_code
        self._chunks = response.aiter_bytes()  # unpacked, where an upstream packs though it was asked not to

    @property
    def content_type(self) -> str:
        return str(self._response.headers.get("content-type", "")).partition(";")[0].strip().lower()

    @property
    def is_events(self) -> bool:
        return self.status == 200 and self.content_type == "text/event-stream"

    @property
    def headers(self) -> dict[str, str]:
        """Those that the client sees."""
        # Read as Latin-1, whatever they are in: they go on as the same bytes.
        given = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in self._response.headers.raw}
        found = {
            name: value for name, value in given.items() if name in BROUGHT_BACK or name.startswith(BROUGHT_BACK_FROM)
        }
        if "x-request-id" in given:
            found["x-upstream-request-id"] = given["x-request-id"]
        return found | self.upstream.named

    async def chunk(self) -> bytes | None:
        """The next bytes, as they come; None at the end.

        Raises: ApiError where the upstream stalls or cuts.
        """
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise self.upstream.failed(error) from None
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self.chunk()) is not None:
            yield chunk

    async def close(self) -> None:
        """Hang up, whatever is still to come."""
        with anyio.CancelScope(shield=True), suppress(httpx2.HTTPError, OSError):
            await self._response.aclose()


class Upstream:
    def __init__(self, name: str, settings: UpstreamSettings, client: httpx2.AsyncClient) -> None:
        self.name, self.settings = name, settings
        self.named = {"x-upstream": name.encode().decode("latin-1")}
        """The header that names it, as UTF-8."""
        self._client = client
        self._base = settings.url.rstrip("/")
        self._key = _key_of(name, settings)

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str], query: str, has_keys: bool) -> Answer:
        """Send a request, and wait until its answer begins.

        path: below the upstream's address, such as `/chat/completions`. headers: the client's. has_keys: whether the
        client's `Authorization` is a key of ours.

        Raises: ApiError 502 and 504.
        """
        url = f"{self._base}{path}" + (f"?{query}" if query else "")
        try:
            request = self._client.build_request("POST", url, content=body, headers=self._headers(headers, has_keys))
            response = await self._client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            raise self.failed(error) from None
        answer = Answer(self, response)
        if 300 <= response.status_code < 400 or not 200 <= response.status_code < 600:
            await answer.close()
            raise self.unusable(f"answered with status {response.status_code}")
        return answer

    async def models(self) -> list[dict[str, Any]]:
        """What it says that it has, asked with its own key or none.

        Raises: TimeoutError, ValueError, and what httpx2 raises.
        """
        request = self._client.build_request("GET", f"{self._base}/models", headers=self._headers({}, has_keys=True))
        data = b""
        with anyio.fail_after(LIST_SECONDS):
            response = await self._client.send(request, stream=True)
            try:
                response.raise_for_status()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > LIST_BYTES:
                        raise ValueError("The list is too long.")
            finally:
                with anyio.CancelScope(shield=True), suppress(httpx2.HTTPError, OSError):
                    await response.aclose()
        told = json.loads(data)
        listed = told.get("data") if isinstance(told, dict) else None
        if not isinstance(listed, list):
            raise ValueError("It is no list of models.")
        return [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str) and _is_text(one)]

    def failed(self, error: Exception) -> ApiError:
        """What becomes of a request whose upstream doesn't answer as HTTP wants it. Its address stays here."""
        if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
            return ApiError(
                504, f"The upstream {self.name!r} sent nothing for {self.settings.timeout:g} seconds.",
                "upstream_timeout", headers=self.named,
            )  # fmt: skip
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.InvalidURL):
            return self.unusable("can't be reached", "upstream_unreachable")
        return self.unusable(f"broke off: {type(error).__name__}", "upstream_cut")

    def unusable(self, what: str, code: str = "upstream_garbage") -> ApiError:
        return ApiError(502, f"The upstream {self.name!r} {what}.", code, headers=self.named)

    def _headers(self, given: Mapping[str, str], has_keys: bool) -> list[tuple[bytes, bytes]]:
        """Those that say something to an upstream. Never a cookie, and never a key of ours."""
        headers = {
            name: value for name, value in given.items() if name in TAKEN_ALONG or name.startswith(TAKEN_ALONG_FROM)
        }
        # As it is: what is compressed could neither be read along nor passed on in pieces.
        headers |= {"content-type": "application/json", "accept-encoding": "identity"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}".encode().decode("latin-1")
        elif not has_keys and "authorization" in given:
            headers["authorization"] = given["authorization"]
        # As the bytes that came, which a server's framework reads as Latin-1.
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


class Upstreams:
    """All upstreams by name, each with connections that stay open."""

    def __init__(
        self, settings: ServerSettings, transports: Mapping[str, httpx2.AsyncBaseTransport] | None = None
    ) -> None:
        """transports: for tests, instead of the network.

        Raises: ConfigError where an environment variable with a key isn't set.
        """
        self._clients: list[httpx2.AsyncClient] = []
        self._all: list[Upstream] = []
        self._listed: dict[str, list[dict[str, Any]]] = {}
        self._listed_until = -math.inf
        self._listing = anyio.Lock()
        for name, one in settings.upstreams.items():
            client = _client_of(one, (transports or {}).get(name), settings.limits.requests)
            self._clients.append(client)
            self._all.append(Upstream(name, one, client))

    def for_model(self, model: str) -> Upstream | None:
        """The first that takes it."""
        for upstream in self._all:
            if any(fnmatchcase(model, pattern) for pattern in upstream.settings.models):
                return upstream
        return None

    @property
    def patterns(self) -> list[str]:
        """Of all models that any of them takes."""
        return [pattern for upstream in self._all for pattern in upstream.settings.models]

    async def models(self) -> list[dict[str, Any]]:
        """What the upstreams say that they have, as far as it is they who would be asked; known for a minute. Of one
        that does not answer, what it said before."""
        async with self._listing:
            if time.monotonic() > self._listed_until:
                async with anyio.create_task_group() as asking:
                    for upstream in self._all:
                        asking.start_soon(partial(self._list, upstream))
                self._listed_until = time.monotonic() + LIST_KEPT_SECONDS
        found: dict[str, dict[str, Any]] = {}
        for upstream in self._all:
            for one in self._listed.get(upstream.name, ()):
                if self.for_model(one["id"]) is upstream:
                    found.setdefault(one["id"], one)
        return list(found.values())

    async def _list(self, upstream: Upstream) -> None:
        try:
            self._listed[upstream.name] = await upstream.models()
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, ValueError, RecursionError, OSError) as error:
            log.info("the upstream %s lists no models: %s", upstream.name, type(error).__name__)

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


def _is_text(told: Any) -> bool:
    """Whether it can be told again: half a character (a lone surrogate) can't."""
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeError:
        return False
    return True


def _client_of(
    settings: UpstreamSettings, transport: httpx2.AsyncBaseTransport | None, most_kept: int
) -> httpx2.AsyncClient:
    try:
        return httpx2.AsyncClient(
            transport=transport,
            timeout=httpx2.Timeout(settings.timeout, connect=min(CONNECT_SECONDS, settings.timeout)),
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=most_kept, keepalive_expiry=IDLE_SECONDS
            ),
            follow_redirects=False,
        )
    except (ImportError, ValueError, httpx2.InvalidURL):
        host = httpx2.URL(settings.url).host
        raise ConfigError(f"A proxy that the environment names can't be used: set NO_PROXY={host}.") from None


def _key_of(name: str, settings: UpstreamSettings) -> str | None:
    if settings.key is None:
        return None
    key = os.environ.get(settings.key)
    if not key:
        raise ConfigError(f"upstreams.{name}.key names the environment variable {settings.key}, which is not set.")
    return key


def elapsed(since: float) -> float:
    return time.perf_counter() - since
