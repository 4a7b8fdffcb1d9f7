"""Bodies of requests that go on to somebody else: read as JSON, looked at where we must, and otherwise left alone."""

import json
from typing import Any

from starlette.requests import Request

from tomtat.server.errors import ApiError
from tomtat.server.services import Caller, Services
from tomtat.server.upstream import Upstream

Body = dict[str, Any]


async def read_body(request: Request) -> tuple[bytes, Body]:
    """Raises: ApiError 400."""
    data = await request.body()
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON.", "invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body is a JSON object.", "invalid_json")
    return data, body


def model_of(body: Body) -> str:
    """Raises: ApiError 400."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "You must provide a model parameter.", "missing_required_parameter", "model")
    return model


def previous_response(body: Body) -> str | None:
    """The response that this one builds upon. Raises: ApiError 400."""
    response = body.get("previous_response_id")
    if response is not None and not isinstance(response, str):
        raise ApiError(400, "previous_response_id is a text.", "invalid_type", "previous_response_id")
    return response


def upstream_for(services: Services, caller: Caller, model: str) -> Upstream:
    """Raises: ApiError 404 with what there is."""
    upstream = services.upstreams.for_model(model)
    if upstream is None:
        there_is = [*services.models.ids(caller.tenant), *services.upstreams.patterns]
        listed = f"There are: {', '.join(there_is)}." if there_is else "There is none yet."
        raise ApiError(404, f"The model {model!r} does not exist. {listed}", "model_not_found", "model")
    return upstream


def has_keys(services: Services) -> bool:
    """Whether a request's `Authorization` is a key of ours."""
    return services.keys.are_wanted


def dumped(body: Body) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
