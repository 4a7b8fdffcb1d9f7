"""Summaries and a chat's memory over HTTP, in OpenAI's shape: what a chatbot is pointed at.

from tomtat.server import ServerSettings, create_app

app = create_app(ServerSettings(runs={"chats": {"run": "runs/chats"}}))       # any ASGI server runs it
"""

from typing import TYPE_CHECKING, Any

from tomtat.server.settings import ServerSettings, load_settings

if TYPE_CHECKING:
    from tomtat.server.app import create_app

__all__ = ["ServerSettings", "create_app", "load_settings"]


def __getattr__(name: str) -> Any:
    """Settings can be read without FastAPI."""
    if name != "create_app":
        raise AttributeError(name)
    from tomtat.server.app import create_app

    return create_app
