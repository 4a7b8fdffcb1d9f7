"""POST /v1/responses/compact: a history in, its newest items and one item that stands for the others out.

The history is kept as a conversation, like any that is sent; it is folded now, as far as the time allows, and what is
not folded by then is told by sentences of its own.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tomtat.memory import ChatMemory, Context
from tomtat.memory.extract import extract
from tomtat.memory.ledger import ledger
from tomtat.memory.summary_block import BETWEEN, STRINGS_HEAD
from tomtat.memory.turns import is_pinned, shown
from tomtat.server.answers import ResponseEars, response_heard
from tomtat.server.bodies import Body, model_of, previous_response, read_body, upstream_for
from tomtat.server.chat import ask
from tomtat.server.compaction import Compacted, packed
from tomtat.server.errors import ApiError, unanswered
from tomtat.server.items import Item, Said, Unreadable, expanded_sayings, is_memory, items_of, read_items
from tomtat.server.memories import TooManyStuck
from tomtat.server.passing import passed_on
from tomtat.server.responses import INPUT, input_items, unsupported
from tomtat.server.services import Caller, Services, TheCaller, TheServices
from tomtat.server.through import budget_from, compose, finish_unkept, place_of, tell_of_failure
from tomtat.server.which import HEAD_ROLES, Place, Wanted, continued, wanted_from
from tomtat.store import Turn

router = APIRouter(tags=["Responses"])

T = TypeVar("T")

PATH = "/responses/compact"
MOST_SECONDS = 60.0
"""Of folding, while somebody waits for it."""
SHARE, LEAST = 4, 64
"""What is left of a history: a fourth of its tokens, so that it always gets shorter, but no fewer than that."""
SHARES = {"background": False, "small_budget": 0, "summary_share": 0.5, "newest_share": 0.4}
FEWEST_TURNS, STRINGS, PIECE_TOKENS = 8, 8, 80
"""Of a piece of what no summary tells yet: its turns, its exact strings, what telling of it takes."""
DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "model": {"type": "string", "description": "Who will read it: its tokens are counted."},
                        "input": INPUT,
                        "previous_response_id": {
                            "type": ["string", "null"],
                            "description": "In place of an input: a response that went through this server, "
                            "or one that the upstream knows.",
                        },
                        "instructions": {"type": ["string", "null"]},
                    },
                }
            }
        },
    }
}


@router.post("/v1/responses/compact", openapi_extra=DOCUMENTED, summary="Make a history shorter")
async def compact(request: Request, caller: TheCaller, services: TheServices) -> Response:
    data, body = await read_body(request)
    model = model_of(body)
    wanted = wanted_from(request.headers, body)
    sayings = _read(body, services)
    before = None
    if response := previous_response(body):
        before = services.memories.responses.find(caller.tenant, response)
        if before is None:
            # The upstream's own state, which only the upstream can make shorter.
            return await _by_upstream(request, data, model, caller, services)
    elif not sayings:
        raise ApiError(400, "Give an input or a previous_response_id.", "missing_required_parameter", "input")
    if before is None and all(said.message.get("role") in HEAD_ROLES for said in expanded_sayings(sayings)):
        raise ApiError(400, "There is nothing to shorten but instructions.", "invalid_request", "input")
    job = Job(services, caller, model, wanted, sayings, before, _given_budget(request))
    return JSONResponse(await job.run())


def _read(body: Body, services: Services) -> list[Said]:
    """Raises: ApiError 400."""
    try:
        return read_items(input_items(body, services.settings.limits.messages))
    except Unreadable as error:
        raise unsupported(error) from None


def _given_budget(request: Request) -> int | None:
    return budget_from(request.headers, 0) or None


async def _by_upstream(request: Request, data: bytes, model: str, caller: Caller, services: Services) -> Response:
    upstream = upstream_for(services, caller, model)
    answer = await ask(services, upstream, PATH, data, request)
    finish = partial(finish_unkept, services, caller, len(data))
    return await passed_on(answer, response_heard, ResponseEars(), {"x-memory": "off"}, finish, services.memories.later)


class Job:
    """One compaction."""

    def __init__(
        self, services: Services, caller: Caller, model: str, wanted: Wanted, sayings: list[Said],
        before: "tuple[Place, list[dict[str, Any]]] | None", budget: int | None,
    ) -> None:  # fmt: skip
        count = 0
        while count < len(sayings) and sayings[count].message.get("role") in HEAD_ROLES:
            count += 1
        self.head, self.turns = sayings[:count], sayings[count:]
        self.services, self.caller, self.model, self.wanted = services, caller, model, wanted
        self.before, self.budget = before, budget
        self.offset = 0
        """Turns of the conversation that the request did not bring."""

    async def run(self) -> dict[str, Any]:
        """Raises: ApiError, StoreError."""
        services, tenant = self.services, self.caller.tenant
        seconds = min(MOST_SECONDS, services.settings.limits.seconds)
        place = await self._work(self._place, services.settings.memory_seconds)
        try:
            await services.memories.run(tenant, partial(self._fold, place, time.monotonic() + seconds), seconds + 1)
        except Exception as error:  # extracts stand in
            tell_of_failure(services, self.caller, error)
        return await self._work(partial(self._answer, place), services.settings.limits.seconds)

    async def _work(self, job: Callable[[ChatMemory], T], seconds: float) -> T:
        """Raises: ApiError 503, and what the job raises."""
        try:
            return await self.services.memories.run(self.caller.tenant, job, seconds)
        except (TimeoutError, TooManyStuck):
            raise unanswered() from None

    def _place(self, memory: ChatMemory) -> Place:
        messages = [said.message for said in self.turns]
        if self.before is not None:
            place, answered = self.before
            place = continued(memory, place, [*answered, *messages])
            self.offset = place.last - len(messages)
            return place
        place, self.offset = place_of(self.services.memories, self.caller.tenant, memory, messages, self.wanted)
        if self.offset:
            self.turns = self.turns[1:]
        self.turns = expanded_sayings(self.turns)
        if self.wanted.only_new:
            self.offset = place.last - len(self.turns)
        return place

    @staticmethod
    def _fold(place: Place, until: float, memory: ChatMemory) -> None:
        while time.monotonic() < until and memory.fold(place.conversation, branch=place.branch, limit=1):
            pass

    def _answer(self, place: Place, memory: ChatMemory) -> dict[str, Any]:
        memories = self.services.memories
        counter = memories.counters.of(self.caller.tenant, self.services.upstreams.for_model(self.model), self.model)
        whole = memories.totals.of(self.caller.tenant, memory.store, place, counter, None)
        budget = self.budget or min(self.services.settings.budget_tokens, max(whole // SHARE, LEAST))
        shares = self.services.settings.memory.model_copy(update=SHARES)
        # With folds as they are in the store, and other shares: here nothing is recalled.
        context, _ = compose(ChatMemory(None, memory.store, shares), place, budget, counter, query="")
        first_kept = min(context.newest)
        kept = memory.store.history(place.conversation, branch=place.branch, first=first_kept, last=place.last)
        compacted = self._compacted(memory, place, context, first_kept)
        items = [item for said in self.head for item in said.items]
        items += [_item(compacted)] if compacted else []
        items += [item for turn in kept for item in self._items(turn)]
        messages = [*(compacted.messages() if compacted else []), *map(shown, kept)]
        sent = counter.total([*(said.message for said in self.head), *messages])
        self.services.metrics.context(self.caller.tenant, whole, sent, "folded")
        return {
            "id": f"resp_{secrets.token_hex(16)}", "object": "response.compaction", "created_at": int(time.time()),
            "output": [_as_output(item) for item in items], "usage": _usage(whole, sent),
        }  # fmt: skip

    def _compacted(self, memory: ChatMemory, place: Place, context: Context, first_kept: int) -> Compacted | None:
        """What stands for the turns before those that are kept."""
        if first_kept == 1:
            return None
        lines = [line for message in context.messages if is_memory(message) for line in _lines_of(message)]
        told = max((fold.span.last for fold in context.summaries), default=0)
        lines += _extracts(memory, place, told + 1, first_kept - 1, context.budget // PIECE_TOKENS)
        pinned = [
            shown(turn)
            for seq in context.system
            if seq < first_kept
            for turn in memory.store.history(place.conversation, branch=place.branch, first=seq, last=seq)
        ]
        return Compacted(place.conversation, place.branch, first_kept - 1, tuple(lines), tuple(pinned))

    def _items(self, turn: Turn) -> list[Item]:
        """A turn as it came, where it came with this request."""
        number = turn.seq - self.offset - 1
        return self.turns[number].items if 0 <= number < len(self.turns) else items_of(shown(turn))


def _item(compacted: Compacted) -> Item:
    return {"id": f"cmp_{secrets.token_hex(16)}", "type": "compaction", "encrypted_content": packed(compacted)}


def _lines_of(message: dict[str, Any]) -> list[str]:
    """What stands between the memory's delimiters."""
    return [line for line in str(message["content"]).split("\n") if not line.startswith(("<memory", "</memory"))]


