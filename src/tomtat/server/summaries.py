"""POST /v1/summaries: texts or messages in, summaries out."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag
from starlette.responses import Response

from tomtat.asking import DRAWING, TOLD_APART
from tomtat.data.rows import as_source
from tomtat.described import Described
from tomtat.errors import DataError
from tomtat.server import errors
from tomtat.server.errors import ApiError
from tomtat.server.services import Caller, Services, TheCaller, TheServices
from tomtat.server.streaming import DONE, event, event_stream
from tomtat.text.language import LANGUAGES
from tomtat.types import FinishReason, Source, Summary

router = APIRouter(tags=["Summaries"])


class ChatMessage(Described):
    """A message in OpenAI's shape."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None
    """A text, or parts of which those with a `text` are read."""
    name: str | None = None
    """Who speaks, where several people share a role."""
    tool_calls: list[dict[str, Any]] | None = None


Item = str | list[ChatMessage]


def _kind_of(given: Any) -> str | None:
    """By its beginning, so that what is wrong further on is told where it stands."""
    if isinstance(given, str):
        return "text"
    if isinstance(given, list):
        return "messages" if given and isinstance(given[0], dict | ChatMessage) else "batch"
    return None


Input = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ChatMessage], Tag("messages")] | Annotated[list[Item], Tag("batch")],
    Discriminator(
        _kind_of, custom_error_type="input", custom_error_message="a text, messages, or a list of these is wanted"
    ),
]
CHAT: JsonValue = [
    {"role": "user", "content": "My order LM-48213 came cracked."},
    {"role": "assistant", "content": "I am sorry. A new one leaves on Friday."},
]


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(TOLD_APART)
    return language


class SummaryRequest(Described):
    """What isn't given is as the summarizer's own settings say. Unknown fields are ignored."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {"input": "A long text ...", "max_sentences": 2},
                {"model": "chats", "input": CHAT, "max_words": 40},
                {"input": ["One text ...", CHAT], "decode": "mbr"},
            ]
        },
    )

    model: str | None = Field(default=None, max_length=200)
    """A summarizer's id, as `GET /v1/models` lists them; the first of them by default."""
    input: Input
    """A text; the messages of a conversation; or a list of these, for a summary of each."""
    max_words: int | None = Field(default=None, ge=1, le=100_000)
    """At most so many, in whole sentences where there is room for one."""
    max_sentences: int | None = Field(default=None, ge=1, le=10_000)
    whole_sentences: bool | None = None
    """Drop the half sentence at the end of a summary that was cut."""
    max_new_tokens: int | None = Field(default=None, ge=1, le=1024)
    """Beyond, a summary is cut, and its `finish_reason` is `length`."""
    language: Annotated[str, Field(json_schema_extra={"enum": list(LANGUAGES)}), AfterValidator(_known)] | None = None
    """ISO 639-1 code: candidates are drawn, and those in this language go first. `en` is every language in plain Latin
    letters."""
    decode: Literal["greedy", "beam", "sample", "mbr"] | None = None
    """`mbr` draws candidates and gives the one most like the others that keeps to the source's names and numbers."""
    candidates: int | None = Field(default=None, ge=2, le=16)
    """For `mbr`, which they imply, as `language` does."""
    num_beams: int | None = Field(default=None, ge=1, le=8)
    """For `beam`, which more than one implies."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """For `sample`, which it implies alone, and for `mbr`; 0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """For `sample` and `mbr`: the likeliest tokens that together have this probability."""
    no_repeat_ngram: int | None = Field(default=None, ge=0, le=100)
    """No run of this many tokens twice in a summary; 0 allows all."""
    long_inputs: Literal["tree", "truncate"] | None = None
    """What is longer than the summarizer reads at once: `tree` reads it in pieces, `truncate` its beginning only."""
    stream: bool | None = None
    """As server-sent events; for one source only."""


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class SummaryItem(Described):
    object: Literal["summary"] = "summary"
    index: int
    """Of its source in `input`."""
    summary: str
    finish_reason: FinishReason
    """`length`: it was cut at its limit of tokens."""
    share_read: float
    """Of the source; below 1 only with `long_inputs: truncate`."""
    pieces: int
    """That the source was read in."""
    usage: Usage


class SummaryList(BaseModel):
    id: str
    object: Literal["summary.list"] = "summary.list"
    created: int
    """Unix time."""
    model: str
    data: list[SummaryItem]
    usage: Usage


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "With `stream`: events `{id, object: summary.delta, created, model, index, delta}`, then one "
        "with all that an answer without `stream` has, then `[DONE]`; in an error's place `{error}`.",
        "content": {"text/event-stream": {}},
    }
}


