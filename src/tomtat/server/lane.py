"""One base model and the thread that alone touches it; who asks gets a turn between two tokens.

Works of one summarizer are decoded together, in one flight. Several summarizers over a base take turns of `TURN` steps,
their flights standing still meanwhile: what a flight remembers holds as long as its weights come back, and they do, bit
by bit. Background works have flights of their own, which move while nobody asks, and else for a step in `PATIENCE`: so
what a fold can delay a request by is the step it is at, a token or the reading of one piece.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from tomtat.engines.base import Engine
from tomtat.engines.torch_engine import Flight, Job, TorchEngine
from tomtat.errors import TomtatError
from tomtat.models import Decoding, Encoded
from tomtat.models.decoding import Lane as Track
from tomtat.models.switching import Adapters
from tomtat.server import errors
from tomtat.server.errors import ApiError
from tomtat.summarizer import Answers, Asked, Summarizer
from tomtat.types import Generation

log = logging.getLogger(__name__)
T = TypeVar("T")

TURN = 32
"""Steps that one summarizer's works may take while another's wait. Changing the weights costs about ten steps."""
PATIENCE = 128
"""Steps for requests after which a fold that waits may take one."""
READ_TOKENS = 1024
"""Of prompts that are read in one step, or one prompt that is longer: nobody else moves meanwhile."""
READ_TOGETHER = 8
"""Prompts that go at once to engines which answer only at the end."""

Steps = Generator[Asked, Answers, Any]
"""`Summarizer.reading` or `drawing`."""


class Voice:
    """A summarizer as its lane knows it, with the name of its weights."""

    def __init__(self, summarizer: Summarizer, adapter: str | None = None) -> None:
        self.summarizer = summarizer
        self.adapter = adapter
        """None: the base's own weights, or weights that are whole."""

    @property
    def engine(self) -> Engine:
        return self.summarizer.engine

    def new_flight(self) -> "Flight | Group":
        engine = self.engine
        return Flight(engine) if isinstance(engine, TorchEngine) and engine.model.has_lanes else Group(engine)


