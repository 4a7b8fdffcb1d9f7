"""The servers behind this one: which of them a model's requests go to, and how a request gets there.

Nothing is tried twice: clients do that, and know what it costs them.
"""

import asyncio
import json
import logging
import math
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from tomtat.errors import ConfigError
from tomtat.server.errors import ApiError
from tomtat.server.settings import ServerSettings, UpstreamSettings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 3.0
"""Of a connection that is kept for the next request. uvicorn and node close theirs after 5: a request that is sent in
that moment is lost, so we close first."""
LONGEST_HEADER = 64 * 2**10
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

FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
"""Of a request that doesn't go as HTTP wants it; and those before anybody was there."""
UNREACHABLE = (
    aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL,
)  # fmt: skip


class Answer:
    """What an upstream answers: the head is here, the body is still on its way. To be closed."""

    def __init__(self, upstream: "Upstream", response: aiohttp.ClientResponse) -> None:
        self.upstream, self._response = upstream, response
        self.status = response.status

    @property
    def content_type(self) -> str:
        return self._response.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_events(self) -> bool:
        return self.status == 200 and self.content_type == "text/event-stream"

    @property
    def headers(self) -> dict[str, str]:
        """Those that the client sees."""
        # Read as Latin-1, whatever they are in: they go on as the same bytes.
        raw = self._response.raw_headers
        given = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in raw}
        found = {
            name: value for name, value in given.items() if name in BROUGHT_BACK or name.startswith(BROUGHT_BACK_FROM)
        }
        if "x-request-id" in given:
            found["x-upstream-request-id"] = given["x-request-id"]
        return found | self.upstream.named

    async def chunk(self) -> bytes | None:
        """The next bytes, as they come, unpacked where an upstream packs though it was asked not to; None at the end.

        Raises: ApiError where the upstream stalls or cuts.
        """
        try:
            return await self._response.content.readany() or None
        except FAILURES as error:
            raise self.upstream.failed(error) from None

    async def chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self.chunk()) is not None:
            yield chunk

    async def close(self) -> None:
        """Hang up if anything is still to come; else the connection is kept."""
        self._response.close()


