"""Logs as JSON, one object a line on standard error, and never what was said in a chat.

An exception's message may quote what it was raised over, so of exceptions only their kinds and the lines of code they
went through are told.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error")

QUIET = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "openai",
    "asyncio",
    "urllib3",
    "filelock",
    "alembic",
    "sqlalchemy",
)
"""Libraries that tell addresses, statements and values from `info` on; heard from `warning` on."""

log = logging.getLogger("tomtat.server")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = list(where(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False, default=str)


def _message(record: logging.LogRecord) -> str:
    # asyncio puts a task's repr, with its exception's message, behind the first line.
    text = record.getMessage()
    return text.partition("\n")[0] if record.name == "asyncio" else text


def where(error: BaseException, told: set[int] | None = None) -> Iterator[str]:
    """Kinds of an exception and of those it came from, each with the lines of code it went through: no messages."""
    told = set() if told is None else told
    current: BaseException | None = error
    while current is not None and id(current) not in told:
        told.add(id(current))
        yield type(current).__name__
        for frame in traceback.extract_tb(current.__traceback__):
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
        if isinstance(current, BaseExceptionGroup):
            for inner in current.exceptions:
                yield from where(inner, told)
        current = current.__cause__ or current.__context__


def set_up(level: str = "info", stream: TextIO | None = None) -> None:
    """For a process that is a server and nothing else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        # Its own notes of starting and stopping say nothing that ours don't.
        logger.setLevel(max(logging.WARNING, root.level))
