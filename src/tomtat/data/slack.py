"""A Slack export: a folder of channels with a file for each day, and `users.json` with the names.

    export/users.json  export/channels.json  export/general/2024-05-01.json  export/general/2024-05-02.json

A document is a day of a channel. Replies follow what they reply to; joining and leaving is left out.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tomtat.data.files import Input, opened
from tomtat.data.jsonl import Row
from tomtat.errors import DataError

_DAY = re.compile(r"\d{4}-\d\d-\d\d\.json")
_MENTION = re.compile(r"<([@#!])([^>|]+)(?:\|([^>]*))?>")
_LINK = re.compile(r"<([^>|]+)(?:\|([^>]*))?>")
SAID = {None, "bot_message", "thread_broadcast", "file_share", "me_message", "file_comment"}
"""Kinds of messages in which somebody says something."""


def day_files(folder: Path) -> list[Path]:
    """The days of an export's channels, or of the one channel that the folder is; none if it is no export."""
    days = _days_of(folder)
    if not days and (folder / "users.json").is_file():
        days = [day for channel in sorted(folder.iterdir()) if channel.is_dir() for day in _days_of(channel)]
    return days


def _days_of(channel: Path) -> list[Path]:
    return sorted(path for path in channel.iterdir() if _DAY.fullmatch(path.name) and path.is_file())


def names_of(folder: Path) -> dict[str, str]:
    """What the people of an export are called, by their ids; DataError if the file that says so is damaged."""
    path = next((place / "users.json" for place in (folder, folder.parent) if (place / "users.json").is_file()), None)
    if path is None:
        return {}
    try:
        users = json.loads(path.read_bytes())
        return {user["id"]: _name_in(user) or user["id"] for user in users}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        raise DataError(f"{path} is no list of Slack's users. Take it from the export again, or remove it.") from None


def day_rows(source: Input, names: Mapping[str, str]) -> Iterator[Row]:
    """A day of a channel as one row."""
    with opened(source) as stream:
        content = stream.file.read()
    size = len(content)
    try:
        events = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield Row(1, problem="not valid JSON. Is it cut?", raw=content.decode("utf-8", "replace"), unit="")
        return
    messages = _messages(events, names) if isinstance(events, list) else None
    if messages is None:
        problem = "no list of Slack's messages, each an object with a `ts`"
        yield Row(1, problem=problem, raw=content.decode("utf-8", "replace"), unit="")
    elif messages:
        yield Row(1, {"messages": messages}, end=size, unit="")


def _messages(events: list[Any], names: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """What was said, in order; None if something is no message."""
    if not all(isinstance(event, Mapping) and _seconds(event.get("ts")) is not None for event in events):
        return None
    said = [event for event in events if event.get("subtype") in SAID and event.get("type", "message") == "message"]
    there = {event["ts"] for event in said}

    def place(event: Mapping[str, Any]) -> tuple[float, str, float]:
        own, thread = event["ts"], event.get("thread_ts")
        # A reply to another day's message stands where it was written.
        begins = thread if isinstance(thread, str) and thread in there else own
        return _seconds(begins) or 0.0, str(begins), _seconds(own) or 0.0

    messages = [_message(event, names) for event in sorted(said, key=place)]
    return [message for message in messages if message["content"].strip()]


def _seconds(stamp: object) -> float | None:
    try:
        return float(stamp) if isinstance(stamp, str) else None
    except ValueError:
        return None


def _message(event: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    words = _plain(str(event.get("text") or ""), names)
    files = event.get("files")
    attached = [file for file in files if isinstance(file, Mapping)] if isinstance(files, list) else []
    parts = [words, *(f"[{file.get('title') or file.get('name') or 'file'}]" for file in attached)]
    content = " ".join(part for part in parts if part.strip())
    return {"role": "user", "name": _speaker(event, names), "content": content, "id": event["ts"]}


def _speaker(event: Mapping[str, Any], names: Mapping[str, str]) -> str:
    user = str(event.get("user") or "")
    profile = event.get("user_profile")
    known = names.get(user) or (_name_in({"profile": profile}) if isinstance(profile, Mapping) else "")
    return known or str(event.get("username") or user or event.get("bot_id") or "somebody")


def _name_in(user: Mapping[str, Any]) -> str:
    inner = user.get("profile")
    profile: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    found = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"), user.get("name"))
    return next((name.strip() for name in found if isinstance(name, str) and name.strip()), "")


def _plain(text: str, names: Mapping[str, str]) -> str:
    """Slack's marks for people, channels and links as they are seen."""

    def mention(match: re.Match[str]) -> str:
        mark, identifier, label = match.groups()
        shown = label or names.get(identifier, identifier)
        return ("#" if mark == "#" else "@") + shown.lstrip("@#")

    text = _MENTION.sub(mention, text)
    return html.unescape(_LINK.sub(lambda match: match[2] or match[1], text))
