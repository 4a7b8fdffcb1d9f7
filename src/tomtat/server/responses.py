"""POST /v1/responses: a summarizer's answer, or an upstream's, asked through the memory.

`conversation` is one of ours, and the input then what is new in it; an input without it is the whole history. What an
upstream keeps itself, `previous_response_id`, is the upstream's.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from tomtat.server import summary_answers
from tomtat.server.answers import Heard, ResponseEars, response_heard
from tomtat.server.bodies import Body, dumped, model_of, previous_response, read_body, upstream_for
from tomtat.server.chat import ask
from tomtat.server.compaction import is_compaction
from tomtat.server.errors import ApiError
from tomtat.server.items import Item, Said, Unreadable, expanded_sayings, items_for, items_of, read_items
from tomtat.server.passing import passed_on
from tomtat.server.services import Services, TheCaller, TheServices
from tomtat.server.streaming import ANSWERS
from tomtat.server.through import Asked, Sent, budget_from, finish, is_switched_off, note, prepare
from tomtat.server.which import HEAD_ROLES, Wanted, checked, wanted_from

router = APIRouter(tags=["Responses"])

PATH = "/responses"
ADDS_TOKENS = ("tools", "text", "prompt")
INPUT = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
    "description": "A text or items: the whole history, or with conversation what is new.",
}
DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "As OpenAI's responses take it; what isn't named here goes on untouched.",
                    "required": ["model"],
                    "properties": {
                        "model": {"type": "string", "description": "A summarizer's id, or any model of an upstream."},
                        "input": INPUT,
                        "instructions": {"type": ["string", "null"]},
                        "stream": {"type": ["boolean", "null"]},
                        "conversation": {
                            "description": "A conversation of this server, by its id.",
                            "anyOf": [
                                {"type": "string"},
                                {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
                                {"type": "null"},
                            ],
                        },
                        "previous_response_id": {
                            "type": ["string", "null"],
                            "description": "Of the upstream's own state; goes on as it came.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/responses",
    openapi_extra=DOCUMENTED,
    responses=ANSWERS,
    summary="Ask a model for a response, through the memory",
)
async def respond(request: Request, caller: TheCaller, services: TheServices) -> Response:
    data, body = await read_body(request)
    model = model_of(body)
    previous_response(body)  # read here, so that what is none is refused whoever answers
    if model in services.models.ids(caller.tenant):
        return await summary_answers.respond(caller, services, body)
    upstream = upstream_for(services, caller, model)
    wanted = _wanted(request, body)
    sayings = _sayings(body, services, wanted)
    head, turns = _split(sayings or [])
    instructions = body.get("instructions")
    counted = [said.message for said in head]
    if isinstance(instructions, str) and instructions:
        counted.insert(0, {"role": "system", "content": instructions})
    teaches = not any(body.get(name) for name in ADDS_TOKENS)
    asked = Asked(
        services, caller, model, upstream, wanted, counted, [said.message for said in turns],
        budget_from(request.headers, services.settings.budget_tokens), teaches,
    )  # fmt: skip
    if sayings is None or is_switched_off(request.headers) or not (turns or wanted.only_new):
        sent = Sent("off")
        note(services, caller, sent)
    else:
        sent = await prepare(asked)
    data = _outgoing(data, body, head, turns, asked, sent)
    sent.body_bytes = len(data)
    try:
        answer = await ask(services, upstream, PATH, data, request)
        return await passed_on(
            answer, response_heard, ResponseEars(), sent.headers, partial(_finish, asked, sent),
            services.memories.later,
        )  # fmt: skip
    except ApiError as error:
        error.headers |= sent.headers
        raise


async def _finish(asked: Asked, sent: Sent, heard: Heard) -> None:
    """As for a chat; and a client may name the response when it wants a history compacted."""
    if sent.place is not None and heard.response_id is not None and heard.is_whole:
        asked.services.memories.responses.note(asked.caller.tenant, heard.response_id, sent.place, heard.messages)
    await finish(asked, sent, heard)


def _wanted(request: Request, body: Body) -> Wanted:
    """Raises: ApiError 400."""
    wanted = wanted_from(request.headers, body)
    conversation = body.get("conversation")
    if conversation is None:
        return wanted
    if previous_response(body):
        raise ApiError(400, "Give conversation or previous_response_id, not both.", "invalid_request", "conversation")
    id_ = conversation.get("id") if isinstance(conversation, dict) else conversation
    if not isinstance(id_, str):
        raise ApiError(400, "conversation is an id, or an object with one.", "invalid_type", "conversation")
    return checked(replace(wanted, id=id_, only_new=True))


def _sayings(body: Body, services: Services, wanted: Wanted) -> list[Said] | None:
    """What the input says; None where memory can't read it, or the upstream has what comes before it.

    Raises: ApiError 400.
    """
    items = input_items(body, services.settings.limits.messages)
    if previous_response(body):
        return None
    try:
        return read_items(items)
    except Unreadable as error:
        if wanted.only_new:
            raise unsupported(error) from None
        return None


def unsupported(error: Unreadable) -> ApiError:
    return ApiError(
        400, f"An item of type {error.kind[:80]!r} can't be kept in a conversation here.", "unsupported_item", "input"
    )


def input_items(body: Body, most: int) -> list[Any]:
    """Raises: ApiError 400."""
    given = body.get("input")
    if given is None:
        return []
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise ApiError(400, "input is a text or a list of items.", "invalid_type", "input")
    if len(given) > most:
        raise ApiError(400, f"A request has at most {most:,} items, not {len(given):,}.", "too_many", "input")
    return given


def _split(sayings: list[Said]) -> tuple[list[Said], list[Said]]:
    count = 0
    while count < len(sayings) and sayings[count].message.get("role") in HEAD_ROLES:
        count += 1
    return sayings[:count], sayings[count:]


def _outgoing(data: bytes, body: Body, head: list[Said], turns: list[Said], asked: Asked, sent: Sent) -> bytes:
    """The request's bytes: those that came, wherever nothing changes."""
    context = sent.context
    stands = sent.outcome == "whole" and not (asked.wanted.only_new or sent.offset)
    if context is None or stands:
        return _expanded(data, body)
    places = [*context.system, *context.newest]
    places = sorted(places) if context.is_whole else places
    brought = turns[1:] if sent.offset else turns
    items = [item for said in head for item in said.items]
    if asked.wanted.only_new:
        # Their places in the conversation are not those in the request.
        items += items_for(context.messages, [], [], 0)
    else:
        items += items_for(context.messages, places, expanded_sayings(brought), sent.offset)
    return dumped(_ours_taken(body) | {"input": items})


def _expanded(data: bytes, body: Body) -> bytes:
    """With what only we can read as what anybody can."""
    given = body.get("input")
    if isinstance(given, list) and any(map(is_compaction, given)):
        items: list[Item] = []
        for item in given:
            ours = expanded_sayings([Said(item, [item])]) if is_compaction(item) else None
            items += [one for said in ours for one in items_of(said.message)] if ours is not None else [item]
        return dumped(_ours_taken(body) | {"input": items})
    return dumped(_ours_taken(body)) if "conversation" in body else data


def _ours_taken(body: Body) -> Body:
    return {name: value for name, value in body.items() if name != "conversation"}
