"""tomtat in the words of other libraries: thin, and only where pointing them at `tomtat serve` is not enough.

    tomtat.integrations.langchain    summarizer, MemoryMiddleware, fit_messages: LangChain and LangGraph
    tomtat.integrations.agents       StoreSession: OpenAI Agents SDK
    tomtat.integrations.llamaindex   StoreMemory: LlamaIndex

Nothing here needs a server; docs/clients.md has what does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tomtat.errors import TomtatError


class MissingPackage(TomtatError, ImportError):
    """The library that an integration is for isn't installed."""


@contextmanager
def needs(library: str, *packages: str) -> Iterator[None]:
    """Imports of a library that is no dependency of ours, with the command that installs it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("tomtat"):
            raise
        raise MissingPackage(f"{library} is not installed ({error}): pip install {' '.join(packages)}") from error
