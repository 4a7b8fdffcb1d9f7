"""The summarizers of a server by their ids: loaded at its start or while it runs, over as few bases as will do."""

import asyncio
import copy
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from tomtat.config import PromptSettings
from tomtat.engines.opening import Place, asked_as_trained, make_engine, place_of
from tomtat.engines.torch_engine import TorchEngine
from tomtat.errors import ConfigError, RunError
from tomtat.models import SummarizerModel, resolve
from tomtat.models.families import default_prompt
from tomtat.models.loading import TrainedInfo, add_adapter
from tomtat.models.precision import choose_dtype
from tomtat.progress import Progress
from tomtat.server import errors
from tomtat.server.errors import ApiError
from tomtat.server.lane import Lane, Steps, Voice, Work
from tomtat.server.metrics import Metrics
from tomtat.server.services import Caller, ModelCard
from tomtat.server.settings import EMBEDDED, RunSettings, ServerSettings
from tomtat.summarizer import ENGINES_OWN, Summarizer
from tomtat.types import Generation, Source, Summary

log = logging.getLogger(__name__)
T = TypeVar("T")

READERS = 2
"""Requests whose texts are cut and made into tokens side by side."""


@dataclass(eq=False)
class Base:
    """Weights in memory, the lane that holds them, and how many summarizers speak with them."""

    lane: Lane
    model: SummarizerModel | None = None
    """None where nobody else can join: whole trained weights, and engines other than torch."""
    voices: int = 0


@dataclass(eq=False)
class Entry:
    """A summarizer under its id."""

    id: str
    run: RunSettings
    created: int = field(default_factory=lambda: int(time.time()))
    loaded: "Future[None]" = field(default_factory=Future)
    voice: Voice = field(init=False)
    """From when it is loaded on, as the next three."""
    base: Base = field(init=False)
    base_name: str = ""
    weights: str | None = None
    untuned: "Entry | None" = None
    """The base under an adapter as it speaks without it, asked in the same words: it costs no memory."""
    users: int = 0
    """Requests under way, its untuned base's among them."""
    is_retired: bool = False

    def is_seen_by(self, tenant: str) -> bool:
        return self.run.tenants is None or tenant in self.run.tenants

    @property
    def is_ready(self) -> bool:
        return self.loaded.done() and self.loaded.exception() is None


