"""Settings of a server: the only home of each default. `tomtat serve --config serve.toml` reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tomtat.config import MemorySettings, Settings, _explain, read_toml
from tomtat.errors import ConfigError

EMBEDDED = "smollm2-135m-instruct"


class UpstreamSettings(Settings):
    """An OpenAI-shaped server that answers what no adapter here does."""

    url: str = Field(pattern=r"^https?://[^/\s]+(/\S*)?$")
    """With its version: `http://localhost:8000/v1`."""
    key: str | None = None
    """Name of the environment variable with its key. Not given: the client's own `Authorization` goes on where the
    server itself wants no key, else nothing."""
    models: tuple[str, ...] = ("*",)
    """Patterns of model ids that go to it; the first upstream with one that fits is taken."""
    tokenizer: str | None = None
    """Folder, hub id or encoding to count budgets with; by default found by the model's name, or an estimate."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds without a byte from it."""


class RunSettings(Settings):
    """A summarizer: an adapter, a run, or an untuned model."""

    run: str
    """A run's folder, a model's, or a name that `tomtat summarize` knows."""
    tenants: tuple[str, ...] | None = None
    """Who sees it; everybody where not given."""


class LimitSettings(Settings):
    body_bytes: int = Field(default=8 * 2**20, gt=0)
    """Of a request; beyond, 413."""
    body_seconds: float = Field(default=60.0, gt=0)
    """Until a request's body has come in whole; beyond, 408."""
    send_seconds: float = Field(default=60.0, gt=0)
    """Until a client takes more of its answer; beyond, it is given up as if it had gone."""
    messages: int = Field(default=20_000, gt=0)
    """In one request."""
    batch: int = Field(default=256, gt=0)
    """Sources in one request for summaries."""
    queue: int = Field(default=64, ge=0)
    """Requests that wait for the engine; beyond, 429 with `retry-after`."""
    requests: int = Field(default=256, gt=0)
    """Under way at once, those to the upstream among them."""
    seconds: float = Field(default=300.0, gt=0)
    """Of a request for a summary, its wait in the queue among them; beyond, 504."""
    requests_per_minute: int | None = Field(default=None, gt=0)
    """Of a tenant whose key says nothing else."""
    tokens_per_day: int | None = Field(default=None, gt=0)
    """Of a tenant whose key says nothing else; by UTC's days."""
    stop_seconds: float = Field(default=30.0, ge=0)
    """What was taken is finished within this when the server stops."""


class ServerSettings(Settings):
    host: str = "127.0.0.1"
    """Another than the loopback's needs `keys`."""
    port: int = Field(default=8400, ge=0, le=65535)
    """0: any that is free."""
    hosts: tuple[str, ...] = ()
    """Names by which it is reached, beside those of the loopback: what a request's `Host` may say. Ends a page's
    attempt to reach a server on its reader's machine by a name of its own."""
    keys: str | None = None
    """File with tenants' keys. Without it everybody is the tenant `default`, and only the loopback is served."""
    store: str | None = None
    """A SQLite file or `postgresql://...`; `$TOMTAT_STORE` or the user's data folder where not given."""
    durability: Literal["full", "soon"] = "soon"
    """`soon`: an answer that has ended is kept whatever kills the server, and through a power cut a moment later;
    `full` lets each answer and each question wait until the disk has it."""
    meaning: bool = False
    """Search by meaning too (MiniLM, through pip)."""
    runs: dict[str, RunSettings] = Field(default_factory=dict)
    """Summarizers by the id that clients name."""
    summarizers: bool = True
    """`false`: no model is loaded, not even the embedded one, and chats are folded by sentences of their own."""
    folds_with: str | None = None
    """The id of the summarizer that folds everybody's chats, so one without `tenants`; the first such of `runs` where
    not given, and where there is none, chats are folded by sentences of their own."""
    runs_folder: str | None = None
    """Where `POST /v1/models` may load from; nowhere where not given."""
    data_folders: tuple[str, ...] = ()
    """What the page's owner may read there as data, beside the folder of runs; without `keys`, beside the folder in
    which the server was started too."""
    engine: str = "torch"
    """`torch`, `torch-int8`, `ctranslate2`, `ctranslate2-float32` or `auto`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict)
    """Who answers as all other models, by names of your own."""
    budget_tokens: int = Field(default=4000, gt=0)
    """Of what goes upstream, unless a request names another."""
    memory_seconds: float = Field(default=5.0, gt=0)
    """What a context may take to compose; beyond, the request goes out unchanged."""
    memory: MemorySettings = MemorySettings()
    limits: LimitSettings = LimitSettings()


def load_settings(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> ServerSettings:
    """From a TOML file and values that override it; lists come as tuples.

    Raises: ConfigError.
    """
    if path is not None and not Path(path).exists():
        raise ConfigError(f"There is no file of settings {path}.")
    values = read_toml(Path(path)) if path is not None else {}
    where = f"{path}: " if path is not None else ""
    try:
        return ServerSettings.model_validate(_tuples(values | dict(overrides or {})))
    except ValidationError as error:
        told = [_explain(dict(detail), ServerSettings) for detail in error.errors()]
        raise ConfigError(where + "; ".join(told)) from None


def _tuples(value: Any) -> Any:
    """TOML has lists only."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
