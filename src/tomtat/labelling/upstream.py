"""One question to an OpenAI-shaped server: an answer, or why there is none and whether asking again may help.

What comes back is read as a stranger's: its size and time are limited, its shape is checked, what it says of itself is
not believed where it can't be true.
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any

from tomtat.config import LabelSettings
from tomtat.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import httpx2

DEFAULT_KEY = "OPENAI_API_KEY"
CONNECT_SECONDS = 10.0
MOST_BYTES = 4 * 2**20
"""Of an answer. A draft has some thousand."""
FATAL = {
    401: "the key is wrong or missing: name the environment variable that holds it with --key-env",
    402: "it wants to be paid first",
    403: "the key may not do this",
    404: "there is no such model or address: check --model, and whether --upstream must end in /v1",
}
"""Statuses after which no chat fares better."""
OF_THE_CHAT = (400, 413, 422)
"""Statuses that may be about this chat alone: it is too long, say."""
NO_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""What models that think aloud say first; some servers leave it in."""


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str | None
    served_by: str | None
    """The model, as the server names it."""
    prompt_tokens: int | None
    new_tokens: int | None
    """As reported; None where nothing was that can be a number of tokens."""


class AskAgain(Exception):
    """No answer, and a later one may come: the server is busy, broke off, or said what is none."""

    def __init__(
        self, why: str, seconds: float | None = None, may_be_billed: bool = False, is_unreachable: bool = False
    ) -> None:
        super().__init__(why)
        self.seconds = seconds
        """How long the server wants to be left alone."""
        self.may_be_billed = may_be_billed
        """The server had the question, and no error came back."""
        self.is_unreachable = is_unreachable


class RefusedChat(Exception):
    """The server takes this chat at no time."""


