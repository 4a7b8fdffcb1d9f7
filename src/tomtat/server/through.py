"""A request's way through the memory: what it brings is stored, what goes upstream fits a budget, what is answered is
stored too. Where the memory fails the request goes out as it came."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tomtat.errors import BudgetError, TomtatError
from tomtat.memory import ChatMemory, Context, TokenCounter
from tomtat.server.answers import Heard
from tomtat.server.compaction import base_of, expanded
from tomtat.server.errors import ApiError, of
from tomtat.server.memories import Memories
from tomtat.server.prefixes import chains
from tomtat.server.services import Caller, Services
from tomtat.server.upstream import Upstream
from tomtat.server.which import Message, Place, Wanted, continued, find_place, normal
from tomtat.store import Appended, Span
from tomtat.store.taken_back import end_of, placed, until_first

log = logging.getLogger(__name__)

TRIES = 4
"""Of a budget: an estimate may learn between two of them."""
NEEDED = "The memory failed, and a request that brings only new turns needs it. Try again."
BYTES = 4
"""Of a token, where nobody counts them."""
CUT = "cut"
"""The kind of what is attached to an answer that did not come to its end."""


@dataclass(frozen=True)
class Asked:
    """A request, as far as the memory sees it."""

    services: Services
    caller: Caller
    model: str
    upstream: Upstream
    wanted: Wanted
    head: Sequence[Message]
    """Goes out first, word for word, and is not kept."""
    turns: Sequence[Message]
    """In their normal shape."""
    budget: int
    teaches: bool = True
    """Whether the usage that its answer reports is that of its messages alone."""


@dataclass
class Sent:
    """What goes upstream, and how it came about."""

    outcome: str
    """whole, folded, over-budget, failed or off."""
    context: Context | None = None
    """None: the request goes out as it came."""
    place: Place | None = None
    offset: int = 0
    """Turns of the conversation that the request did not bring: those that a compaction item stands for."""
    counter: TokenCounter | None = None
    sent_tokens: int = 0
    whole_tokens: int = 0
    messages: list[Message] = field(default_factory=list)
    """With the head."""
    body_bytes: int = 0
    """Of the request as it goes upstream."""

    @property
    def headers(self) -> dict[str, str]:
        found = {"x-memory": self.outcome}
        if self.counter is not None:
            found["x-memory-tokens-sent"] = str(self.sent_tokens)
            found["x-memory-tokens-whole"] = str(self.whole_tokens)
            found["x-memory-tokens-saved"] = str(max(0, self.whole_tokens - self.sent_tokens))
            found["x-memory-counter"] = self.counter.name.encode().decode("latin-1")
        if self.place is not None:
            # As UTF-8, which is what clients write in their headers too.
            found["x-conversation-id"] = self.place.conversation.encode().decode("latin-1")
            found["x-conversation-branch"] = str(self.place.branch)
        return found


def budget_from(headers: Mapping[str, str], default: int) -> int:
    """Raises: ApiError 400."""
    given = headers.get("x-memory-budget")
    if given is None:
        return default
    if not given.isascii() or not given.isdecimal() or len(given) > 9 or not int(given):
        raise ApiError(400, "X-Memory-Budget is a number of tokens above 0.", "invalid_header", "X-Memory-Budget")
    return int(given)


def is_switched_off(headers: Mapping[str, str]) -> bool:
    return headers.get("x-memory", "").strip().lower() == "off"


async def prepare(asked: Asked) -> Sent:
    """Store what is new and compose what is sent.

    Raises: ApiError where the client asked for what can't be.
    """
    services = asked.services
    try:
        sent = await services.memories.run(
            asked.caller.tenant, partial(_prepare, asked), services.settings.memory_seconds, quick=True
        )
    except ApiError:
        raise
    except Exception as error:  # whatever it is, a chat goes on without its memory
        tell_of_failure(services, asked.caller, error)
        sent = Sent("failed")
        if asked.wanted.only_new:
            note(services, asked.caller, sent)
            # Without what was said before, an answer would be about nothing, and neither would be kept.
            refused = of(error) if isinstance(error, TomtatError) else ApiError(503, NEEDED, "memory_failed")
            refused.headers |= sent.headers | ({"retry-after": "1"} if refused.status >= 500 else {})
            raise refused from None
    note(services, asked.caller, sent)
    return sent


def note(services: Services, caller: Caller, sent: Sent) -> None:
    outcome = "folded" if sent.outcome == "over-budget" else sent.outcome
    services.metrics.context(caller.tenant, sent.whole_tokens, sent.sent_tokens, outcome)


def tell_of_failure(services: Services, caller: Caller, error: Exception) -> None:
    """By its kind: its message may hold what was said."""
    kind = type(error).__name__
    services.metrics.memory_failure(kind)
    log.error("the memory failed", extra={"fields": {"request_id": caller.request_id, "kind": kind}})
    log.debug("the memory failed", exc_info=error)


def _prepare(asked: Asked, memory: ChatMemory) -> Sent:
    memories = asked.services.memories
    counter = memories.counters.of(asked.caller.tenant, asked.upstream, asked.model)
    place, offset = place_of(memories, asked.caller.tenant, memory, asked.turns, asked.wanted)
    if asked.wanted.id is not None and not asked.wanted.only_new:
        memories.answered.compare(asked.caller.tenant, memory, place)
    fixed = sum(map(counter.message, asked.head))
    context, is_over = compose(memory, place, asked.budget - fixed, counter)
    whole = context.tokens
    if not context.is_whole:
        totals = memories.totals
        whole = totals.of(asked.caller.tenant, memory.store, place, counter, None if offset else expanded(asked.turns))
    outcome = "over-budget" if is_over else "whole" if context.is_whole else "folded"
    messages = [*asked.head, *context.messages]
    return Sent(outcome, context, place, offset, counter, fixed + context.tokens, fixed + whole, messages)


def place_of(
    memories: Memories, tenant: str, memory: ChatMemory, turns: Sequence[Message], wanted: Wanted
) -> tuple[Place, int]:
    """Where the last turn stands, and how many of the conversation's turns the request did not bring."""
    base = base_of(memory.store, turns, wanted)
    if base is not None:
        return continued(memory, base, expanded(turns[1:])), base.last
    turns = expanded(turns)
    if wanted.only_new or not turns:
        return find_place(memory, wanted, turns, memories.require_wanted), 0
    chain = list(chains(turns))
    place = memories.prefixes.find(tenant, memory, wanted, turns, chain)
    if place is None:
        place = find_place(memory, wanted, turns, memories.require_wanted)
    place = replace(place, chain=chain[-1])
    memories.prefixes.note(tenant, memory, place)
    return place, 0


