"""One row, as people's files have them, into an Example; or the reason why not."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tomtat.data.shapes import is_message, openai_message, unwrapped
from tomtat.errors import DataError
from tomtat.types import Example, Fact, Message, Source, ToolCall

SOURCE_FIELDS = (
    "article", "dialogue", "document", "text", "messages", "conversations", "conversation", "transcript", "dialog",
    "chat", "turns", "content", "body", "source", "input", "prompt",
)  # fmt: skip
"""Columns with the text to summarize; the first that a row has is taken."""

SUMMARY_FIELDS = (
    "references", "summaries", "highlights", "summary", "reference", "abstract", "tldr", "tl;dr", "target", "output",
    "response", "completion", "section_text",
)  # fmt: skip
"""Columns with the summary. `references` and `summaries` win over the single `summary` they repeat."""


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
    if not (isinstance(row, Mapping) and source_field in row):
        row = unwrapped(row)
    if not isinstance(row, Mapping):
        raise BadRow(f"a row must be an object with named fields, found {_kind(row)}")
    if or_usual:
        source_field = source_field if source_field in row else None
        summary_field = summary_field if summary_field in row else None
    source_name = _pick(row, source_field, SOURCE_FIELDS, "text to summarize", "source")
    references = _references(row, summary_field, needs_summary)
    return Example(
        id=_id(row, default_id),
        source=_source(row[source_name], source_name),
        references=references,
        facts=tuple(_facts(row.get("facts") or [])),
    )


def _pick(row: Mapping[str, Any], asked: str | None, usual: tuple[str, ...], what: str, kind: str) -> str:
    for name in (asked,) if asked else usual:
        if name in row:
            return name
    if not asked and (alike := _alike(row, usual)):
        return alike[0]
    found = ", ".join(str(name) for name in row) or "nothing"
    wanted = repr(asked) if asked else "one of " + ", ".join(usual)
    raise BadRow(
        f"no field with the {what} ({wanted}; found {found}). Name it: --{kind}-field, or the setting data.{kind}_field"
    )


def is_usual(name: object) -> bool:
    """Whether a column is one that is known by its name."""
    return str(name).strip().lower() in (*SOURCE_FIELDS, *SUMMARY_FIELDS)


def holds_conversation(value: object) -> bool:
    """Whether a row is a conversation, or has one in a column that is known for it."""
    if unwrapped(value) is not value:
        return True
    columns = [value[name] for name in SOURCE_FIELDS if name in value] if isinstance(value, Mapping) else []
    return any(isinstance(column, list) and column and all(map(is_message, column)) for column in columns)


def _alike(row: Mapping[str, Any], usual: tuple[str, ...]) -> list[str]:
    """The row's names for the usual fields that are written in capitals or with blanks around them."""
    names = {str(name).strip().lower(): name for name in row}
    return [names[name] for name in usual if name in names]


def _id(row: Mapping[str, Any], default_id: str) -> str | int:
    """As given; exported tables write null where there is none."""
    value = row.get("id")
    if value is None:
        return default_id
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"'id' must be a text or a whole number, found {_kind(value)}")
    return value


def _references(row: Mapping[str, Any], asked: str | None, needed: bool) -> tuple[str, ...]:
    """All summaries that the row has."""
    if asked:
        names = [asked] if asked in row else []
    else:
        names = [name for name in SUMMARY_FIELDS if row.get(name) is not None] or _alike(row, SUMMARY_FIELDS)
    if not names:
        if needed:
            _pick(row, asked, SUMMARY_FIELDS, "summary", "summary")
            raise BadRow("its summary is null")
        return ()
    value = row[names[0]]
    texts = value if isinstance(value, list) else [value]
    if not needed and not all(isinstance(text, str) and text.strip() for text in texts):
        return ()  # of a row that is to be summarized, any column may be called so
    for text in texts:
        if not isinstance(text, str):
            raise BadRow(f"'{names[0]}' must be a text or a list of texts, found {_kind(text)}")
        if not text.strip():
            raise BadRow(f"'{names[0]}' is empty")
    if not texts:
        raise BadRow(f"'{names[0]}' is an empty list")
    return tuple(text.strip() for text in texts)


def _source(value: object, name: str) -> Source:
    value = _decoded(value)
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"'{name}' is empty")
        return value.strip()
    if isinstance(value, list):
        if not value:
            raise BadRow(f"'{name}' is an empty list of messages")
        return tuple(to_message(openai_message(item), number) for number, item in enumerate(value, start=1))
    raise BadRow(f"'{name}' must be a text or a list of messages, found {_kind(value)}")


def _decoded(value: object) -> object:
    """Messages that stand in a table's cell as JSON; everything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        with suppress(ValueError, RecursionError):
            decoded = json.loads(value)
            if decoded and all(map(is_message, decoded)):
                return decoded
    return value


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


def as_source(source: Source | Sequence[Mapping[str, Any] | Message]) -> Source:
    """What a caller gives to summarize: a text, or messages in OpenAI's shape. Raises: DataError."""
    if isinstance(source, str):
        if not source.strip():
            raise DataError("The text to summarize is empty.")
        return source.strip()
    if not source:
        raise DataError("The conversation to summarize has no messages.")
    try:
        return tuple(
            item if isinstance(item, Message) else to_message(item, number) for number, item in enumerate(source, 1)
        )
    except BadRow as error:
        raise DataError(f"The conversation can't be read: {error}.") from None
