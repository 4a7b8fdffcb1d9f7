"""POST /v1/chat/completions: a summarizer's answer, or an upstream's, asked through the memory."""

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tomtat.memory.turns import NOT_FOR_MODELS
from tomtat.server import summary_answers
from tomtat.server.answers import ChatEars, chat_heard
from tomtat.server.bodies import Body, dumped, has_keys, model_of, read_body, upstream_for
from tomtat.server.compaction import expanded, is_compaction
from tomtat.server.errors import ApiError
from tomtat.server.passing import passed_on
from tomtat.server.services import Services, TheCaller, TheServices
from tomtat.server.streaming import ANSWERS
from tomtat.server.through import Asked, Sent, budget_from, finish, is_switched_off, note, prepare
from tomtat.server.upstream import Answer, Upstream, elapsed
from tomtat.server.which import Message, normal, split, wanted_from

router = APIRouter(tags=["Chat"])

PATH = "/chat/completions"
ADDS_TOKENS = ("tools", "functions", "response_format", "prediction")
"""Fields whose tokens are in an answer's usage beside those of the messages."""
DOCUMENTED = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "As OpenAI's chat completions take it; what isn't named here goes on untouched.",
                    "required": ["model", "messages"],
                    "properties": {
                        "model": {"type": "string", "description": "A summarizer's id, or any model of an upstream."},
                        "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                        "stream": {"type": ["boolean", "null"]},
                        "metadata": {
                            "type": ["object", "null"],
                            "description": "conversation_id names the conversation, as X-Conversation-Id does.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/chat/completions", openapi_extra=DOCUMENTED, responses=ANSWERS, summary="Ask a model, through the memory"
)
async def complete(request: Request, caller: TheCaller, services: TheServices) -> Response:
    data, body = await read_body(request)
    model = model_of(body)
    messages = _messages(body, services)
    if model in services.models.ids(caller.tenant):
        return await summary_answers.chat(caller, services, body)
    upstream = upstream_for(services, caller, model)
    head, turns = split(messages)
    wanted = wanted_from(request.headers, body)
    budget = budget_from(request.headers, services.settings.budget_tokens)
    teaches = not any(body.get(name) for name in ADDS_TOKENS)
    turns = [turn if is_compaction(turn) else normal(turn) for turn in turns]
    asked = Asked(services, caller, model, upstream, wanted, head, turns, budget, teaches)
    if is_switched_off(request.headers) or not (turns or wanted.only_new):
        sent = Sent("off")
        note(services, caller, sent)
    else:
        sent = await prepare(asked)
    data = _outgoing(data, body, messages, asked, sent)
    sent.body_bytes = len(data)
    try:
        answer = await ask(services, upstream, PATH, data, request)
        return await passed_on(
            answer, chat_heard, ChatEars(), sent.headers, partial(finish, asked, sent), services.memories.later
        )
    except ApiError as error:
        error.headers |= sent.headers
        raise


async def ask(services: Services, upstream: Upstream, path: str, data: bytes, request: Request) -> Answer:
    """The upstream's answer, counted."""
    began = time.perf_counter()
    status = 0
    try:
        answer = await upstream.ask(path, data, request.headers, request.url.query, has_keys(services))
        status = answer.status
        return answer
    finally:
        services.metrics.upstream(status, elapsed(began))


def _messages(body: Body, services: Services) -> list[Message]:
    """Raises: ApiError 400."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ApiError(400, "messages is a list of one or more objects.", "invalid_type", "messages")
    most = services.settings.limits.messages
    if len(messages) > most:
        raise ApiError(400, f"A request has at most {most:,} messages, not {len(messages):,}.", "too_many", "messages")
    return messages


def _outgoing(data: bytes, body: Body, messages: list[Message], asked: Asked, sent: Sent) -> bytes:
    """The request's bytes: those that came, wherever nothing changes."""
    if sent.context is not None and not (sent.outcome == "whole" and _stands_as_it_came(asked, sent)):
        return dumped(body | {"messages": [*map(_shown, asked.head), *sent.context.messages]})
    is_plain = not any(is_compaction(one) or any(name in one for name in NOT_FOR_MODELS) for one in messages)
    return data if is_plain else dumped(body | {"messages": [_shown(one) for one in expanded(messages)]})


def _stands_as_it_came(asked: Asked, sent: Sent) -> bool:
    return not (asked.wanted.only_new or sent.offset)


def _shown(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in NOT_FOR_MODELS}
