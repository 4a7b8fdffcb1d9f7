"""Summaries that cost nothing: what a tuned model has to beat."""

import re

from tomtat.text import sentences
from tomtat.types import Message, Source

_TURN = re.compile(r"^[^\s:][^:\n]{0,40}:\s", re.MULTILINE)


def lead3(source: Source) -> str:
    """The first three sentences of an article; the first three turns of a conversation, speakers' names included."""
    if not isinstance(source, str):
        turns = [message for message in source if message.role != "system" and message.content.strip()]
        return "\n".join(_spoken(message) for message in turns[:3])
    lines = source.splitlines()
    if len(lines) >= 3 and sum(bool(_TURN.match(line)) for line in lines) >= 0.8 * len(lines):
        return "\n".join(lines[:3])
    return "\n".join(sentences(source)[:3])


def _spoken(message: Message) -> str:
    return f"{message.name}: {message.content}" if message.name else message.content