def compose(
    memory: ChatMemory, place: Place, budget: int, counter: TokenCounter, query: str | None = None
) -> tuple[Context, bool]:
    """A context, and whether it had to take more than its budget."""
    asked, is_over = max(1, budget), budget < 1
    for _ in range(TRIES):
        try:
            context = memory.compose(
                place.conversation, asked, query, branch=place.branch, last=place.last, counter=counter
            )
            return context, is_over
        except BudgetError as error:
            asked, is_over = error.smallest, True
    raise BudgetError("No budget works.", asked)


# -- what is answered


async def finish(asked: Asked, sent: Sent, heard: Heard) -> None:
    """Keep the answer, learn from its usage, count it against the quota. Raises nothing: the client has its answer."""
    services, caller = asked.services, asked.caller
    services.admission.spent(caller, tokens_of(heard, sent.sent_tokens or sent.body_bytes // BYTES))
    if sent.counter is None or sent.place is None:
        return
    try:
        await services.memories.run(
            caller.tenant, partial(_finish, asked, sent, heard), services.settings.memory_seconds, quick=True,
            even_late=True,
        )  # fmt: skip
    except Exception as error:
        tell_of_failure(services, caller, error)


async def finish_unkept(services: Services, caller: Caller, body_bytes: int, heard: Heard) -> None:
    """The same for an answer that no memory has to do with."""
    services.admission.spent(caller, tokens_of(heard, body_bytes // BYTES))


def tokens_of(heard: Heard, asked: int) -> int:
    """What an exchange cost, as its answer reports; where it doesn't, by what was asked and what was heard."""
    if heard.total_tokens is not None:
        return max(0, heard.total_tokens)
    return asked + (sum(len(json.dumps(one)) for one in heard.messages) + heard.unread_bytes) // BYTES


def _finish(asked: Asked, sent: Sent, heard: Heard, memory: ChatMemory) -> None:
    memories, place = asked.services.memories, sent.place
    assert place is not None
    if sent.counter is not None and heard.prompt_tokens and asked.teaches:
        memories.counters.learn(sent.counter, sent.messages, sent.sent_tokens, heard.prompt_tokens)
    if heard.messages and place.keeps_answers:
        keep_answer(memories, asked.caller.tenant, memory, place, heard)


def keep_answer(memories: Memories, tenant: str, memory: ChatMemory, place: Place, heard: Heard) -> None:
    if not place.wanted.only_new and memories.answered.waits(tenant, place.conversation):
        return
    turns = [normal(message) for message in heard.messages]
    if place.wanted.only_new and not place.fork:
        # At the end, whatever else was said meanwhile.
        appended = until_first(partial(_append_answer, memory, place, turns))
    else:
        # Raises where the conversation was erased meanwhile: the answer must not begin it anew.
        memory.store.branches(place.conversation)[place.branch]
        appended = memory.append(place.conversation, turns, branch=place.branch, after=place.last, fork=True)
        answer = Place(place.conversation, appended.branch, appended.last, appended.new, place.wanted)
        memories.answered.note(tenant, answer)
        if place.chain is not None:
            *_, chain = chains(turns, place.chain)
            memories.prefixes.note(tenant, memory, replace(answer, chain=chain))
    if not heard.is_whole and appended.new:
        span = Span(appended.last, appended.last)
        memory.store.attach(place.conversation, span, CUT, {"why": "the answer broke off"}, branch=appended.branch)


def _append_answer(memory: ChatMemory, place: Place, turns: Sequence[Message]) -> Appended:
    """Behind what was said meanwhile; where the question was taken back, at the end of what the session goes on with.

    Raises: Conflict where somebody else was first.
    """
    # Raises where the conversation was erased meanwhile: the answer must not begin it anew.
    lines = memory.store.branches(place.conversation)
    line = lines[place.branch]
    if end_of(memory.store, line) < line.last:
        line = lines[-1]
    messages, where = placed(line, end_of(memory.store, line), turns, exactly=True)
    return memory.append(place.conversation, messages, **where)