class Work:
    """A request on its way: one result for each source, in order, when all are there.

    Making one reads its sources, which for a long text takes a while: not on the event loop, nor on the lane.
    """

    def __init__(
        self, voice: Voice, steps: Iterable[Steps], is_background: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.voice = voice
        self.is_background = is_background
        self.future: Future[list[Any]] = Future()
        """Cancel it to go away: what it had in the air is let go between two tokens."""
        self.todo: deque[Piece] = deque()
        self._tell, self._told = tell, ""
        self._results: dict[int, Any] = {}
        self._readings = [_Reading(number, one) for number, one in enumerate(steps)]
        for reading in self._readings:
            self._go_on(reading, None)

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def take(self, piece: "Piece") -> None:
        """The answer to a piece; where it was the last that its source waited for, on to the next level."""
        reading = piece.reading
        reading.answers[piece.place] = piece.generations
        if len(reading.answers) == reading.asked:
            self._go_on(reading, [reading.answers[place] for place in range(reading.asked)])

    def tell(self, text: str) -> None:
        """What is written so far. Half a character comes as U+FFFD: the next token completes it."""
        if self._tell and text.startswith(self._told) and len(text) > len(self._told) and text[-1] != "\ufffd":
            self._tell(text[len(self._told) :])
            self._told = text

    @property
    def is_told(self) -> bool:
        return self._tell is not None

    def fail(self, error: BaseException) -> None:
        self.todo.clear()
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def _go_on(self, reading: "_Reading", answers: Answers | None) -> None:
        try:
            asked = next(reading.steps) if answers is None else reading.steps.send(answers)
        except StopIteration as end:
            self._results[reading.number] = end.value
            if len(self._results) == len(self._readings):
                with suppress(InvalidStateError):
                    self.future.set_result([self._results[number] for number in range(len(self._readings))])
            return
        reading.asked, reading.answers = len(asked.rows), {}
        self.todo += [Piece(self, reading, place, row, asked) for place, row in enumerate(asked.rows)]


class _Reading:
    """A source of a work."""

    def __init__(self, number: int, steps: Steps) -> None:
        self.number = number
        self.steps = steps
        self.asked = 0
        self.answers: dict[int, list[Generation]] = {}


class Piece(Job):
    """A prompt of a work."""

    def __init__(self, work: Work, reading: _Reading, place: int, row: Encoded, asked: Asked) -> None:
        super().__init__(row, asked.decoding)
        self.work = work
        self.reading = reading
        self.place = place
        self.is_last = asked.is_last

    @property
    def length(self) -> int:
        return len(self.row.prompt_ids)


class Group:
    """As a flight, for engines without lanes: what is in it is written to its end in one step."""

    lanes: Sequence[Track] = ()

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs: list[Job] = []

    def has_room(self, row: Encoded, decoding: Decoding) -> bool:
        return not self.jobs or (len(self.jobs) < READ_TOGETHER and decoding == self.jobs[0].decoding)

    def add(self, job: Job) -> None:
        self.jobs.append(job)

    def drop(self, gone: Collection[Job]) -> None:
        self.jobs = [job for job in self.jobs if job not in gone]

    def step(self) -> list[Job]:
        done, self.jobs = self.jobs, []
        for job, generations in zip(
            done, self.engine.candidates([job.row for job in done], done[0].decoding), strict=True
        ):
            job.answer(generations)
        return done


class _Line:
    """Works of one voice that are alike in haste."""

    def __init__(self, voice: Voice, is_background: bool) -> None:
        self.voice = voice
        self.is_background = is_background
        self.works: deque[Work] = deque()
        self.last_turn = 0
        """The lane's count of steps then."""
        self._flight = voice.new_flight()

    def step(self, started: Callable[[Work], None]) -> None:
        """New pieces join, each of those in the air gets a token, and what is done goes to its work."""
        self._fill(started)
        if self._flight.jobs:
            self._step()
        self.let_go()

    def let_go(self) -> None:
        """Of works that are over: done, failed, or their clients went away."""
        self.works = deque(work for work in self.works if not work.is_over)
        if gone := [piece for piece in _pieces_of(self._flight) if piece.work.is_over]:
            self._flight.drop(gone)

    def _fill(self, started: Callable[[Work], None]) -> None:
        """By turns from each work, so that a long one does not keep out a short one."""
        tokens = 0
        while work := next((work for work in self.works if work.todo and not work.is_over), None):
            piece = work.todo[0]
            flight = self._flight
            if not flight.has_room(piece.row, piece.decoding) or (tokens and tokens + piece.length > READ_TOKENS):
                return
            flight.add(work.todo.popleft())
            tokens += piece.length
            started(work)
            self.works.remove(work)
            self.works.append(work)
            if self.is_background:
                return

    def _step(self) -> None:
        in_the_air = _pieces_of(self._flight)
        try:
            done = [job for job in self._flight.step() if isinstance(job, Piece)]
        except Exception as error:
            _lose({piece.work for piece in in_the_air}, error)
            self._flight = self.voice.new_flight()
            return
        for piece in done:
            try:
                piece.work.take(piece)
            except Exception as error:
                _lose({piece.work}, error)
        self._tell()

    def _tell(self) -> None:
        """Clients who listen, what is written so far; beams take it back, so of them only the end is told."""
        for track, piece in zip(self._flight.lanes, _pieces_of(self._flight), strict=False):
            if piece.beams is None and piece.is_last and piece.work.is_told:
                piece.work.tell(self.voice.engine.model.generation(piece.row, track.ids).text)


def _pieces_of(flight: "Flight | Group") -> list[Piece]:
    return [job for job in flight.jobs if isinstance(job, Piece)]


def _lose(works: Collection[Work], error: Exception) -> None:
    """Each learns why. The message of a bug may say what was read, so it is neither told nor logged."""
    if not isinstance(error, TomtatError):
        log.error("a generation failed: %s", type(error).__name__)
        log.debug("a generation failed", exc_info=error)
        error = ApiError(500, "The summary failed.", "generation_failed")
    for work in works:
        work.fail(error)


class Lane:
    """A thread that holds a base. Safe to use from any thread."""

    def __init__(
        self, name: str, adapters: Adapters | None = None, most_waiting: int = 64,
        waiting_changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """adapters: of the base, where it has several voices."""
        self.adapters = adapters
        self._most_waiting = most_waiting
        self._waiting_changed = waiting_changed
        self._lines: dict[tuple[Voice, bool], _Line] = {}
        self._current: _Line | None = None
        self._turn = self._steps = self._asked_steps = 0
        self._new: deque[Work] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting: set[Work] = set()
        """Requests of which nothing was started yet."""
        self._under_way = 0
        self._pace = Pace()
        self._is_closed = self._is_stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"tomtat-lane-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Raises: ApiError 429 where too many wait. Before the work is made, since that costs time as well."""
        with self._changed:
            self._check()

    def submit(self, work: Work) -> None:
        """Raises: ApiError 429 where too many wait, 503 after `close`."""
        with self._changed:
            if not work.is_background:
                self._check()
                self._waiting.add(work)
                self._under_way += 1
                self._pace.begin(self._under_way)
            elif self._is_closed:
                raise _closed()
            self._new.append(work)
            self._changed.notify_all()
        if not work.is_background:
            work.future.add_done_callback(lambda _: self._end(work))
        self._waiting_changed()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Have something done to the base, between two steps."""
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                raise _closed()
            self._calls.append((function, future))
            self._changed.notify_all()
        return future

    def forget(self, voice: Voice) -> None:
        """A voice that nobody asks any more. To be done through `call`."""
        for is_background in (False, True):
            self._lines.pop((voice, is_background), None)
        if self.adapters is not None and voice.adapter is not None:
            if self.adapters.active == voice.adapter:
                self.adapters.use(None)
            self.adapters.remove(voice.adapter)

    def finish(self) -> None:
        """Take nothing more; the thread ends when what was taken is done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """The same, and wait for it."""
        self.finish()
        self._thread.join()

    def stop(self) -> None:
        """Let what was taken fail, after the step at hand."""
        with self._changed:
            self._is_closed = self._is_stopped = True
            self._changed.notify_all()

    # -- on the lane's own thread

    def _run(self) -> None:
        while self._has_work():
            self._do_calls()
            for line in list(self._lines.values()):
                self._safely(line, line.let_go)
            self._step_next()

    def _has_work(self) -> bool:
        """Waits until there is some; False when there will be none any more."""
        with self._changed:
            while not (self._new or self._calls or self._is_closed or any(one.works for one in self._lines.values())):
                self._changed.wait()
            for work in self._new:
                self._line_up(work)
            self._new.clear()
            if self._is_stopped:
                for line in self._lines.values():
                    for work in line.works:
                        work.fail(_closed())
                    line.let_go()
            return bool(self._calls) or not self._is_closed or any(line.works for line in self._lines.values())

    def _line_up(self, work: Work) -> None:
        try:
            self._line_of(work).works.append(work)
        except Exception as error:  # a new line makes a flight, which may find no memory
            _lose({work}, error)

    def _line_of(self, work: Work) -> _Line:
        key = (work.voice, work.is_background)
        if key not in self._lines:
            self._lines[key] = _Line(*key)
        return self._lines[key]

    def _do_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def _step_next(self) -> None:
        """Of the line at work until its turn is over, then of that which waited longest. Background ones come where
        there is no other, and for a step at times, so that folds come to an end while requests never do."""
        waiting = [line for line in self._lines.values() if line.works]
        asked = [line for line in waiting if not line.is_background]
        folds = [line for line in waiting if line.is_background]
        is_for_folds = bool(folds) and (not asked or self._asked_steps >= PATIENCE)
        waiting = folds if is_for_folds else asked
        self._asked_steps = self._asked_steps + 1 if folds and not is_for_folds else 0
        if not waiting:
            return
        if self._current not in waiting or self._turn >= TURN:
            self._current = min(waiting, key=lambda line: line.last_turn)
            self._turn = 0
        assert self._current is not None
        self._turn += 1
        self._steps += 1
        self._current.last_turn = self._steps
        self._safely(self._current, partial(self._step, self._current))

    def _step(self, line: _Line) -> None:
        if self.adapters is not None and self.adapters.active != line.voice.adapter:
            self.adapters.use(line.voice.adapter)
        line.step(self._start)

    def _safely(self, line: _Line, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # the lane must live: others will ask
            _lose(line.works, error)
            del self._lines[line.voice, line.is_background]

    def _start(self, work: Work) -> None:
        with self._changed:
            is_new = work in self._waiting
            self._waiting.discard(work)
        if is_new:
            self._waiting_changed()

    # -- on any thread

    def _check(self) -> None:
        if self._is_closed:
            raise _closed()
        if len(self._waiting) >= self._most_waiting and self._under_way:
            seconds = self._pace.seconds * max(1, len(self._waiting))
            raise errors.busy(f"{len(self._waiting)} requests wait already. Try again later.", seconds, "queue_full")

    def _end(self, work: Work) -> None:
        """However it ended, its place is free."""
        with self._changed:
            self._waiting.discard(work)
            self._under_way -= 1
            self._pace.end()
        self._waiting_changed()


class Pace:
    """Seconds from one request's end to the next one's while there is work: the last few count most."""

    def __init__(self) -> None:
        self.seconds = 1.0
        self._since = 0.0

    def begin(self, under_way: int) -> None:
        if under_way == 1:
            self._since = time.monotonic()

    def end(self) -> None:
        now = time.monotonic()
        self.seconds += (now - self._since - self.seconds) / 8
        self._since = now


def _closed() -> ApiError:
    return ApiError(503, "The server is stopping.", "stopping", headers={"retry-after": "5"})
