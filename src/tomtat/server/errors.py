"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping
from typing import Any

from tomtat.errors import BudgetError, StoreError, TomtatError
from tomtat.store import Conflict, Damaged, UnknownConversation

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    415: "invalid_request_error", 421: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error",
    502: "upstream_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class ApiError(Exception):
    """What a request ends with. The message is for the person at the other end, and says nothing of other tenants."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": KINDS.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def not_found(what: str, name: str) -> ApiError:
    """The same whether it isn't there or is another tenant's."""
    return ApiError(404, f"There is no {what} {name!r}.", f"{what.replace(' ', '_')}_not_found")


def unanswered() -> ApiError:
    """Of a store that works on something longer than a request may wait."""
    return ApiError(503, "The store does not answer.", "store_unavailable", headers={"retry-after": "5"})


def busy(message: str, seconds: float, code: str = "rate_limit_exceeded") -> ApiError:
    """429, with when to come again."""
    return ApiError(429, message, code, headers={"retry-after": str(max(1, round(seconds)))})


def of(error: TomtatError) -> ApiError:
    """A library's error as a request's."""
    if isinstance(error, UnknownConversation):
        return ApiError(404, str(error), "conversation_not_found")
    if isinstance(error, Conflict):
        return ApiError(409, str(error), "conflict")
    if isinstance(error, BudgetError):
        return ApiError(400, f"context_length_exceeded: {error}", "context_length_exceeded")
    if isinstance(error, Damaged):
        return ApiError(500, str(error), "damaged")
    if isinstance(error, StoreError) and _is_of_a_driver(error):
        # What a driver said: a full disk, a database that is down. Where that lies is the log's to tell.
        return ApiError(
            503, "The store can't be used just now. Nothing of this was kept; try again.", "store_unavailable"
        )
    return ApiError(400, str(error), "invalid_request")


def _is_of_a_driver(error: BaseException) -> bool:
    """Whether what it came from is no mistake in what was given."""
    cause = error.__cause__
    while isinstance(cause, TomtatError):
        cause = cause.__cause__
    return cause is not None and not isinstance(cause, KeyError | TypeError | ValueError)
