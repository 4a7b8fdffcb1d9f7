"""Is it alive, is it ready, what does it count; and each tenant's own figures."""

import logging
from contextlib import suppress
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from tomtat.server.errors import ApiError
from tomtat.server.services import Services, TheCaller, TheServices, services_of
from tomtat.store import Store, UnknownConversation

log = logging.getLogger(__name__)
router = APIRouter()

STORE_SECONDS = 2.0
"""A store that takes longer to say anything is none to send requests to."""
ASKERS = anyio.CapacityLimiter(4)
"""Threads that ask it: of their own, so that one is free whatever else waits, unless the store doesn't answer."""


class Alive(BaseModel):
    status: str = "ok"


class Ready(BaseModel):
    status: str
    missing: list[str]
    """What it waits for; empty where it is ready."""


class Usage(BaseModel):
    """One tenant's figures. All but those of the day are since this process began."""

    object: str = "usage"
    requests: int
    contexts: int
    folded: int
    history_tokens: int
    sent_tokens: int
    saved_tokens: int
    summaries: int
    summary_prompt_tokens: int
    summary_new_tokens: int
    tokens_today: int
    tokens_per_day: int | None
    requests_per_minute: int | None


@router.get("/healthz", tags=["Health"], summary="Is the process alive?")
async def healthz() -> Alive:
    return Alive()


@router.get(
    "/readyz", tags=["Health"], summary="Can it answer requests?",
    responses={503: {"model": Ready, "description": "What is missing."}},
)  # fmt: skip
async def readyz(request: Request, response: Response) -> Ready:
    services: Services | None = getattr(request.app.state, "services", None)
    missing = await _missing(services, bool(getattr(request.app.state, "is_stopping", False)))
    if missing:
        response.status_code = 503
    return Ready(status="waiting" if missing else "ready", missing=missing)


async def _missing(services: Services | None, is_stopping: bool) -> list[str]:
    if services is None:
        return ["the start has not ended"]
    missing = ["the server is stopping"] if is_stopping else []
    if waits_for := services.models.waits_for:
        missing.append(waits_for)
    if not await _store_answers(services.store):
        missing.append("the store does not answer")
    return missing


async def _store_answers(store: Store) -> bool:
    def ask() -> None:
        with suppress(UnknownConversation):
            store.branches("-")

    try:
        with anyio.fail_after(STORE_SECONDS):
            await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=ASKERS)
    except Exception as error:  # whatever it is, requests would meet it too
        log.warning("the store does not answer: %s", type(error).__name__)
        return False
    return True


def _may_see_metrics(caller: TheCaller) -> None:
    """Where there are keys, those of admins only: a balancer on this machine would make everybody look local."""
    if not caller.admin:
        raise ApiError(403, "Metrics are for keys made with --admin.", "admin_key_wanted")


@router.get(
    "/metrics", tags=["Health"], summary="Figures for Prometheus", response_class=Response,
    dependencies=[Depends(_may_see_metrics)],
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text."}},
)  # fmt: skip
async def metrics(services: Annotated[Services, Depends(services_of)]) -> Response:
    return Response(services.metrics.text(), media_type=services.metrics.content_type)


@router.get("/v1/usage", tags=["Usage"], summary="Your own figures: tokens sent, saved, and left for today")
async def usage(caller: TheCaller, services: TheServices) -> Usage:
    figures: dict[str, Any] = services.metrics.usage(caller.tenant)
    return Usage(
        **figures,
        saved_tokens=figures["history_tokens"] - figures["sent_tokens"],
        tokens_today=services.admission.tokens_today(caller.tenant),
        tokens_per_day=services.admission.tokens_per_day(caller),
        requests_per_minute=services.admission.requests_per_minute(caller),
    )