class Registry:
    """`services.Models`. Safe to use from several threads."""

    def __init__(self, settings: ServerSettings, metrics: Metrics, progress: Progress) -> None:
        """Begins to load what the settings name; `waits_for` tells until when.

        Raises: TomtatError for runs that are none.
        """
        self.settings, self.metrics, self.progress = settings, metrics, progress
        runs = _runs(settings)
        for run in runs.values():
            self._place(run.run).info()
        self._entries = {model: Entry(model, run) for model, run in runs.items()}
        self._folds_with = _who_folds(settings, runs)
        self._bases: list[Base] = []
        self._names = itertools.count(1)
        self._lock = threading.RLock()
        """Of the tables above: held for moments."""
        self._loading = threading.Lock()
        """One at a time: two over one base would load it twice."""
        self._folding: set[Future[list[Any]]] = set()
        self._no_more_folding = False
        self._is_closed = False
        self._readers = anyio.CapacityLimiter(READERS)
        threading.Thread(target=self._load_all, name="tomtat-loading", daemon=True).start()

    @property
    def waits_for(self) -> str | None:
        waiting = [entry for entry in self._all() if not entry.is_ready]
        if not waiting:
            return None
        how = "can't be loaded: see the log" if waiting[0].loaded.done() else "is being loaded"
        return f"the summarizer {waiting[0].id} {how}"

    def wait(self) -> None:
        """Until what the settings name is loaded.

        Raises: TomtatError, of the first that can't be.
        """
        for entry in self._all():
            entry.loaded.result()

    def ids(self, tenant: str) -> list[str]:
        return [entry.id for entry in self._all() if entry.is_seen_by(tenant)]

    def cards(self, tenant: str) -> list[ModelCard]:
        return [_card(entry) for entry in self._all() if entry.is_seen_by(tenant) and entry.is_ready]

    def untuned(self, tenant: str) -> list[ModelCard]:
        seen = [entry for entry in self._all() if entry.is_seen_by(tenant) and entry.is_ready]
        return [_card(entry.untuned) for entry in seen if entry.untuned]

    # -- summaries

    async def summarize(
        self, caller: Caller, model: str, sources: Sequence[Source], generate: Mapping[str, Any]
    ) -> list[Summary]:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.limits.seconds):
                with self._in_use(model, caller.tenant) as entry:
                    await _loaded(entry)
                    summarizer = _asked_for(entry.voice.summarizer, generate)
                    entry.base.lane.check_room()
                    work = await self._work(entry, partial(_reading, summarizer, sources))
                    entry.base.lane.submit(work)
                    # A task that is cancelled cancels the work.
                    summaries: list[Summary] = await asyncio.wrap_future(work.future)
        except TimeoutError:
            raise self._too_slow() from None
        for summary in summaries:
            self._count(caller, model, summary, begun)
        return summaries

    async def stream(
        self, caller: Caller, model: str, source: Source, generate: Mapping[str, Any]
    ) -> AsyncGenerator[str | Summary]:
        begun = time.monotonic()
        ends = asyncio.get_running_loop().time() + self.settings.limits.seconds
        try:
            with self._in_use(model, caller.tenant) as entry:
                await _before(ends, _loaded(entry))
                summarizer = _asked_for(entry.voice.summarizer, generate)
                entry.base.lane.check_room()
                said: asyncio.Queue[str | None] = asyncio.Queue()
                say = partial(_from_afar, asyncio.get_running_loop(), said)
                tell = say if summarizer.tells_as_it_writes else None
                work = await self._work(entry, partial(_reading, summarizer, [source]), tell)
                work.future.add_done_callback(lambda _: say(None))
                entry.base.lane.submit(work)
                try:
                    told = ""
                    while (piece := await _before(ends, said.get())) is not None:
                        told += piece
                        yield piece
                    (summary,) = work.future.result()
                finally:
                    work.future.cancel()
                if rest := summary.text[len(told) :]:
                    yield rest
                self._count(caller, model, summary, begun)
                yield summary
        except TimeoutError:
            raise self._too_slow() from None

    def folding(self) -> "Folding | None":
        return Folding(self, self._folds_with) if self._folds_with is not None else None

    # -- coming and going

    def load(self, model: str, run: str, tenants: tuple[str, ...] | None) -> None:
        """Raises: TomtatError or ApiError, and the old one stays."""
        if model == self._folds_with and tenants is not None:
            raise ApiError(409, f"{model!r} folds everybody's chats, so everybody sees it.", "in_use", "tenants")
        entry = Entry(model, RunSettings(run=run, tenants=tenants))
        with self._loading:
            self._load(entry)
            with self._lock:
                old = self._entries.get(model)
                self._entries[model] = entry
            if old is not None:
                self._retire(old)

    def unload(self, model: str) -> None:
        with self._lock:
            if model not in self._entries:
                raise errors.not_found("model", model)
            if model == self._folds_with:
                raise ApiError(409, f"{model!r} folds the chats, so it stays. Load another in its place.", "in_use")
            if not self._entries[model].loaded.done():
                raise ApiError(409, f"{model!r} is being loaded. Try again later.", "in_use")
            entry = self._entries.pop(model)
        self._retire(entry)

    async def close(self) -> None:
        self._is_closed = True
        with self._lock:
            lanes = [base.lane for base in self._bases]
        with anyio.move_on_after(self.settings.limits.stop_seconds):
            await anyio.to_thread.run_sync(_close, lanes, abandon_on_cancel=True)
            return
        for lane in lanes:
            lane.stop()

    # -- inside: asking

    def background(self, model: str, steps: Callable[[Summarizer], Sequence[Steps]]) -> list[Any]:
        """Have something written while nobody waits; from a thread.

        Raises: CancelledError, of concurrent.futures, after `end_folding`.
        """
        with self._in_use(model) as entry:
            _wait_for(entry)
            work = Work(entry.voice, steps(entry.voice.summarizer), is_background=True)
            with self._lock:
                self._folding.add(work.future)
                if self._no_more_folding:
                    work.future.cancel()
            try:
                entry.base.lane.submit(work)
                return work.future.result()
            finally:
                with self._lock:
                    self._folding.discard(work.future)

    def end_folding(self) -> None:
        with self._lock:
            self._no_more_folding = True
            for future in self._folding:
                future.cancel()

    def entry(self, model: str) -> Entry:
        """Waits until it is loaded. Raises: ApiError."""
        with self._in_use(model) as entry:
            _wait_for(entry)
            return entry

    async def _work(
        self, entry: Entry, steps: Callable[[], Sequence[Steps]], tell: Callable[[str], None] | None = None
    ) -> Work:
        make = partial(_make_work, entry.voice, steps, tell)
        return await anyio.to_thread.run_sync(make, limiter=self._readers)

    def _too_slow(self) -> ApiError:
        return ApiError(504, f"The summary took longer than {self.settings.limits.seconds:g} seconds.", "timeout")

    def _count(self, caller: Caller, model: str, summary: Summary, begun: float) -> None:
        seconds = time.monotonic() - begun
        self.metrics.summary(caller.tenant, model, summary.prompt_tokens, summary.new_tokens, seconds)

    @contextmanager
    def _in_use(self, model: str, tenant: str | None = None) -> Iterator[Entry]:
        """Found and counted in one: one that is retired is found by nobody new, so its last user is known.

        tenant: who must see it. Raises: ApiError.
        """
        with self._lock:
            entry = self._entries.get(model) or self._tuned_over(model)
            if entry is None or not (tenant is None or entry.is_seen_by(tenant)):
                raise errors.not_found("model", model)
            entry.users += 1
        try:
            yield entry if entry.id == model or entry.untuned is None else entry.untuned
        finally:
            with self._lock:
                entry.users -= 1
                is_last = entry.is_retired and not entry.users
            if is_last:
                self._forget(entry)

    def _tuned_over(self, untuned: str) -> Entry | None:
        """Whose base goes by this name."""
        tuned = (entry for entry in self._entries.values() if entry.untuned and entry.untuned.id == untuned)
        return next(tuned, None)

    # -- inside: loading

    def _load_all(self) -> None:
        entries = self._all()
        with self.progress.task("loading summarizers", len(entries), "models") as advance:
            for entry in entries:
                if self._is_closed:
                    return
                try:
                    with self._loading:
                        if entry.is_retired:
                            raise RunError("another was loaded in its place")
                        self._load(entry)
                except Exception as error:  # the server goes on and says that it is not ready
                    log.error("the summarizer %s can't be loaded: %s: %s", entry.id, type(error).__name__, error)
                    entry.loaded.set_exception(error)
                advance(1)

    def _load(self, entry: Entry) -> None:
        """Raises: TomtatError."""
        place = self._place(entry.run.run)
        info = place.info()
        entry.base, entry.voice = self._join(place, info) or self._open(place, info, entry.id)
        entry.weights = place.fingerprint() if place.trained else None
        entry.base_name = Path(str(info.base["name"])).name if info else _short(entry.run.run)
        entry.untuned = _untuned(entry)
        entry.loaded.set_result(None)

    def _place(self, run: str) -> Place:
        return place_of(run, self.settings.device)

    def _join(self, place: Place, info: TrainedInfo | None) -> tuple[Base, Voice] | None:
        """Speak with a base that is in memory already; None where there is none that fits."""
        if self.settings.engine != "torch" or not (_is_adapter(place) or info is None):
            return None
        source = resolve(str(info.base["name"]), info.base["revision"]) if info else resolve(place.path)
        with self._lock:
            base = next((base for base in self._bases if _fits(base.model, place, source.sha256)), None)
            if base is None or base.model is None:
                return None
            base.voices += 1
        try:
            return base, self._voice_over(base, base.model, place, info)
        except BaseException:
            self._leave(base)
            raise

    def _voice_over(self, base: Base, model: SummarizerModel, place: Place, info: TrainedInfo | None) -> Voice:
        name = None
        if place.trained:
            name = f"v{next(self._names)}"
            base.lane.call(partial(add_adapter, model, name, place.trained)).result()
        prompt = info.prompt if info else default_prompt(PromptSettings(), model.model_type, model.is_encoder_decoder)
        engine = TorchEngine(model.with_prompt(prompt), place.batch_tokens, lookup_tokens=place.lookup_tokens)
        return Voice(_summarizer(engine, info, place), name)

    def _open(self, place: Place, info: TrainedInfo | None, name: str) -> tuple[Base, Voice]:
        engine = make_engine(self._engine_for(place), place)
        is_shared = engine.name == "torch" and (_is_adapter(place) or info is None)
        model = engine.model if is_shared else None
        adapters = model.adapters if model else None
        base = Base(Lane(name, adapters, self.settings.limits.queue, self._tell_queue), model, voices=1)
        with self._lock:
            self._bases.append(base)
        return base, Voice(_summarizer(engine, info, place), adapters.active if adapters else None)

    def _engine_for(self, place: Place) -> str:
        if self.settings.engine != "auto":
            return self.settings.engine
        from tomtat.engines.probe import fastest

        return fastest(place, self.progress)

    def _retire(self, entry: Entry) -> None:
        """Forget it as soon as nobody uses it. One that is no longer in the table, and once."""
        with self._lock:
            entry.is_retired = True
            is_unused = not entry.users
        if is_unused:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if not entry.is_ready:
            return  # it never came to be
        with suppress(ApiError):  # the lane is closed already
            for one in filter(None, (entry.untuned, entry)):
                entry.base.lane.call(partial(entry.base.lane.forget, one.voice))
        self._leave(entry.base)

    def _leave(self, base: Base) -> None:
        with self._lock:
            base.voices -= 1
            if base.voices:
                return
            self._bases.remove(base)
        base.lane.finish()

    def _all(self) -> list[Entry]:
        with self._lock:
            return list(self._entries.values())

    def _tell_queue(self) -> None:
        with self._lock:
            self.metrics.queue(sum(base.lane.waiting for base in self._bases))


