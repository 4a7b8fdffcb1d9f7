"""/v1/conversations: OpenAI's conversations, with what a store can do besides: search, contexts, folds, export, a
receipt for what was erased. What is another tenant's is not there."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from tomtat.memory import ChatMemory
from tomtat.server import conversation_shapes as shapes
from tomtat.server import errors
from tomtat.server.conversation_items import (
    at_most,
    delete_item,
    find_item,
    items_from,
    keep_beside,
    list_items,
    page_of,
)
from tomtat.server.errors import ApiError, unanswered
from tomtat.server.items import Said, Unreadable, read_items
from tomtat.server.memories import TooManyStuck
from tomtat.server.names import Name
from tomtat.server.responses import unsupported
from tomtat.server.rows import Export, rows_of
from tomtat.server.services import Caller, Services, TheCaller, TheServices
from tomtat.server.through import CUT
from tomtat.server.which import wanted_from
from tomtat.store import Appended, Branch, Conflict, Receipt, Span, UnknownConversation
from tomtat.store.appending import shape
from tomtat.store.messages import canonical
from tomtat.store.taken_back import are_in, as_said, end_of, marks_of, newest, placed, until_first

router = APIRouter(prefix="/v1/conversations", tags=["Conversations"])

T = TypeVar("T")

METADATA = "metadata"
"""The kind of what is attached to a conversation as a whole."""
JSON_LINES = "application/jsonl"

Limit = Annotated[int, Query(ge=1, le=100, description="Of one page.")]
BranchNumber = Annotated[int | None, Query(ge=0, description="The newest where not given.")]


async def work(services: Services, caller: Caller, job: Callable[[ChatMemory], T]) -> T:
    """Raises: ApiError 503, and what the job raises."""
    try:
        return await services.memories.run(caller.tenant, job, services.settings.limits.seconds)
    except (TimeoutError, TooManyStuck):
        raise unanswered() from None


# -- conversations


@router.post("", summary="Begin a conversation")
async def create_conversation(
    body: shapes.NewConversation, caller: TheCaller, services: TheServices
) -> shapes.Conversation:
    at_most(body.items or (), services.settings.limits.messages, "items")

    def job(memory: ChatMemory) -> shapes.Conversation:
        name = body.id if body.id is not None else f"conv_{secrets.token_hex(16)}"
        if body.id is not None and _is_there(memory, name):
            raise Conflict(f"There is a conversation {name!r} already.")
        if body.items:
            shape([said.message for said in _read(body.items)])  # raises for what can't be kept: it begins none
        memory.append(name, [], user=body.user)
        # Of two that begin it at once only one can: the other gets a Conflict here.
        memory.store.attach(name, Span(0, 0), METADATA, body.metadata or {})
        if body.items:
            _append_items(memory, name, body.items, body.user, is_retry=False)
        return _conversation(memory, name)

    return await work(services, caller, job)


@router.get("", summary="List conversations")
async def list_conversations(
    caller: TheCaller, services: TheServices, limit: Limit = 20,
    after: Annotated[str | None, Query(description="An id: the page begins behind it.")] = None,
    user: Annotated[str | None, Query(description="Only this user's.")] = None,
) -> shapes.Conversations:  # fmt: skip
    def job(memory: ChatMemory) -> shapes.Conversations:
        found: list[Branch] = []
        for line in memory.store.conversations(user=user):
            if after is None or line.conversation > after:
                found.append(line)
            if len(found) > limit:
                break
        data = [_described(memory, line) for line in found[:limit]]
        ids = [one.id for one in data]
        return shapes.Conversations(
            data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=len(found) > limit
        )

    return await work(services, caller, job)


@router.post(
    "/import", summary="Take in what was exported",
    openapi_extra={"requestBody": {"required": True, "content": {JSON_LINES: {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def import_conversations(request: Request, caller: TheCaller, services: TheServices) -> shapes.ImportedRows:
    rows = rows_of(await request.body())

    def job(memory: ChatMemory) -> shapes.ImportedRows:
        done = memory.store.import_(rows)
        for name in {row["conversation"] for row in rows if "conversation" in row}:
            memory.fold_soon(name)
        return shapes.ImportedRows(
            conversations=done.conversations, turns=done.turns, derived=done.derived, known=done.known
        )

    return await work(services, caller, job)


@router.delete("", summary="Erase all conversations of a user")
async def erase_user(
    caller: TheCaller, services: TheServices, user: Annotated[str, Query(min_length=1, description="Whose.")]
) -> shapes.Erased:  # fmt: skip
    def job(memory: ChatMemory) -> Receipt:
        names = [line.conversation for line in memory.store.conversations(user=user)]
        receipt = memory.store.erase(user=user)
        for name in names:
            if not _is_there(memory, name):
                memory.forget(name)
                services.memories.forget(caller.tenant, name)
        return receipt

    return shapes.erased(await work(services, caller, job), None)


@router.get("/{conversation_id}", summary="Retrieve a conversation")
async def retrieve_conversation(name: Name, caller: TheCaller, services: TheServices) -> shapes.Conversation:
    return await work(services, caller, lambda memory: _conversation(memory, name))


@router.post("/{conversation_id}", summary="Put metadata in place of what there is")
async def update_conversation(
    name: Name, body: shapes.NewMetadata, caller: TheCaller, services: TheServices
) -> shapes.Conversation:
    def job(memory: ChatMemory) -> shapes.Conversation:
        _line(memory, name)
        _put_metadata(memory, name, body.metadata or {})
        return _conversation(memory, name)

    return await work(services, caller, job)


@router.delete("/{conversation_id}", summary="Erase a conversation")
async def erase_conversation(name: Name, caller: TheCaller, services: TheServices) -> shapes.Erased:
    def job(memory: ChatMemory) -> Receipt:
        _line(memory, name)
        receipt = memory.erase(name)
        services.memories.forget(caller.tenant, name)
        return receipt

    return shapes.erased(await work(services, caller, job), name)


# -- items


@router.post("/{conversation_id}/items", summary="Append items")
async def create_items(
    name: Name, body: shapes.NewItems, request: Request, caller: TheCaller, services: TheServices
) -> shapes.Page:
    at_most(body.items, services.settings.limits.messages, "items")
    is_retry = wanted_from(
        {"x-stainless-retry-count": request.headers.get("x-stainless-retry-count", "0")}, {}
    ).is_retry

    def job(memory: ChatMemory) -> shapes.Page:
        _line(memory, name)
        first, last = _append_items(memory, name, body.items, None, is_retry)
        turns = memory.store.history(name, first=first, last=last)
        return page_of(items_from(memory, name, turns), has_more=False)

    return await work(services, caller, job)


@router.get("/{conversation_id}/items", summary="List items")
async def list_conversation_items(
    name: Name, caller: TheCaller, services: TheServices, limit: Limit = 20, order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(description="An item's id: the page begins behind it.")] = None,
) -> shapes.Page:  # fmt: skip
    job = partial(list_items, conversation=name, after=after, limit=limit, ascending=order == "asc")
    return await work(services, caller, job)


@router.get("/{conversation_id}/items/{item_id}", summary="Retrieve an item")
async def retrieve_item(name: Name, item_id: str, caller: TheCaller, services: TheServices) -> dict[str, Any]:
    return await work(services, caller, partial(find_item, conversation=name, id_=item_id))


@router.delete("/{conversation_id}/items/{item_id}", summary="Take back the newest item")
async def delete_newest_item(
    name: Name, item_id: str, caller: TheCaller, services: TheServices
) -> shapes.Conversation:  # fmt: skip
    def job(memory: ChatMemory) -> shapes.Conversation:
        delete_item(memory, name, item_id)
        return _conversation(memory, name)

    return await work(services, caller, job)


# -- messages


@router.post("/{conversation_id}/messages", summary="Append messages")
async def append_messages(
    name: Name, body: shapes.NewMessages, caller: TheCaller, services: TheServices
) -> shapes.Appended:
    at_most(body.messages, services.settings.limits.messages, "messages")

    def append(memory: ChatMemory) -> Appended:
        messages: Sequence[Mapping[str, Any]] = body.messages
        where: dict[str, Any] = {"branch": body.branch, "after": body.after, "fork": body.fork}
        if body.after is None:
            messages, behind = placed(*newest(memory.store, name, body.branch), messages)
            where |= behind
        return memory.append(name, messages, user=body.user, **where)

    def job(memory: ChatMemory) -> shapes.Appended:
        done = append(memory) if body.after is not None else until_first(partial(append, memory))
        return shapes.Appended(conversation=name, branch=done.branch, first=done.first, last=done.last, new=done.new)

    return await work(services, caller, job)


@router.get("/{conversation_id}/messages", summary="Read messages")
async def list_messages(
    name: Name, caller: TheCaller, services: TheServices, branch: BranchNumber = None,
    after: Annotated[int, Query(ge=0, le=10**9, description="A turn: the page begins behind it.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Of one page.")] = 100,
) -> shapes.Messages:  # fmt: skip
    def job(memory: ChatMemory) -> shapes.Messages:
        line = _line(memory, name, branch)
        turns = memory.store.history(name, branch=line.branch, first=after + 1, last=after + limit)
        cut = frozenset(
            one.span.last for one in memory.store.derived(name, branch=line.branch, kind=CUT, last=after + limit)
        )
        marks = marks_of(memory.store, line)
        return shapes.Messages(
            data=[shapes.place(turn, cut, are_in(marks, turn.seq)) for turn in turns],
            branch=line.branch,
            turns=line.last,
            has_more=line.last > after + limit,
        )

    return await work(services, caller, job)


@router.get("/{conversation_id}/search", summary="Find the turns that a question asks about")
async def search_conversation(
    name: Name, caller: TheCaller, services: TheServices, query: Annotated[str, Query(min_length=1, max_length=10_000)],
    limit: Limit = 10, branch: BranchNumber = None,
) -> shapes.Hits:  # fmt: skip
    def job(memory: ChatMemory) -> shapes.Hits:
        line = _line(memory, name, branch)
        end = end_of(memory.store, line)
        found = memory.store.search(query, conversation=name, branch=line.branch, last=end, limit=limit)
        return shapes.Hits(data=[shapes.hit(one) for one in found])

    return await work(services, caller, job)


@router.get("/{conversation_id}/context", summary="What a model would be sent")
async def compose_context(
    name: Name, caller: TheCaller, services: TheServices, branch: BranchNumber = None,
    budget: Annotated[int | None, Query(ge=1, le=10**9, description="Tokens; else the server's own.")] = None,
    query: Annotated[str | None, Query(max_length=10_000, description="By default the newest message.")] = None,
    model: Annotated[str, Query(max_length=200, description="Whose tokens are counted.")] = "",
) -> shapes.Composed:  # fmt: skip
    def job(memory: ChatMemory) -> shapes.Composed:
        counter = services.memories.counters.of(caller.tenant, services.upstreams.for_model(model), model)
        tokens = budget or services.settings.budget_tokens
        line = _line(memory, name, branch)
        last = end_of(memory.store, line)
        return shapes.composed(
            memory.compose(name, tokens, query, branch=line.branch, last=last, counter=counter)
        )  # fmt: skip

    return await work(services, caller, job)


@router.get("/{conversation_id}/folds", summary="What stands for older turns, and how it came about")
async def list_folds(
    name: Name, caller: TheCaller, services: TheServices, branch: BranchNumber = None, limit: Limit = 20,
    after: Annotated[int, Query(ge=0, le=10**9, description="So many are left out.")] = 0,
) -> shapes.Folds:  # fmt: skip
    def job(memory: ChatMemory) -> shapes.Folds:
        found = memory.folds(name, branch=branch)
        page = found[after : after + limit]
        return shapes.Folds(data=[shapes.told(fold) for fold in page], has_more=len(found) > after + limit)

    return await work(services, caller, job)


@router.get(
    "/{conversation_id}/export", summary="Everything of it, as JSON Lines", response_class=Response,
    responses={200: {"content": {JSON_LINES: {"schema": {"type": "string"}}}, "description": "A row a line."}},
)  # fmt: skip
async def export_conversation(name: Name, caller: TheCaller, services: TheServices) -> Response:
    await work(services, caller, lambda memory: _line(memory, name))
    return Export(services.memories.of(caller.tenant).store, name, JSON_LINES)


# -- inside


def _line(memory: ChatMemory, name: str, branch: int | None = None) -> Branch:
    """Raises: ApiError 404."""
    try:
        lines = memory.store.branches(name)
    except UnknownConversation as error:
        raise errors.of(error) from None
    if branch is None:
        return lines[-1]
    if branch >= len(lines):
        raise ApiError(404, f"Conversation {name!r} has no branch {branch}.", "conversation_not_found")
    return lines[branch]


def _is_there(memory: ChatMemory, name: str) -> bool:
    try:
        return bool(memory.store.branches(name))
    except UnknownConversation:
        return False


def _conversation(memory: ChatMemory, name: str) -> shapes.Conversation:
    return _described(memory, _line(memory, name))


def _described(memory: ChatMemory, line: Branch) -> shapes.Conversation:
    try:
        kept = memory.store.derived(line.conversation, kind=METADATA, covering=0)
    except UnknownConversation:  # erased meanwhile
        kept = []
    return shapes.conversation(line, kept[0].value if kept else {})


def _put_metadata(memory: ChatMemory, name: str, metadata: shapes.Metadata) -> None:
    kept = memory.store.derived(name, kind=METADATA, covering=0)
    memory.store.attach(name, Span(0, 0), METADATA, metadata, expected=kept[0].version if kept else None)


def _read(items: list[dict[str, Any]]) -> list[Said]:
    """Raises: ApiError 400."""
    try:
        sayings = read_items(items)
    except Unreadable as error:
        raise unsupported(error) from None
    if not sayings:
        raise ApiError(400, "There must be a message or a call among the items.", "invalid_request", "items")
    return sayings


def _append_items(
    memory: ChatMemory, name: str, items: list[dict[str, Any]], user: str | None, is_retry: bool
) -> tuple[int, int]:
    """The places of the first and the last turn that came of them.

    Raises: ApiError 400.
    """
    sayings = _read(items)
    branch, first, last = until_first(partial(_append_sayings, memory, name, sayings, user, is_retry))
    if branch is not None:
        keep_beside(memory, name, branch, first, sayings)
    return first, last


def _append_sayings(
    memory: ChatMemory, name: str, sayings: Sequence[Said], user: str | None, is_retry: bool
) -> tuple[int | None, int, int]:
    """Branch, first and last place; no branch where they were there already.

    Raises: Conflict where somebody else was first.
    """
    messages = [said.message for said in sayings]
    line, end = newest(memory.store, name)
    if is_retry and line is not None:
        there = memory.store.history(name, branch=line.branch, last=end, newest=len(messages))
        if [canonical(as_said(turn.message)) for turn in there] == [canonical(message) for message in messages]:
            return None, there[0].seq, there[-1].seq
    behind, where = placed(line, end, messages, exactly=True)
    done = memory.append(name, behind, user=user, **where)
    return done.branch, done.first, done.last
