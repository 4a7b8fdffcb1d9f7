"""What the tabs need: the parts of the server they are mounted on, and who asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.memory import ChatMemory
from tomtat.server.errors import ApiError
from tomtat.server.services import Caller, Services
from tomtat.server.settings import ServerSettings
from tomtat.store.sql_store import DEFAULT_TENANT


@dataclass(frozen=True)
class Context:
    """Built with the page, before the server has opened its parts: what it gives may be used in handlers only."""

    app: Any
    """The server's FastAPI application, or whatever else has `state.services`."""
    settings: ServerSettings
    runs_folder: Path
    """Where the runs lie that the page shows and starts."""

    @property
    def services(self) -> Services:
        return cast(Services, self.app.state.services)

    def caller(self, request: gr.Request) -> Caller:
        """Who asks, as the door found out. A handler acts as this tenant only, and takes it from nowhere else."""
        return cast(Caller, request.request.state.caller)

    def memory(self, caller: Caller) -> ChatMemory:
        """The tenant's memory, with its store."""
        return self.services.memories.of(caller.tenant)

    def may_run(self, caller: Caller) -> bool:
        """Start and stop runs, and change files here: the machine's owner, by a key made with --admin, or by being on
        the loopback of a server without keys."""
        return caller.admin

    @property
    def default_tenant(self) -> str:
        return DEFAULT_TENANT


def told(error: Exception) -> str | None:
    """What a user is told of an error; None for a bug of ours, which the caller raises again."""
    if isinstance(error, ApiError):
        return error.message
    return str(error) if isinstance(error, TomtatError) else None