class Folding:
    """`memory.SpanSummarizer`: a summarizer that lets all requests go first. For threads."""

    def __init__(self, registry: Registry, model: str) -> None:
        self._registry = registry
        self.name = model

    @property
    def max_source_tokens(self) -> int:
        return self._summarizer.max_source_tokens

    def count_tokens(self, text: str) -> int:
        return self._summarizer.count_tokens(text)

    def generate(self, sources: Sequence[str]) -> list[Generation]:
        return self._registry.background(self.name, lambda asked: [asked.reading(source) for source in sources])

    def draw(self, sources: Sequence[str], count: int) -> list[list[Generation]]:
        return self._registry.background(self.name, lambda asked: [asked.drawing(source, count) for source in sources])

    @property
    def _summarizer(self) -> Summarizer:
        return self._registry.entry(self.name).voice.summarizer


def _runs(settings: ServerSettings) -> dict[str, RunSettings]:
    """Raises: ConfigError."""
    if not settings.summarizers and settings.runs:
        raise ConfigError("summarizers: without them (--no-summarizer) there can be no runs; leave out one of the two.")
    return settings.runs or ({EMBEDDED: RunSettings(run=EMBEDDED)} if settings.summarizers else {})


def _who_folds(settings: ServerSettings, runs: Mapping[str, RunSettings]) -> str | None:
    """One that reads everybody's chats must be everybody's: None where each is some tenants' own.

    Raises: ConfigError.
    """
    if settings.folds_with is None:
        return next((model for model, run in runs.items() if run.tenants is None), None)
    if settings.folds_with not in runs:
        raise ConfigError(f"folds_with: there is no summarizer {settings.folds_with!r} among runs.")
    if runs[settings.folds_with].tenants is not None:
        raise ConfigError(
            f"folds_with: {settings.folds_with!r} is some tenants' own, and everybody's chats are folded."
        )
    return settings.folds_with