@router.post(
    "/v1/summaries", response_model=SummaryList, responses=EVENTS, summary="Summarize texts or conversations"
)  # fmt: skip
async def summarize(body: SummaryRequest, caller: TheCaller, services: TheServices) -> SummaryList | Response:
    model = _model(body, caller, services)
    sources, is_batch = _sources(body, services)
    generate = _generate(body)
    if body.stream and is_batch:
        raise ApiError(400, "A stream has one source: ask for each, or without `stream`.", "invalid_request", "stream")
    if body.stream:
        return await event_stream(_events(caller, services, model, sources[0], generate))
    summaries = await services.models.summarize(caller, model, sources, generate)
    return _answer(caller, services, _head(model), summaries)


async def _events(
    caller: Caller, services: Services, model: str, source: Source, generate: dict[str, Any]
) -> AsyncGenerator[str]:
    head = _head(model)
    async with aclosing(services.models.stream(caller, model, source, generate)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Summary):
                yield event(_answer(caller, services, head, [piece]).model_dump())
            else:
                yield event({**head, "object": "summary.delta", "index": 0, "delta": piece})
    yield DONE


def usage_of(summaries: Sequence[Summary]) -> Usage:
    prompt = sum(summary.prompt_tokens for summary in summaries)
    new = sum(summary.new_tokens for summary in summaries)
    return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


def _head(model: str) -> dict[str, Any]:
    return {"id": f"summ-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _answer(caller: Caller, services: Services, head: dict[str, Any], summaries: Sequence[Summary]) -> SummaryList:
    usage = usage_of(summaries)
    services.admission.spent(caller, usage.total_tokens)
    data = [
        SummaryItem(
            index=index, summary=summary.text, finish_reason=summary.finish_reason, share_read=summary.share_read,
            pieces=summary.pieces, usage=usage_of([summary]),
        )
        for index, summary in enumerate(summaries)
    ]  # fmt: skip
    return SummaryList(**head, data=data, usage=usage)


def _model(body: SummaryRequest, caller: Caller, services: Services) -> str:
    there_is = services.models.ids(caller.tenant)
    model = body.model if body.model is not None else next(iter(there_is), "")
    if model not in there_is:
        raise errors.not_found("model", model)
    return model


def _sources(body: SummaryRequest, services: Services) -> tuple[list[Source], bool]:
    """What is to be summarized, and whether it came as a list of several."""
    limits, given = services.settings.limits, body.input
    is_batch = isinstance(given, list) and not (given and isinstance(given[0], ChatMessage))
    items: Sequence[Any] = given if is_batch else [given]
    if not items:
        raise ApiError(400, "input: there is nothing to summarize.", "invalid_request", "input")
    if len(items) > limits.batch:
        raise ApiError(400, f"input: {len(items):,} sources; at most {limits.batch:,}.", "too_many", "input")
    messages = sum(len(item) for item in items if isinstance(item, list))
    if messages > limits.messages:
        raise ApiError(400, f"input: {messages:,} messages; at most {limits.messages:,}.", "too_many", "input")
    return [_source(item, f"input.{index}" if is_batch else "input") for index, item in enumerate(items)], is_batch


def _source(item: str | list[ChatMessage], place: str) -> Source:
    given = item if isinstance(item, str) else [message.model_dump(exclude_unset=True) for message in item]
    try:
        return as_source(given)
    except DataError as error:
        raise ApiError(400, f"{place}: {error}", "invalid_request", place) from None


_NOT_GENERATE = {"model", "input", "stream"}


def _generate(body: SummaryRequest) -> dict[str, Any]:
    """As `Summarizer.ask_for` takes it."""
    asked = body.model_dump(exclude_none=True, exclude=_NOT_GENERATE)
    if asked.get("temperature") == 0 and asked.get("decode") not in DRAWING:
        del asked["temperature"]
        asked.setdefault("decode", "beam" if asked.get("num_beams", 1) > 1 else "greedy")
    if "temperature" in asked and not {"decode", "candidates", "num_beams", "language"} & set(asked):
        asked["decode"] = "sample"
    if asked.get("top_p") == 1 and asked.get("decode") not in DRAWING:
        del asked["top_p"]  # all tokens, as where nothing is drawn: OpenAI's clients send it with any temperature
    return asked
