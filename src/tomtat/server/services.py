"""What a request needs: who asks, and the parts that answer. Routes get both as parameters."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from fastapi import Depends, Request

from tomtat.server.settings import ServerSettings
from tomtat.store import Store
from tomtat.types import Source, Summary

if TYPE_CHECKING:
    from tomtat.memory.folding import SpanSummarizer
    from tomtat.server.keys import Keys
    from tomtat.server.memories import Memories
    from tomtat.server.metrics import Metrics
    from tomtat.server.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    tenant: str
    key: str
    """The key's name, never the key."""
    request_id: str
    admin: bool = False
    """May load and unload summarizers. Without keys, on the loopback, everybody may."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A summarizer as `GET /v1/models` shows it."""

    id: str
    created: int
    """Unix time at which it was loaded."""
    base: str
    """The model under it, by its name; a folder's last part only."""
    weights: str | None
    """SHA-256 over its trained weights; None of an untuned model."""
    max_source_tokens: int
    """Longer sources are read in pieces."""
    max_new_tokens: int


class Models(Protocol):
    """The summarizers, by the ids that clients name. Raises ApiError: 404 for an id the tenant doesn't see, 429 when
    too many wait, 504 when it took too long."""

    @property
    def waits_for(self) -> str | None:
        """What is still being loaded; None when requests can be answered."""

    def ids(self, tenant: str) -> list[str]: ...

    def cards(self, tenant: str) -> list[ModelCard]: ...

    def untuned(self, tenant: str) -> list[ModelCard]:
        """The bases of tuned summarizers, where they are in memory anyway: they answer when named, for the page, and
        are listed nowhere else."""

    async def summarize(
        self, caller: Caller, model: str, sources: Sequence[Source], generate: Mapping[str, Any]
    ) -> list[Summary]:
        """One summary per source, in order. `generate` overrides the run's own settings, as `Summarizer.ask_for`
        takes them. Ends early, and frees its place, when the awaiting task is cancelled."""

    def stream(
        self, caller: Caller, model: str, source: Source, generate: Mapping[str, Any]
    ) -> AsyncGenerator[str | Summary]:
        """Pieces as they are written, at last the whole."""

    def folding(self) -> "SpanSummarizer | None":
        """Who folds chats, called from threads and only while no request waits; None where there is no summarizer."""

    def end_folding(self) -> None:
        """Whoever folds at the moment gets an error instead of a summary, at once and from now on."""

    def load(self, model: str, run: str, tenants: tuple[str, ...] | None) -> None:
        """Add one, or put it in another's place, without a restart: requests under way end with the old one."""

    def unload(self, model: str) -> None: ...

    async def close(self) -> None:
        """Finish what was taken."""


class Admission(Protocol):
    def request(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """A place among the requests under way, freed at the end. Raises ApiError 429 with `retry-after` when there is
        none, or the tenant's rate or day's tokens are used up.

        The edge enters it around every request below /v1, its stream included; no route does so again."""

    def spent(self, caller: Caller, tokens: int) -> None:
        """Count against the day's quota, for the next request."""

    def tokens_today(self, tenant: str) -> int: ...

    def tokens_per_day(self, caller: Caller) -> int | None: ...

    def requests_per_minute(self, caller: Caller) -> int | None: ...


@dataclass
class Services:
    settings: ServerSettings
    keys: "Keys"
    store: Store
    models: Models
    memories: "Memories"
    upstreams: "Upstreams"
    admission: Admission
    metrics: "Metrics"


# Coroutines, though they wait for nothing: FastAPI would run functions in threads.


async def services_of(request: Request) -> Services:
    return cast(Services, request.app.state.services)


async def caller_of(request: Request) -> Caller:
    """As the edge found out before any route ran."""
    return cast(Caller, request.state.caller)


TheServices = Annotated[Services, Depends(services_of)]
TheCaller = Annotated[Caller, Depends(caller_of)]
