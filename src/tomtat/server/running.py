"""A server process: takes its address, opens its parts, serves, and finishes what it took when it is told to stop."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from tomtat.errors import ConfigError
from tomtat.server.settings import ServerSettings

log = logging.getLogger("tomtat.server")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAITING_CONNECTIONS = 2048
CLEANUP_SECONDS = 2.0
"""For requests that were ended because the time to stop was over."""


def run(app: FastAPI, settings: ServerSettings, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    listening: called with the server's address once it is open and every part is ready.

    Raises: ConfigError where the address can't be taken; what opening the parts raises.
    """
    taken = take(settings.host, settings.port)
    with taken:
        config = uvicorn.Config(
            app, access_log=False, log_config=None, server_header=False, proxy_headers=False, lifespan="off", ws="none",
            backlog=WAITING_CONNECTIONS, timeout_graceful_shutdown=settings.limits.stop_seconds or 0.001,  # type: ignore[arg-type]
        )  # fmt: skip
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(app, config, taken, listening))


async def _serve(app: FastAPI, config: uvicorn.Config, taken: socket.socket, listening: Callable[[str], None]) -> None:
    # Not by uvicorn's own events: here an error of opening comes out as it is, and nothing is printed before.
    async with app.router.lifespan_context(app):
        server = _Server(config, app, lambda: listening(address(taken)))
        await server.serve(sockets=[taken])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._listening = app, listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What was loaded stays to the end. To look through it for garbage stops all requests for 0.1 s each time.
        gc.freeze()
        gc.enable()  # whoever starts a server may have disabled it
        self._listening()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, which raises the signal anew at the end and so would skip closing our parts."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # Stores are made for that: what was acknowledged is kept.
            os._exit(128 + sig)
        self.should_exit = self._app.state.is_stopping = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: what was taken is finished")
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=CLEANUP_SECONDS)


def take(host: str, port: int) -> socket.socket:
    """A socket bound to the address; it listens when the server does.

    Raises: ConfigError.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"host {host} is no address of this machine: {error.strerror}.") from None
    taken = socket.socket(family, kind, protocol)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(where)
        # Now, so that a second server on this port is told at once and not after it has loaded its models.
        taken.listen(WAITING_CONNECTIONS)
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"{host}:{port} can't be taken: {(error.strerror or str(error)).lower()}. "
            "Stop what is there, or give another --port (0: any that is free)."
        ) from None
    return taken


def address(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
