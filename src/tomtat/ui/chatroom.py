"""What the chat's tab does: opens conversations, has them answered through the memory, searches and erases them."""

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from tomtat.answering import DEFAULT_MODEL
from tomtat.errors import BudgetError, TomtatError
from tomtat.memory import ChatMemory, Context, TokenCounter
from tomtat.server import errors
from tomtat.server.errors import ApiError
from tomtat.server.memories import TooManyStuck
from tomtat.server.services import Caller, Services
from tomtat.store import Hit, Receipt, Turn
from tomtat.talking import BROKEN_OFF, STOPPED, Cost, cost_of, keep, say, turns_of
from tomtat.ui.answerers import Answerer, OfMachine, OfUpstream
from tomtat.ui.chat_views import folds_html, recalled_html, sayings_html
from tomtat.ui.context import told

T = TypeVar("T")

SHOWN_TURNS = 60
SHOWN_CONVERSATIONS, LOOKED_AT = 100, 5000
"""The newest of so many."""
SECONDS = 30.0
"""That the memory may take for something that a reader waits for."""
SHOWN_EVERY = 0.1
ON_MACHINE = f"{DEFAULT_MODEL}, on this machine"
BYTES = 4
"""Of a token, where nobody counts them."""


@dataclass(frozen=True)
class View:
    """A conversation as it stands."""

    name: str
    turns: Sequence[Turn] = ()
    count: int = 0
    """Of all turns; `turns` are the newest."""
    context: Context | None = None
    folds: str = ""
    sayings: str = ""
    recalled: str = ""
    failed: str = ""
    """What to tell, as of a budget that is too small."""


@dataclass
class Talk:
    """A message on its way to an answer."""

    view: View
    pieces: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    is_over: bool = False
    failed: str = ""

    @property
    def answer(self) -> str:
        return "".join(self.pieces)