def _asked_for(summarizer: Summarizer, generate: Mapping[str, Any]) -> Summarizer:
    """Raises: ConfigError."""
    asked = copy.copy(summarizer)
    if own := ENGINES_OWN & set(generate):
        # The engine is everybody's.
        raise ConfigError(f"{', '.join(sorted(own))} can't be asked for in a request: set it in the run's config.toml.")
    if generate:
        asked.ask_for(generate)
    return asked


def _reading(summarizer: Summarizer, sources: Sequence[Source]) -> list[Steps]:
    return [summarizer.reading(source) for source in sources]


def _summarizer(engine: Any, info: TrainedInfo | None, place: Place) -> Summarizer:
    opened = asked_as_trained(engine, info)
    return Summarizer(
        opened.engine, opened.decoding, opened.max_source_tokens, opened.limits, opened.long_inputs, place.path
    )


def _fits(model: SummarizerModel | None, place: Place, sha256: str) -> bool:
    """Whether these are the weights, and as precise."""
    if model is None or model.source.sha256 != sha256:
        return False
    return bool(choose_dtype(place.precision, model.device, model.model_type) == model.dtype)


def _is_adapter(place: Place) -> bool:
    return place.trained is not None and (place.trained / "adapter_config.json").is_file()


def _untuned(entry: Entry) -> Entry | None:
    """None where the weights can't be told apart: they are merged, or the model was trained whole."""
    if entry.base.model is None or entry.voice.adapter is None:
        return None
    untuned = Entry(f"{entry.base_name} under {entry.id}", entry.run)
    untuned.base, untuned.base_name = entry.base, entry.base_name
    untuned.voice = Voice(entry.voice.summarizer)
    untuned.loaded.set_result(None)
    return untuned


