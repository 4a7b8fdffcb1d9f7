"""One row, as people's files have them, into an Example; or the reason why not."""

import json
from collections.abc import Mapping
from typing import Any

from tomtat.types import Example, Fact, Message, Source, ToolCall

SOURCE_FIELDS = ("article", "dialogue", "document", "text", "messages")
SUMMARY_FIELDS = ("highlights", "summary", "summaries", "references")


class BadRow(Exception):
    """Why a row can't be used; the loader adds where it stands."""


def to_example(
    row: object,
    default_id: str,
    source_field: str | None = None,
    summary_field: str | None = None,
    needs_summary: bool = True,
    or_usual: bool = False,
) -> Example:
    """Raises BadRow. With `or_usual` the usual names serve where a row has not the field that was asked for."""
    if not isinstance(row, Mapping):
        raise BadRow(f"a row must be an object with named fields, found {_kind(row)}")
    if or_usual:
        source_field = source_field if source_field in row else None
        summary_field = summary_field if summary_field in row else None
    source_name = _pick(row, source_field, SOURCE_FIELDS, "text to summarize", "data.source_field")
    references = _references(row, summary_field, needs_summary)
    return Example(
        id=_id(row, default_id),
        source=_source(row[source_name], source_name),
        references=references,
        facts=tuple(_facts(row.get("facts") or [])),
    )


def _pick(row: Mapping[str, Any], asked: str | None, usual: tuple[str, ...], what: str, setting: str) -> str:
    for name in (asked,) if asked else usual:
        if name in row:
            return name
    found = ", ".join(str(name) for name in row) or "nothing"
    wanted = repr(asked) if asked else "one of " + ", ".join(usual)
    raise BadRow(f"no field with the {what} ({wanted}; found {found}). Name it in the setting {setting}")


def _id(row: Mapping[str, Any], default_id: str) -> str | int:
    """As given; exported tables write null where there is none."""
    value = row.get("id")
    if value is None:
        return default_id
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"'id' must be a text or a whole number, found {_kind(value)}")
    return value


def _references(row: Mapping[str, Any], asked: str | None, needed: bool) -> tuple[str, ...]:
    """All summaries that the row has. `references` and `summaries` win over the single `summary` they repeat."""
    if asked:
        names: tuple[str, ...] = (asked,) if asked in row else ()
    else:
        names = tuple(
            name for name in ("references", "summaries", "highlights", "summary") if row.get(name) is not None
        )
    if not names:
        if needed:
            _pick(row, asked, SUMMARY_FIELDS, "summary", "data.summary_field")
            raise BadRow("its summary is null")
        return ()
    value = row[names[0]]
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise BadRow(f"'{names[0]}' must be a text or a list of texts, found {_kind(text)}")
        if not text.strip():
            raise BadRow(f"'{names[0]}' is empty")
    if not texts:
        raise BadRow(f"'{names[0]}' is an empty list")
    return tuple(text.strip() for text in texts)


def _source(value: object, name: str) -> Source:
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"'{name}' is empty")
        return value.strip()
    if isinstance(value, list):
        if not value:
            raise BadRow(f"'{name}' is an empty list of messages")
        return tuple(to_message(item, number) for number, item in enumerate(value, start=1))
    raise BadRow(f"'{name}' must be a text or a list of messages, found {_kind(value)}")


def to_message(value: object, number: int) -> Message:
    """A message in OpenAI's shape; content parts are joined, parts without text are named in brackets."""
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise BadRow(f"message {number} needs a 'role' and a 'content', found {_kind(value)}")
    wanted = value.get("tool_calls") or []
    if not isinstance(wanted, list):
        raise BadRow(f"message {number}: 'tool_calls' must be a list, found {_kind(wanted)}")
    calls = tuple(_tool_call(call, number) for call in wanted)
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise BadRow(f"message {number}: 'name' must be a text, found {_kind(name)}")
    content = _content(value.get("content"), number)
    if not content.strip() and not calls and value["role"] != "tool":
        raise BadRow(f"message {number} has no content")
    identifier = value.get("id")
    return Message(value["role"], content, name, str(identifier) if identifier is not None else None, calls)


def _content(value: object, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "\n".join(
            str(part["text"]) if "text" in part else f"[{part.get('type', 'attachment')}]" for part in value
        )
    raise BadRow(f"message {number}: 'content' must be a text or a list of parts, found {_kind(value)}")


def _tool_call(value: object, number: int) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow(f"message {number}: a tool call needs a function with a name")
    arguments = function.get("arguments") or ""
    identifier = value.get("id")
    return ToolCall(
        name=function["name"],
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False),
        id=str(identifier) if identifier is not None else None,
    )


def _facts(values: object) -> list[Fact]:
    """Facts as the bundled set writes them. Other data sets use the name for other things: those are left alone."""
    if not isinstance(values, list):
        return []
    usable = [value for value in values if isinstance(value, Mapping) and {"text", "turn", "question"} <= set(value)]
    return [Fact(str(value["text"]), str(value["turn"]), str(value["question"])) for value in usable]


def _kind(value: object) -> str:
    kinds = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
