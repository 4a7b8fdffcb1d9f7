"""A summarizer that `tomtat serve` runs, asked over HTTP."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tomtat.integrations import needs

Summarize = Callable[[Sequence[Mapping[str, Any]]], str]
"""Messages in OpenAI's shape in, their summary out. A `Summarizer` is one."""


def remote(url: str, model: str | None = None, api_key: str | None = None, **generate: Any) -> Summarize:
    """`POST /v1/summaries` through openai's client, which repeats what was refused for a moment (429, 503).

    url: with its version, `http://localhost:8400/v1`.
    generate: as the route takes it, such as `max_sentences=3`.

    Calls raise what openai's client raises: `openai.APIStatusError` and its kinds.
    """
    with needs("openai", "openai"):
        from openai import OpenAI

    # The client wants a key even where a server asks for none.
    client = OpenAI(base_url=url, api_key=api_key or "none")

    def summarize(messages: Sequence[Mapping[str, Any]]) -> str:
        body = {"model": model, "input": list(messages), **generate}
        answer: Any = client.post("/summaries", body=body, cast_to=object)
        return str(answer["data"][0]["summary"])

    return summarize