def _extracts(memory: ChatMemory, place: Place, first: int, last: int, most: int) -> list[str]:
    """What no fold tells yet, by its own sentences."""
    if last < first:
        return []
    turns = memory.store.history(place.conversation, branch=place.branch, first=first, last=last)
    turns = [turn for turn in turns if not is_pinned(turn)]
    size = max(FEWEST_TURNS, -(-len(turns) // max(1, most)))
    return [line for start in range(0, len(turns), size) for line in _told(turns[start : start + size])]


def _told(turns: Sequence[Turn]) -> Iterator[str]:
    """Their own sentences, and the exact strings that somebody may ask for."""
    if text := extract(turns):
        yield text
    entries = sorted(ledger(turns), key=lambda entry: -entry.worth)[:STRINGS]
    if entries:
        yield STRINGS_HEAD + BETWEEN.join(dict.fromkeys(entry.clause for entry in sorted(entries)))


def _as_output(item: Item) -> Item:
    """A message in the shape that outputs have, however short the client wrote it."""
    if item.get("type", "message") != "message":
        return item
    content = item.get("content")
    if isinstance(content, str):
        answered: Item = {"type": "output_text", "text": content, "annotations": []}
        content = [answered if item.get("role") == "assistant" else {"type": "input_text", "text": content}]
    return {**item, "type": "message", "status": item.get("status") or "completed", "content": content}


def _usage(whole: int, sent: int) -> dict[str, Any]:
    return {
        "input_tokens": whole, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": sent, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": whole + sent,
    }  # fmt: skip
