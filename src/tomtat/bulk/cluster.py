"""Windows of documents over a Ray cluster: Ray Data reads them and hands them to workers that hold the model.

Lines are read where this process runs, so that only this machine needs the file; the model must lie at the same path
on all. Results come back in the input's order and are written by this process alone: a worker that dies takes nothing
with it but the window it had, which another worker gets, and this process may die as on one machine.
"""

import io
import logging
import os
import socket
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from tomtat.bulk.documents import Address, Documents, Window, judge
from tomtat.bulk.settings import SummarizerSettings
from tomtat.bulk.work import Finished, summarize_window
from tomtat.data import DataOptions
from tomtat.data.jsonl import parse_stream
from tomtat.errors import ConfigError, RunError, TomtatError
from tomtat.progress import Advance
from tomtat.types import Example

CPUS_PER_WORKER = 4
"""More workers would give more summaries a second, but each holds the whole model."""

READERS = 2
"""Processes that read ahead. They reserve no CPU, so that workers that fill the cluster don't starve them."""

CONNECT_SECONDS = 10

TRIES_PER_WINDOW = 4
"""A document that kills its worker, by its memory for instance, must not do so for ever."""


@dataclass(frozen=True)
class Cluster:
    address: str | None = None
    """Of a running cluster, such as `auto` or `head:6379`; None starts one on this machine for the time of the work."""
    workers: int | None = None
    """Processes that hold the model; one per GPU if None, or per four CPUs."""
    cpus_per_worker: float | None = None
    """Reserved, and used as threads; an equal share of the cluster's, at most four, if None."""

    def summarize(
        self, settings: SummarizerSettings, documents: Documents, windows: Iterator[Window], advance: Advance
    ) -> Generator[Finished, None, None]:
        """Windows in order. ConfigError without Ray, cluster or file; RunError where workers fail again and again."""
        path = documents.source.line_file()
        if path is None:
            raise ConfigError(
                f"--ray reads one file of JSON Lines in UTF-8, and {documents.place} is none. Save it as one first."
            )
        with _connected(self.address) as ray:
            parts = [_part(number, window) for number, window in enumerate(windows)]
            work = _Work(settings.absolute(), documents.options, documents.doubled)
            with closing(self._results(ray, path.resolve(), parts, work)) as results:
                for part, result in zip(parts, results, strict=True):
                    if result["problem"]:
                        raise RunError(result["problem"])
                    if result["number"] != part["number"]:
                        raise RuntimeError(f"Ray gave window {result['number']} where {part['number']} was due")
                    yield Finished(**{field.name: result[field.name] for field in fields(Finished)})
                    advance(result["rows"])

    def _results(
        self, ray: Any, path: Path, parts: list[dict[str, int]], work: "_Work"
    ) -> Generator[dict[str, Any], None, None]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        workers, reserved = self._share(ray.cluster_resources(), work.settings.device)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A block for each window: a block is what is done again when a worker dies, and what comes back as one.
        blocks = ray.data.from_items(parts, override_num_blocks=len(parts))
        with warnings.catch_warnings():
            # Ray 2.64 will take some of these another way; pyproject.toml asks for an older one.
            warnings.simplefilter("ignore", DeprecationWarning)
            lines = blocks.map(partial(_read, path), num_cpus=0, concurrency=READERS, scheduling_strategy=here)
            summaries = lines.map_batches(
                _Worker,
                fn_constructor_args=(work, max(1, int(reserved["num_cpus"]))),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers),
                max_restarts=-1,
                max_task_retries=TRIES_PER_WINDOW - 1,
                **reserved,
            )
        try:
            # Without prefetching, which would hold back each window until the next one is there.
            batches = summaries.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            with closing(iter(batches)) as tables:
                for table in tables:
                    yield from table.to_pylist()
        except (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError):
            raise RunError(
                f"Workers died {TRIES_PER_WINDOW} times over the same documents, of too little memory perhaps. "
                "What was done is kept: repeat the command with fewer --ray-workers, or look into Ray's logs."
            ) from None

    def _share(self, resources: dict[str, float], device: str) -> tuple[int, dict[str, float]]:
        """How many workers, and what each reserves."""
        cpus, gpus = resources.get("CPU", 1.0), 0 if device == "cpu" else int(resources.get("GPU", 0))
        workers = self.workers or gpus or max(1, int(cpus) // CPUS_PER_WORKER)
        share = self.cpus_per_worker or min(CPUS_PER_WORKER, cpus / workers)
        reserved = {"num_cpus": float(int(share)) if share >= 1 else share}
        return workers, reserved | ({"num_gpus": 1 / ceil(workers / gpus)} if gpus else {})


@dataclass(frozen=True)
class _Work:
    """What every worker must know."""

    settings: SummarizerSettings
    options: DataOptions
    doubled: Mapping[Address, Address]


class _Worker:
    """One process of the cluster, with a model of its own.

    What a user can fix is told as a value: Ray would wrap an error in tracebacks, and try again.
    """

    def __init__(self, work: _Work, threads: int) -> None:
        import torch

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        torch.set_num_threads(threads)
        self.work = work
        self.problem = ""
        try:
            self.summarizer = work.settings.load()
        except TomtatError as error:
            self.problem = str(error)

    def __call__(self, parts: Any) -> dict[str, list[Any]]:
        [part] = parts.to_pylist()
        finished = Finished("", 0, 0) if self.problem else self._summarize(part["content"], part["first_line"])
        result = {"number": part["number"], "problem": self.problem, **asdict(finished)}
        return {name: [value] for name, value in result.items()}

    def _summarize(self, content: bytes, first_line: int) -> Finished:
        rows = parse_stream(io.BytesIO(content), first_line)
        judged = [judge(row, "", self.work.options, self.work.doubled) for row in rows]
        return summarize_window(self.summarizer, [example for example in judged if isinstance(example, Example)])


def _part(number: int, window: Window) -> dict[str, int]:
    """A window as it is handed to Ray: where its lines are, without them."""
    return {"number": number, "first_line": window.first_line, "start": window.start, "end": window.end}


def _read(path: Path, part: dict[str, int]) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(part["start"])
        content = file.read(part["end"] - part["start"])
    return {"number": part["number"], "first_line": part["first_line"], "content": content}


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected and quiet. A connection that the caller has already is used and left as it is."""
    ray = _import_ray()
    if ray.is_initialized():
        with _quiet(ray):
            yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        _require_somebody_there(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError) as error:
        if address == "local":
            raise
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"No Ray cluster can be reached at --ray-address {address} ({reason}). Start one with `ray start --head`, "
            "and name it by auto or HOST:PORT on one of its machines."
        ) from None
    try:
        with _quiet(ray):
            yield ray
    finally:
        ray.shutdown()


def _require_somebody_there(address: str) -> None:
    """Ray itself would try for more than ten minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _import_ray() -> Any:
    # Nothing is sent anywhere; read when a cluster starts.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would warn that it will stop hiding GPUs from workers that reserve none; ours reserve what they use.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--ray needs Ray: pip install 'tomtat[ray]'") from None
    return ray


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Results in order, our progress instead of Ray's; the caller's own settings come back afterwards."""
    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.execution_options.preserve_order, context.enable_progress_bars, logger.level
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    logger.setLevel(logging.CRITICAL)  # what it logs as errors, it raises too
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before[:2]
        logger.setLevel(before[2])
