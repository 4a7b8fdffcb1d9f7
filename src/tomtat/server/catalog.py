"""GET /v1/models: the summarizers that a tenant sees; those of a folder loaded and unloaded by its admins."""

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from tomtat.described import Described
from tomtat.errors import TomtatError
from tomtat.server import errors
from tomtat.server.errors import ApiError
from tomtat.server.services import Caller, ModelCard, Services, TheCaller, TheServices

log = logging.getLogger(__name__)
router = APIRouter(tags=["Models"])

OURS = "tomtat"


class ModelObject(Described):
    """A model in OpenAI's shape; what is ours only a summarizer has."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix time at which it was loaded."""
    owned_by: str
    """`tomtat` for summarizers; models of an upstream say what it says."""
    base: str | None = None
    """The model under an adapter."""
    weights: str | None = None
    """SHA-256 over the trained weights; null for an untuned model."""
    max_source_tokens: int | None = None
    """What is read at once; longer sources are read in pieces."""
    max_new_tokens: int | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelToLoad(Described):
    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "chats", "run": "chats-2"}]})

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")
    """What clients will name. One that is taken comes to mean the new weights; requests under way end with the old."""
    run: str = Field(min_length=1, max_length=1000)
    """A run's or an adapter's folder, by its path inside the server's `runs_folder`."""
    tenants: list[str] | None = Field(default=None, min_length=1)
    """Who sees it; null: everybody."""


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


@router.get("/v1/models", summary="The summarizers, and the upstreams' models where they tell them")
async def list_models(caller: TheCaller, services: TheServices) -> ModelList:
    ours = [_ours(card) for card in services.models.cards(caller.tenant)]
    taken = {model.id for model in ours}
    return ModelList(data=[*ours, *(model for model in await _theirs(services) if model.id not in taken)])


@router.get("/v1/models/{model:path}", summary="One of them")
async def get_model(model: str, caller: TheCaller, services: TheServices) -> ModelObject:
    for card in services.models.cards(caller.tenant):
        if card.id == model:
            return _ours(card)
    for other in await _theirs(services):
        if other.id == model:
            return other
    raise errors.not_found("model", model)


@router.post("/v1/models", summary="Load a summarizer, or put another in its place (admins)")
async def load_model(body: ModelToLoad, caller: TheCaller, services: TheServices) -> ModelObject:
    _admins_only(caller)
    folder = await anyio.to_thread.run_sync(_inside, services.settings.runs_folder, body.run)
    tenants = tuple(body.tenants) if body.tenants is not None else None
    try:
        await anyio.to_thread.run_sync(partial(services.models.load, body.id, str(folder), tenants))
    except TomtatError as error:
        # Where it lies on the server's disk is not told.
        raise ApiError(400, str(error).replace(str(folder), body.run), "model_not_loaded", "run") from None
    _log("loaded a summarizer", caller, body.id)
    for card in services.models.cards((body.tenants or [caller.tenant])[0]):
        if card.id == body.id:
            return _ours(card)
    raise errors.not_found("model", body.id)  # unloaded meanwhile


@router.delete("/v1/models/{model:path}", summary="Unload a summarizer (admins)")
async def unload_model(model: str, caller: TheCaller, services: TheServices) -> ModelDeleted:
    _admins_only(caller)
    await anyio.to_thread.run_sync(services.models.unload, model)
    _log("unloaded a summarizer", caller, model)
    return ModelDeleted(id=model)


def _log(message: str, caller: Caller, model: str) -> None:
    log.info(message, extra={"fields": {"request_id": caller.request_id, "model": model}})


def _admins_only(caller: Caller) -> None:
    if not caller.admin:
        raise ApiError(403, "Loading and unloading is for keys made with --admin.", "admin_key_wanted")


def _inside(runs_folder: str | None, run: str) -> Path:
    """A folder of that path in the folder of runs, all links followed. Raises: ApiError."""
    if runs_folder is None:
        raise ApiError(403, "This server has no runs_folder, so nothing can be loaded.", "no_runs_folder")
    top = Path(runs_folder).resolve()
    try:
        folder = (top / run).resolve()
        is_there = folder != top and folder.is_relative_to(top) and folder.is_dir()
    except (OSError, ValueError, RuntimeError):  # a path that is too long, a NUL, a loop of links
        is_there = False
    if not is_there:
        # The same for what lies outside and for what is nowhere.
        raise ApiError(400, f"There is no run {run!r} in the server's folder of runs.", "run_not_found", "run")
    return folder


def _ours(card: ModelCard) -> ModelObject:
    return ModelObject(owned_by=OURS, **asdict(card))


async def _theirs(services: Services) -> list[ModelObject]:
    """What the upstreams say that they have; every tenant may ask for it."""
    return [_other(found) for found in await services.upstreams.models()]


def _other(found: dict[str, Any]) -> ModelObject:
    created = found.get("created")
    return ModelObject(
        id=found["id"],
        created=created if type(created) is int else 0,
        owned_by=str(found.get("owned_by") or "upstream"),
    )
