"""One engine for many requests at once: each joins those under way between two tokens."""

import queue
import threading
from concurrent.futures import Future
from typing import Self

from tomtat.engines.torch_engine import Flight, Job, TorchEngine
from tomtat.models import Decoding, Encoded
from tomtat.types import Generation


class LiveEngine:
    """A thread that holds a torch engine; safe to call from any thread.

    Close it, or use it in a `with`: what was taken is finished then, and nothing more is taken.
    """

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="tomtat-engine", daemon=True)
        self._thread.start()

    def submit(self, row: Encoded, decoding: Decoding) -> "Future[list[Generation]]":
        """`decoding.candidates` generations, when they are done. RuntimeError after `close`."""
        if self._is_closed:
            raise RuntimeError("the engine is closed")
        request = _Request(row, decoding)
        self._waiting.put(request)
        return request.future

    def close(self) -> None:
        self._is_closed = True
        self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        flight, held, is_open = Flight(self.engine), None, True
        while is_open or flight.jobs or held:
            if is_open and not held:
                held, is_open = self._next(wait=not flight.jobs)
            while held and not self.engine.model.has_lanes:
                held.answer_alone(self.engine)
                held, is_open = self._next(wait=not flight.jobs) if is_open else (None, False)
            while held and flight.has_room(held.row, held.decoding):
                if held.future.set_running_or_notify_cancel():
                    flight.add(held)
                held, is_open = self._next(wait=False) if is_open else (None, False)
            if flight.jobs:
                flight = self._step(flight)

    def _next(self, wait: bool) -> "tuple[_Request | None, bool]":
        """The next request, None if there is none now; and whether more may come."""
        try:
            request = self._waiting.get(block=wait)
        except queue.Empty:
            return None, True
        return request, request is not None

    def _step(self, flight: Flight) -> Flight:
        requests = {job for job in flight.jobs if isinstance(job, _Request)}
        try:
            done = flight.step()
        except Exception as error:
            # What was in the air is lost; each learns why, and the engine goes on with what comes.
            for request in requests:
                request.future.set_exception(error)
            return Flight(self.engine)
        for request in requests.intersection(done):
            request.future.set_result(request.generations)
        return flight


class _Request(Job):
    def __init__(self, row: Encoded, decoding: Decoding) -> None:
        super().__init__(row, decoding)
        self.future: Future[list[Generation]] = Future()

    def answer_alone(self, engine: TorchEngine) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(engine.candidates([self.row], self.decoding)[0])
            except Exception as error:
                self.future.set_exception(error)
