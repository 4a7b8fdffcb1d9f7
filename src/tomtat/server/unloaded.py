"""Summarizers of a server that begins without any: the libraries of networks take seconds to come in, in which a server
that was killed is not back, so they come with the first model that is loaded."""

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tomtat.memory.folding import SpanSummarizer
from tomtat.progress import Progress
from tomtat.server.errors import not_found
from tomtat.server.metrics import Metrics
from tomtat.server.services import Caller, ModelCard
from tomtat.server.settings import ServerSettings
from tomtat.types import Source, Summary

if TYPE_CHECKING:
    from tomtat.server.models import Registry


class Unloaded:
    """`services.Models`: empty until something is loaded, and then what it was loaded into."""

    def __init__(self, settings: ServerSettings, metrics: Metrics, progress: Progress) -> None:
        self._parts = settings, metrics, progress
        self._registry: Registry | None = None
        self._lock = threading.Lock()

    @property
    def waits_for(self) -> str | None:
        return self._registry.waits_for if self._registry else None

    def wait(self) -> None:
        """There is nothing to wait for."""

    def ids(self, tenant: str) -> list[str]:
        return self._registry.ids(tenant) if self._registry else []

    def cards(self, tenant: str) -> list[ModelCard]:
        return self._registry.cards(tenant) if self._registry else []

    def untuned(self, tenant: str) -> list[ModelCard]:
        return self._registry.untuned(tenant) if self._registry else []

    async def summarize(
        self, caller: Caller, model: str, sources: Sequence[Source], generate: Mapping[str, Any]
    ) -> list[Summary]:
        return await self._named(model).summarize(caller, model, sources, generate)

    def stream(
        self, caller: Caller, model: str, source: Source, generate: Mapping[str, Any]
    ) -> AsyncIterator[str | Summary]:
        return self._named(model).stream(caller, model, source, generate)

    def folding(self) -> SpanSummarizer | None:
        return self._registry.folding() if self._registry else None

    def end_folding(self) -> None:
        if self._registry:
            self._registry.end_folding()

    def load(self, model: str, run: str, tenants: tuple[str, ...] | None) -> None:
        with self._lock:
            if self._registry is None:
                from tomtat.server.models import Registry

                self._registry = Registry(*self._parts)
        self._registry.load(model, run, tenants)

    def unload(self, model: str) -> None:
        self._named(model).unload(model)

    async def close(self) -> None:
        if self._registry:
            await self._registry.close()

    def _named(self, model: str) -> "Registry":
        if self._registry is None:
            raise not_found("model", model)
        return self._registry
