"""The server as `tomtat serve` runs it, but with an engine that costs nothing.

    python benchmarks/serve_fake.py serve.toml --folding first-sentence

Folding by `first-sentence` writes like a model that is instant; `extract` is what the memory does where there is no
model at all.
"""

import argparse
import gc
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    gc.disable()  # as `tomtat serve` does, before all that is loaded

from tomtat.server.errors import not_found
from tomtat.server.services import Caller, ModelCard
from tomtat.text import sentences
from tomtat.types import Generation, Source, Summary

SPAN_TOKENS = 512
"""That it reads in one piece: about what a small model does."""


class FirstSentence:
    """A summarizer that says the first sentence of its source. A token is four characters."""

    name, max_source_tokens = "first sentence", SPAN_TOKENS

    def count_tokens(self, text: str) -> int:
        return len(text) // 4 + 1

    def generate(self, sources: Sequence[str]) -> list[Generation]:
        return [self._write(source) for source in sources]

    def draw(self, sources: Sequence[str], count: int) -> list[list[Generation]]:
        return [[self._write(source)] * count for source in sources]

    def _write(self, source: str) -> Generation:
        said = (sentences(source[:600]) or ["Nothing was said."])[0][:300]
        return Generation(said, self.count_tokens(source), self.count_tokens(said), "stop")


class NoModels:
    """`services.Models` without any: whatever is named goes upstream."""

    waits_for = None

    def __init__(self, folder: FirstSentence | None) -> None:
        self.folder = folder

    def ids(self, tenant: str) -> list[str]:
        return []

    def cards(self, tenant: str) -> list[ModelCard]:
        return []

    def untuned(self, tenant: str) -> list[ModelCard]:
        return []

    async def summarize(
        self, caller: Caller, model: str, sources: Sequence[Source], generate: Mapping[str, Any]
    ) -> list[Summary]:
        raise not_found("model", model)

    def stream(
        self, caller: Caller, model: str, source: Source, generate: Mapping[str, Any]
    ) -> AsyncIterator[str | Summary]:
        raise not_found("model", model)

    def folding(self) -> FirstSentence | None:
        return self.folder

    def end_folding(self) -> None:
        pass

    def load(self, model: str, run: str, tenants: tuple[str, ...] | None) -> None:
        raise not_found("model", model)

    def unload(self, model: str) -> None:
        raise not_found("model", model)

    async def close(self) -> None:
        pass


def command_of(settings: Path, engine: str | None, folding: str = "first-sentence") -> list[str]:
    """What starts a server: `tomtat serve` with a run, or this file."""
    if engine:
        return [sys.executable, "-m", "tomtat.cli", "serve", engine, "--config", str(settings)]
    return [sys.executable, __file__, str(settings), "--folding", folding]


def main() -> None:
    from tomtat.server import create_app, load_settings, logs
    from tomtat.server.running import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--folding", choices=["first-sentence", "extract"], default="first-sentence")
    options = parser.parse_args()
    settings = load_settings(options.settings)
    models = NoModels(FirstSentence() if options.folding == "first-sentence" else None)
    logs.set_up()
    run(create_app(settings, models=models), settings, lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