class Chatroom:
    def __init__(self, services: Callable[[], Services], device: str) -> None:
        """services: asked for when they are needed, for the page is built before they are opened."""
        self._services = services
        self._machine = OfMachine(device)

    # -- what there is

    async def answerers(self) -> list[str]:
        listed = [str(one["id"]) for one in await self._services().upstreams.models()]
        return [*listed, ON_MACHINE]

    async def conversations(self, caller: Caller) -> list[str]:
        """The newest first."""

        def newest(memory: ChatMemory) -> list[str]:
            lines = islice(memory.store.conversations(), LOOKED_AT)
            found = heapq.nlargest(SHOWN_CONVERSATIONS, lines, key=lambda line: line.created)
            return [line.conversation for line in found]

        return await self.in_memory(caller, newest)

    async def view(self, caller: Caller, name: str, budget: int, answerer: str) -> View:
        """The conversation, and the context that would be sent of it now. Raises: ApiError, TomtatError."""
        counter = await self._counter(caller, answerer)
        return await self.in_memory(caller, partial(_view, name=name, budget=budget, counter=counter))

    async def is_folding(self, caller: Caller) -> bool:
        return not await self.in_memory(caller, lambda memory: memory.wait(0))

    async def search(self, caller: Caller, name: str, query: str) -> list[Hit]:
        return await self.in_memory(caller, lambda memory: memory.search(name, query, limit=8))

    async def erase(self, caller: Caller, name: str) -> Receipt:
        receipt = await self.in_memory(caller, lambda memory: memory.erase(name))
        self._services().memories.forget(caller.tenant, name)
        return receipt

    async def begin(self, caller: Caller, name: str, messages: Sequence[dict[str, object]]) -> None:
        """Keep a conversation that was held elsewhere, and fold it. Of one that begins with it already nothing is kept
        twice, not even when two ask at once."""
        await self.in_memory(caller, lambda memory: memory.append(name, messages, after=0))

    # -- talking

    async def talk(
        self, caller: Caller, name: str, text: str, answerer: str, budget: int, system: str, stopped: asyncio.Event
    ) -> AsyncGenerator[Talk]:
        """Keep what the user says, have it answered, keep the answer. Without a text the last message is asked again.

        Raises: ApiError, TomtatError; what was said stays kept, and so does an answer as far as it came.
        """
        services = self._services()
        async with services.admission.request(caller):
            who = self._answerer(caller, answerer)
            if text:
                await self.in_memory(caller, partial(say, conversation=name, text=text, system=system or None))
            view = await self.in_memory(caller, partial(_view, name=name, budget=budget, counter=None))
            yield Talk(view)
            counter = await who.counter()
            view = await self.in_memory(caller, partial(_view, name=name, budget=budget, counter=counter))
            if view.context is None:
                raise ApiError(400, view.failed)
            cost = await self.in_memory(
                caller, partial(cost_of, conversation=name, context=view.context, counter=counter)
            )
            outcome = "whole" if view.context.is_whole else "folded"
            services.metrics.context(caller.tenant, cost.whole, cost.sent, outcome)
            talk = Talk(view, cost=cost)
            yield talk
            async for _ in self._hear(caller, who, view.context, talk, stopped):
                yield talk
            if who.prompt_tokens:
                services.memories.counters.learn(counter, view.context.messages, cost.sent, who.prompt_tokens)
            talk.view = await self.in_memory(caller, partial(_after, view=talk.view))
            talk.is_over = True
            yield talk

    async def _hear(
        self, caller: Caller, who: Answerer, context: Context, talk: Talk, stopped: asyncio.Event
    ) -> AsyncGenerator[None]:
        """An answer as it comes, kept at its end; what was cut is kept as far as it came, and says that it was cut."""
        services, name = self._services(), talk.view.name
        mark = ""
        try:
            async for piece in _until(stopped, who.stream(context.messages)):
                if piece:
                    talk.pieces.append(piece)
                yield
            mark = STOPPED if stopped.is_set() else ""
            if not talk.answer.strip() and not mark:
                talk.failed = f"{who.name} answered with nothing. Your message is kept."
        except (ApiError, TomtatError) as error:
            mark = BROKEN_OFF
            talk.failed = f"{told(error)} Your message is kept: Ask again sends it once more."
        except (asyncio.CancelledError, GeneratorExit):  # the reader went
            mark = STOPPED
            services.memories.later(self._keep_later(caller, name, talk.pieces))
            raise
        services.admission.spent(caller, context.tokens + len(talk.answer) // BYTES)
        if mark and talk.answer.strip():
            talk.pieces.append(f" {mark}")
        await self.in_memory(caller, partial(keep, conversation=name, pieces=talk.pieces))

    async def _keep_later(self, caller: Caller, name: str, pieces: Sequence[str]) -> None:
        with suppress(TomtatError, ApiError):  # nobody is there to be told
            await self.in_memory(caller, partial(keep, conversation=name, pieces=pieces, mark=STOPPED))

    # -- inside

    def _answerer(self, caller: Caller, name: str) -> Answerer:
        """Raises: ApiError for a model that no upstream takes."""
        if name == ON_MACHINE:
            return self._machine
        upstream = self._services().upstreams.for_model(name) if name else None
        if upstream is None:
            raise ApiError(404, f"No upstream takes the model {name!r}. Choose who answers.", "model_not_found")
        return OfUpstream(self._services(), caller, upstream, name)

    async def _counter(self, caller: Caller, answerer: str) -> TokenCounter | None:
        """None: the memory's own. The model on this machine is not loaded only to count."""
        if answerer == ON_MACHINE and not self._machine.is_loaded:
            return None
        with suppress(ApiError):
            return await self._answerer(caller, answerer).counter()
        return None

    async def in_memory(self, caller: Caller, work: Callable[[ChatMemory], T]) -> T:
        """Raises: ApiError where the store does not answer; what the work raises."""
        try:
            return await self._services().memories.run(caller.tenant, work, SECONDS)
        except (TimeoutError, TooManyStuck):
            raise errors.unanswered() from None


def new_name() -> str:
    return f"chat {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def _view(memory: ChatMemory, name: str, budget: int, counter: TokenCounter | None) -> View:
    count = turns_of(memory, name)
    if not count:
        return View(name)
    view = View(name, memory.history(name, newest=SHOWN_TURNS), count, folds=folds_html(memory, name))
    try:
        context = memory.compose(name, budget, counter=counter)
    except BudgetError as error:
        return replace(view, failed=f"{error} Raise the budget to that.")
    return replace(
        view, context=context, sayings=sayings_html(memory, name, context),
        recalled=recalled_html(memory, name, context),
    )  # fmt: skip


def _after(memory: ChatMemory, view: View) -> View:
    """With the answer, and the context that it was asked with."""
    turns = memory.history(view.name, newest=SHOWN_TURNS)
    return replace(view, turns=turns, count=turns_of(memory, view.name), folds=folds_html(memory, view.name))


async def _until(stopped: asyncio.Event, pieces: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Pieces until their end or until somebody stops them; those that come at once together.

    Raises: what comes instead of a piece, after those before it.
    """
    stopping = asyncio.ensure_future(stopped.wait())
    coming: asyncio.Task[str] | None = None
    failure: Exception | None = None
    held, shown = "", time.monotonic()
    try:
        while not (stopped.is_set() or failure):
            coming = coming or asyncio.create_task(_next(pieces))
            waited: list[asyncio.Future[Any]] = [coming, stopping]
            await asyncio.wait(waited, timeout=SHOWN_EVERY, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                done, coming = coming, None
                try:
                    held += done.result()
                except StopAsyncIteration:
                    break
                except (ApiError, TomtatError) as error:
                    failure = error
            if held and time.monotonic() - shown >= SHOWN_EVERY:
                yield held
                held, shown = "", time.monotonic()
    finally:
        stopping.cancel()
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await coming
        await pieces.aclose()
    if held:
        yield held
    if failure:
        raise failure


async def _next(pieces: AsyncGenerator[str]) -> str:
    return await anext(pieces)
