"""Parts of a server without a model and without an upstream: instant, and the same every time."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from memory_fakes import FakeSummarizer
from tomtat.prompts import source_text
from tomtat.server import errors
from tomtat.server.services import Caller, ModelCard
from tomtat.text import sentences
from tomtat.types import Source, Summary

MODEL = "fake-chats"


class FakeModels:
    """`services.Models` whose summaries are the sources' first sentences (`max_sentences` of them, else two).

    tenants: who sees which model; None is everybody. What was asked is kept in `asked`.
    """

    waits_for = None

    def __init__(self, tenants: Mapping[str, tuple[str, ...] | None] | None = None) -> None:
        self.tenants = dict(tenants if tenants is not None else {MODEL: None})
        self.asked: list[tuple[str, str, tuple[Source, ...], dict[str, Any]]] = []
        """Tenant, model, sources, generate."""
        self.fails: Exception | None = None
        """Raised instead of an answer; by a stream after its first piece."""
        self.closed = False
        self.folder = FakeSummarizer()

    def ids(self, tenant: str) -> list[str]:
        return [model for model, seen in self.tenants.items() if seen is None or tenant in seen]

    def cards(self, tenant: str) -> list[ModelCard]:
        return [ModelCard(model, 1_700_000_000, "fake-base", "0" * 64, 60, 64) for model in self.ids(tenant)]

    def untuned(self, tenant: str) -> list[ModelCard]:
        return []

    async def summarize(
        self, caller: Caller, model: str, sources: Sequence[Source], generate: Mapping[str, Any]
    ) -> list[Summary]:
        self._ask(caller, model, tuple(sources), generate)
        if self.fails:
            raise self.fails
        return [_summary(source, generate) for source in sources]

    async def stream(
        self, caller: Caller, model: str, source: Source, generate: Mapping[str, Any]
    ) -> AsyncGenerator[str | Summary]:
        self._ask(caller, model, (source,), generate)
        summary = _summary(source, generate)
        for piece in summary.text.partition(" "):
            yield piece
            if self.fails:
                raise self.fails
        yield summary

    def folding(self) -> FakeSummarizer:
        return self.folder

    def end_folding(self) -> None:
        pass

    def load(self, model: str, run: str, tenants: tuple[str, ...] | None) -> None:
        self.tenants[model] = tenants

    def unload(self, model: str) -> None:
        if model not in self.tenants:
            raise errors.not_found("model", model)
        del self.tenants[model]

    async def close(self) -> None:
        self.closed = True

    def _ask(self, caller: Caller, model: str, sources: tuple[Source, ...], generate: Mapping[str, Any]) -> None:
        if model not in self.ids(caller.tenant):
            raise errors.not_found("model", model)
        self.asked.append((caller.tenant, model, sources, dict(generate)))


def _summary(source: Source, generate: Mapping[str, Any]) -> Summary:
    """A word is a token."""
    text = source_text(source)
    words = " ".join(sentences(text)[: generate.get("max_sentences") or 2]).split()
    most = generate.get("max_new_tokens") or len(words)
    said = words[: min(most, generate.get("max_words") or most)]
    return Summary(" ".join(said), len(text.split()), len(said), "length" if most < len(words) else "stop")