class Upstream:
    def __init__(self, name: str, settings: UpstreamSettings) -> None:
        """Raises: ConfigError where the environment names no key, or a proxy that can't be used."""
        self.name, self.settings = name, settings
        self.named = {"x-upstream": name.encode().decode("latin-1")}
        """The header that names it, as UTF-8."""
        self._base = settings.url.rstrip("/")
        self._key = _key_of(name, settings)
        self._proxy = _proxy_for(URL(settings.url))
        self._session: aiohttp.ClientSession | None = None

    @property
    def _client(self) -> aiohttp.ClientSession:
        """Made at the first request: it belongs to the loop it is made in."""
        if self._session is None:
            timeout = self.settings.timeout
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=IDLE_SECONDS,
                    ssl=_trusted() if self._base.startswith("https:") else True,
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=min(CONNECT_SECONDS, timeout), sock_read=timeout
                ),
                cookie_jar=aiohttp.DummyCookieJar(), max_line_size=LONGEST_HEADER, max_field_size=LONGEST_HEADER,
            )  # fmt: skip
        return self._session

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str], query: str, has_keys: bool) -> Answer:
        """Send a request, and wait until its answer begins.

        path: below the upstream's address, such as `/chat/completions`. headers: the client's. has_keys: whether the
        client's `Authorization` is a key of ours.

        Raises: ApiError 502 and 504.
        """
        try:
            url = URL(f"{URL(self._base + path)}{'?' if query else ''}{query}", encoded=True)
            response = await self._client.post(
                url, data=body, headers=self._headers(headers, has_keys), allow_redirects=False, proxy=self._proxy
            )
        except FAILURES as error:
            raise self.failed(error) from None
        answer = Answer(self, response)
        if 300 <= answer.status < 400 or not 200 <= answer.status < 600:
            await answer.close()
            raise self.unusable(f"answered with status {answer.status}")
        return answer

    async def models(self) -> list[dict[str, Any]]:
        """What it says that it has, asked with its own key or none.

        Raises: one of `FAILURES`.
        """
        data = b""
        async with asyncio.timeout(LIST_SECONDS):
            asking = self._client.get(
                URL(f"{self._base}/models"), headers=self._headers({}, has_keys=True), raise_for_status=True,
                allow_redirects=False, proxy=self._proxy,
            )  # fmt: skip
            async with asking as response:
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > LIST_BYTES:
                        response.close()
                        raise ValueError("The list is too long.")
        told = json.loads(data)
        listed = told.get("data") if isinstance(told, dict) else None
        if not isinstance(listed, list):
            raise ValueError("It is no list of models.")
        return [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str) and _is_text(one)]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def failed(self, error: Exception) -> ApiError:
        """What becomes of a request whose upstream doesn't answer as HTTP wants it. Its address stays here."""
        if isinstance(
            error,
            aiohttp.ClientConnectorError
            | aiohttp.ConnectionTimeoutError
            | aiohttp.ClientHttpProxyError
            | aiohttp.InvalidURL,
        ):
            return self.unusable("can't be reached", "upstream_unreachable")
        if isinstance(error, aiohttp.ServerTimeoutError):
            return ApiError(
                504, f"The upstream {self.name!r} sent nothing for {self.settings.timeout:g} seconds.",
                "upstream_timeout", headers=self.named,
            )  # fmt: skip
        return self.unusable(f"broke off: {type(error).__name__}", "upstream_cut")

    def unusable(self, what: str, code: str = "upstream_garbage") -> ApiError:
        return ApiError(502, f"The upstream {self.name!r} {what}.", code, headers=self.named)

    def _headers(self, given: Mapping[str, str], has_keys: bool) -> dict[str, str]:
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
        return {name: _as_written(value) for name, value in headers.items()}


class Upstreams:
    """All upstreams by name, each with connections that stay open."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises: ConfigError where the environment names no key for one, or a proxy that can't be used."""
        self._all = [Upstream(name, one) for name, one in settings.upstreams.items()]
        self._listed: dict[str, list[dict[str, Any]]] = {}
        self._listed_until = -math.inf
        self._listing = asyncio.Lock()

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
                await asyncio.gather(*map(self._list, self._all))
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
        except (*FAILURES, RecursionError) as error:
            log.info("the upstream %s lists no models: %s", upstream.name, type(error).__name__)

    async def close(self) -> None:
        for upstream in self._all:
            await upstream.close()


def _is_text(told: Any) -> bool:
    """Whether it can be told again: half a character (a lone surrogate) can't."""
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeError:
        return False
    return True


def _as_written(value: str) -> str:
    """A header's value, which HTTP takes for Latin-1, as the UTF-8 that it nearly always is: so it is sent on."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _trusted() -> ssl.SSLContext:
    """With the authorities that this system trusts, or those of `$SSL_CERT_FILE`."""
    if sys.platform != "linux" and not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()


def _proxy_for(url: URL) -> str | None:
    """By the variables that all programs know: `HTTPS_PROXY`, `NO_PROXY` and their like.

    Raises: ConfigError.
    """
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy is None or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    if not proxy.startswith(("http://", "https://")):
        raise ConfigError(f"The environment's proxy for {url.scheme} is none of HTTP: set NO_PROXY={url.host}.")
    return proxy


def _key_of(name: str, settings: UpstreamSettings) -> str | None:
    if settings.key is None:
        return None
    key = os.environ.get(settings.key)
    if not key:
        raise ConfigError(f"upstreams.{name}.key names the environment variable {settings.key}, which is not set.")
    return key


def elapsed(since: float) -> float:
    return time.perf_counter() - since
