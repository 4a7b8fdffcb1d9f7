"""Names of conversations in addresses: any text, and so with slashes, which servers decode before they look for a
route."""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Path
from starlette.types import ASGIApp, Receive, Scope, Send

from tomtat.server.errors import ApiError

BEGINS = "/v1/conversations/"


class WholeNames:
    """Leaves addresses of conversations encoded until their routes are found."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw and b"%" in raw and scope["path"].startswith(BEGINS):
            # In its place: the edge reads from it later which route was taken.
            scope["path"] = raw.decode("latin-1")
        await self.app(scope, receive, send)


def name_of(
    conversation_id: Annotated[str, Path(description="Its id: any text, percent-encoded where an address needs that.")],
) -> str:
    """Raises: ApiError 400."""
    try:
        return unquote(conversation_id, errors="strict")
    except UnicodeDecodeError:
        raise ApiError(400, "A conversation's id is UTF-8.", "invalid_conversation_id", "conversation_id") from None


Name = Annotated[str, Depends(name_of)]