class Upstream:
    """A server, with connections that stay open. Use it as `async with`."""

    def __init__(self, url: str, settings: LabelSettings, key_name: str | None = None) -> None:
        """key_name: the environment variable that holds the key; by default `OPENAI_API_KEY`, where it is set.

        Raises: ConfigError where the variable is not set; ModelError where the URL is none.
        """
        self.settings = settings
        self.told = re.sub(r"//[^/@]*@", "//", url)
        """The address as people see it: without a password."""
        if not re.match(r"https?://[^/]", url):
            raise ModelError(f"{self.told} is no server's address: it begins with http:// or https://.")
        self._key = os.environ.get(key_name or DEFAULT_KEY)
        if key_name and not self._key:
            raise ConfigError(f"--key-env {key_name}: this environment variable is not set.")
        if self._key and not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"The key in ${key_name or DEFAULT_KEY} has letters that no key has. Was it pasted whole?"
            )
        self._url = url.rstrip("/")
        self._limit_name = "max_tokens"
        self._client = self._new_client()

    def _new_client(self) -> "httpx2.AsyncClient":
        try:
            import httpx2
        except ImportError:
            raise ModelError("Talking to a server needs httpx2: pip install 'tomtat[upstream]'.") from None
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.settings.concurrency)
        timeout = httpx2.Timeout(self.settings.timeout, connect=min(CONNECT_SECONDS, self.settings.timeout))
        try:
            # Redirects are not followed: the next place would get the key and the chats.
            client = httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits, follow_redirects=False)
            client.build_request("POST", f"{self._url}/chat/completions")
        except (httpx2.InvalidURL, ValueError, UnicodeError) as error:
            raise ModelError(f"{self.told} is no server's address: {self._plain(str(error))}.") from None
        return client

    async def __aenter__(self) -> "Upstream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def only_model(self) -> str:
        """The one model that the server has.

        Raises: ModelError where there is not exactly one, or it does not say.
        """
        try:
            status, _, body = await self._request("GET", "/models", None)
            listed = _object(body).get("data") if status == 200 else None
        except AskAgain as error:
            raise ModelError(f"{self.told}: {error}. Is it the right --upstream, and is it running?") from None
        if status in FATAL and status != 404:
            raise self._fatal(status, body)
        names = [str(one["id"]) for one in listed if isinstance(one, dict) and one.get("id")] if listed else []
        if len(names) != 1:
            there = f"has {', '.join(map(self._plain, names[:8]))}" if names else "does not say which it has"
            raise ModelError(f"Name the model with --model: {self.told} {there}.")
        return names[0]

    async def ask(self, model: str, messages: Sequence[Mapping[str, str]]) -> Answer:
        """Raises: AskAgain, RefusedChat; ModelError where no other chat would fare better."""
        body = {"model": model, "messages": list(messages), self._limit_name: self.settings.max_new_tokens}
        if self.settings.temperature is not None:
            body["temperature"] = self.settings.temperature
        status, headers, content = await self._request("POST", "/chat/completions", body)
        if status == 200:
            return self._answer(content)
        if status == 400 and self._limit_name == "max_tokens" and b"max_completion_tokens" in content:
            self._limit_name = "max_completion_tokens"  # OpenAI's own newer models know no other name
            return await self.ask(model, messages)
        if status in FATAL or (status == 429 and _code(content) in NO_QUOTA):
            raise self._fatal(status, content)
        if status in OF_THE_CHAT:
            raise RefusedChat(f"{status}: {self._reason(content)}")
        if status == 408 or status == 409 or status == 425 or status == 429 or status >= 500:
            raise AskAgain(f"{status}: {self._reason(content)}", retry_after(headers))
        raise ModelError(f"{self.told} answered {status}, which is no answer: {self._reason(content)}")

    async def _request(self, method: str, path: str, body: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Raises: AskAgain where no whole answer comes in time."""
        import httpx2

        request = self._client.build_request(method, f"{self._url}{path}", json=body)
        began = False
        try:
            # The client's own limit is for each read: a server that sends a byte now and then would never be given up.
            async with asyncio.timeout(self.settings.timeout):
                response = await self._client.send(request, stream=True)
                began = True
                try:
                    content = b""
                    async for part in response.aiter_bytes():
                        content += part
                        if len(content) > MOST_BYTES:
                            raise AskAgain(f"answered with more than {MOST_BYTES >> 20} MB", may_be_billed=True)
                    return response.status_code, response.headers, content
                finally:
                    await response.aclose()
        except (TimeoutError, httpx2.ReadTimeout):
            raise AskAgain(f"no whole answer within {self.settings.timeout:g} seconds", may_be_billed=True) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            why = f"can't be reached ({self._plain(str(error)) or type(error).__name__})"
            raise AskAgain(why, is_unreachable=True) from None
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            why = f"broke off ({self._plain(str(error)) or type(error).__name__})"
            raise AskAgain(why, may_be_billed=began or isinstance(error, httpx2.ReadError)) from None

    def _answer(self, content: bytes) -> Answer:
        value = _object(content)
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise AskAgain("answered with what is no answer", may_be_billed=True)
        text = _text(message.get("content"))
        try:
            text.encode()
        except UnicodeEncodeError:
            raise AskAgain("answered with half a character", may_be_billed=True) from None
        reason = choice.get("finish_reason")
        is_declined = not text and isinstance(message.get("refusal"), str)
        told = value.get("usage")
        usage = told if isinstance(told, dict) else {}
        return Answer(
            text=_THOUGHTS.sub("", text).strip(),
            finish_reason="content_filter" if is_declined else reason if isinstance(reason, str) else None,
            served_by=self._plain(served) if isinstance(served := value.get("model"), str) else None,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            new_tokens=_count(usage.get("completion_tokens")),
        )

    def _fatal(self, status: int, content: bytes) -> ModelError:
        why = FATAL.get(status, "the quota is used up")
        return ModelError(f"{self.told} answered {status}: {self._reason(content)}. So {why}.")

    def _reason(self, content: bytes) -> str:
        """What an error's body says; of a page, nothing."""
        with suppress(AskAgain):
            told = _object(content)
            error = told.get("error", told.get("detail", told.get("message")))
            if isinstance(error, dict):
                error = error.get("message")
            if isinstance(error, str):
                return self._plain(error)
        return "no reason given"

    def _plain(self, text: str) -> str:
        """One short line that a terminal may show. Servers like to repeat the key that they refuse."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:300].rstrip(".")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks for, in any of the ways there are: `retry-after-ms`, seconds, a date."""
    with suppress(ValueError, OverflowError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000) if "retry-after-ms" in headers else _seconds(headers)
    return None


def _seconds(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    if re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
        return float(value)
    with suppress(TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    return None


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AskAgain("answered with what is no JSON object", may_be_billed=True)
    return value


def _code(content: bytes) -> str | None:
    with suppress(AskAgain):
        error = _object(content).get("error")
        return str(error.get("code") or error.get("type")) if isinstance(error, dict) else None
    return None


def _text(content: Any) -> str:
    """A message's words; of a list of parts, those of its texts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None