async def _loaded(entry: Entry) -> None:
    """Raises: ApiError."""
    if not entry.loaded.done():
        waited = asyncio.wrap_future(entry.loaded)
        await asyncio.wait([waited])  # which leaves it alone when this task is cancelled
        waited.exception()
    _wait_for(entry)


def _wait_for(entry: Entry) -> None:
    """From a thread. Raises: ApiError."""
    if entry.loaded.exception() is not None:
        raise ApiError(503, f"{entry.id!r} can't be loaded; the server's log says why.", "model_not_loaded")


def _card(entry: Entry) -> ModelCard:
    summarizer = entry.voice.summarizer
    return ModelCard(
        entry.id, entry.created, entry.base_name, entry.weights,
        summarizer.max_source_tokens, summarizer.decoding.max_new_tokens,
    )  # fmt: skip


def _short(name: str) -> str:
    """A folder's last part: where it lies on this machine is nobody's business."""
    return Path(name).name if Path(name).exists() else name


def _make_work(voice: Voice, steps: Callable[[], Sequence[Steps]], tell: Callable[[str], None] | None) -> Work:
    return Work(voice, steps(), tell=tell)


def _close(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.close()


async def _before(ends: float, wanted: Awaitable[T]) -> T:
    async with asyncio.timeout_at(ends):
        return await wanted


def _from_afar(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[T]", value: T) -> None:
    """Put it there from another thread."""
    with suppress(RuntimeError):  # the loop may be closed: nobody listens any more
        loop.call_soon_threadsafe(queue.put_nowait, value)
