"""What is to be summarized in a request that was written for a large model.

Tools that compact a chat wrap it in instructions: a system message, a last message such as "Summarize the conversation
above", or one long message with the transcript between markers. Our summarizers were trained on the chat alone and
obey nothing, so that the instruction would only be summarized too. What is taken off:

- messages of system and developer, wherever there are others;
- a last message of the user that asks for a summary of what stands above it; a summary of earlier turns that it
  carries (LangMem) is read first;
- around a single message: markers such as `<messages>` or `<conversation>`, LangChain's `Current summary:` and
  `New lines of conversation:`, a first paragraph that asks for a summary, and one at the end.

What looks like none of these is summarized as it is: too much is read rather than too little.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tomtat.data.rows import BadRow, as_source, to_message
from tomtat.errors import DataError
from tomtat.prompts import SPEAKERS
from tomtat.server.errors import ApiError
from tomtat.types import Message, Source

INSTRUCTING = ("system", "developer")

TAGS = (
    "messages conversation conversation_history conversation-history chat_history chat-history chat history transcript "
    "dialogue dialog document documents text content input context"
).split()
"""Around what is to be summarized."""
EARLIER_TAGS = "previous_summary previous-summary prior_summary existing_summary existing-summary summary".split()
"""Around a summary of what was before it."""

_ASKS = re.compile(
    r"summar|\bcompact|condens|distil|\brecap|tl;?dr|hand-?off|extract the (?:highest|most)|zusammenfass"
    r"|\bfasse?\b.{0,80}zusammen|r[ée]sum|riassu|samenvat|podsumuj|кратк|резюм|tóm tắt|总结|總結|摘要|概括"
    r"|要約|요약|لخص|özet",
    re.IGNORECASE,
)
_OF_THIS = re.compile(
    r"conversation|\bchat|messages?\b|dialog|discussion|history|transcript|exchange|session|thread|context|\babove"
    r"|so far|gespräch|unterhaltung|verlauf|conversaci|historial|échange|ci-dessus|hội thoại|trên|对话|對話|聊天"
    r"|会話|上記|대화|диалог|разговор|беседы|محادثة|sohbet|konuşma",
    re.IGNORECASE,
)
_COMMANDS = re.compile(
    r"\W*(?:please|kindly|now|you are|you're|your (?:sole |only )?(?:task|job|objective|goal)|can you|could you"
    r"|i (?:want|need)|write|create|give|provide|generate|produce|make|return|output|summari|condens|distil|compact"
    r"|recap|extract|analy|read|review|the following|below|here is|given|progressively|extend|update|tl;?dr|fass|bitte"
    r"|erstell|résum|resum|riassu|hãy|tóm tắt|请|請|总结|總結|以下|次の|다음)",
    re.IGNORECASE,
)
HEAD = 600
"""Characters at the beginning of an instruction in which it says what it wants."""

# Texts are of any size and from anybody: each pattern below looks at a bounded place, or walks through once.
_EARLIER_BEGINS = re.compile(
    r"(?:summary of (?:the|our) (?:conversation|chat) (?:so far|to date)|(?:existing|previous|earlier) summary)"
    r"[^:\n]{0,40}:",
    re.IGNORECASE,
)
_EARLIER_ENDS = re.compile(r"(?:extend|update|rewrite) (?:this|the) summary", re.IGNORECASE)
_CURRENT = re.compile(r"\b(?:current|existing|previous) summary:", re.IGNORECASE)
_NEW_LINES = re.compile(r"\n\s{0,8}new lines of conversation:", re.IGNORECASE)
_LEAD = re.compile(r"\A(?P<lead>.{1,600}?(?::[ \t]{0,8}\n|:\s(?=[A-Z\"'`<])|\n[ \t]{0,8}\n))", re.DOTALL)
_LABEL = re.compile(r"\A(?:messages|conversation|text)(?: to (?:be )?summari[sz]ed?)?:", re.IGNORECASE)
_END_MARK = re.compile(r"\n\s{0,8}(?:(?:new|updated|concise|final)\s)?summary:?\s{0,8}\Z", re.IGNORECASE)
_FENCES = ('"""', "'''", "```", "---", "===")
_XML_MESSAGE = re.compile(r'\s*<message\s+(?:type|role)="(?P<role>[^"<>]{0,40})"[^<>]{0,200}>')
_XML_CALL = re.compile(r'<tool_call\b[^<>]{0,200}\bname="([^"<>]{0,100})"[^<>]{0,200}>')
_XML_TAG = re.compile(r"</?(?:content|text|tool_call)(?:\s[^<>]{0,200})?>")
_ROLES = {"human": "user", "ai": "assistant", "function": "tool", "developer": "system"}


def source_of(messages: Sequence[Any], param: str = "messages") -> Source:
    """Of messages in OpenAI's shape. Raises: ApiError 400 where there is nothing to summarize, or a message is none."""
    said = [_message(message, number, param) for number, message in enumerate(messages) if not _is_empty(message)]
    spoken = [message for message in said if message.role not in INSTRUCTING] or said
    earlier = ""
    if len(spoken) > 1 and spoken[-1].role == "user" and asks_for_summary(spoken[-1].content):
        earlier = _earlier_in(spoken[-1].content)
        spoken = spoken[:-1]
    if len(spoken) == 1 and spoken[0].role in ("user", *INSTRUCTING):
        text = spoken[0].content
        if len(said) > 1 and asks_for_summary(text) and unwrapped(text) == text.strip():
            # "Summarize the conversation above", which stands in a system message.
            text = "\n\n".join(message.content for message in said if message is not spoken[0])
        return _checked(_joined(earlier, unwrapped(text)), param)
    return _checked([Message("system", earlier, "Earlier"), *spoken] if earlier else spoken, param)


def asks_for_summary(text: str) -> bool:
    """Whether it is an instruction to summarize something that stands elsewhere."""
    head = text.strip()[:HEAD]
    return bool(_ASKS.search(head) and _OF_THIS.search(head) and (_COMMANDS.match(head) or _earlier_in(text)))


def unwrapped(text: str) -> str:
    """What is between the markers and instructions of a single message."""
    text = text.strip()
    return _as_lines(_progressive(text) or _between_tags(text) or _without_command(text))


def _progressive(text: str) -> str:
    """LangChain's older prompt: a summary, new lines, and an example before them."""
    currents = list(_CURRENT.finditer(text))
    news = _NEW_LINES.search(text, currents[-1].end()) if currents else None
    if news is None:
        return ""
    return _joined(text[currents[-1].end() : news.start()], _without_end_mark(text[news.end() :]))


def _between_tags(text: str) -> str:
    """What the widest known tag holds, where all around it is instruction."""
    spans = [span for tag in TAGS if (span := _inside(text, tag))]
    if not spans:
        return ""
    start, end, outer_start, outer_end = max(spans, key=lambda span: span[1] - span[0])
    inside, around = text[start:end].strip(), text[:outer_start] + text[outer_end:]
    if not inside or (around.strip() and not _ASKS.search(around)):
        return ""
    earlier = next((around[s[0] : s[1]] for tag in EARLIER_TAGS if (s := _inside(around, tag))), "")
    return _joined(earlier, _LABEL.sub("", inside))


def _inside(text: str, tag: str) -> tuple[int, int, int, int] | None:
    """From after the first opening tag that stands at a line's beginning to before the last closing one."""
    opening = re.search(rf"(?:\A|(?<=[\s:]))<{tag}(?:\s[^<>]{{0,200}})?>", text, re.IGNORECASE)
    closing = text.lower().rfind(f"</{tag}>")
    if opening is None or closing < opening.end():
        return None
    return opening.end(), closing, opening.start(), closing + len(tag) + 3


def _without_command(text: str) -> str:
    """Without a first or a last paragraph that asks for a summary."""
    lead = _LEAD.match(text)
    rest = text[lead.end() :].strip() if lead else ""
    if lead and rest and _COMMANDS.match(lead["lead"]) and _ASKS.search(lead["lead"]):
        return _without_fence(_without_end_mark(rest))
    before, blank, tail = text.rpartition("\n\n")
    if blank and before.strip() and len(tail) <= HEAD and _COMMANDS.match(tail) and asks_for_summary(tail):
        return before.strip()
    return text


def _without_end_mark(text: str) -> str:
    """`Summary:`, which a large model would go on from."""
    tail = text[-60:]
    return (text[: len(text) - len(tail)] + _END_MARK.sub("", tail)).strip()


def _without_fence(text: str) -> str:
    for fence in _FENCES:
        if text.startswith(fence) and text.endswith(fence) and "\n" in text:
            return text.partition("\n")[2][: -len(fence)].strip()
    return text


def _as_lines(text: str) -> str:
    """LangChain's `<message type="human">` as `User: words`; other texts as they are."""
    *parts, rest = text.split("</message>")
    heads = [_XML_MESSAGE.match(part) for part in parts]
    if not parts or rest.strip() or not all(heads):
        return text
    return "\n".join(_line(head["role"], part[head.end() :]) for head, part in zip(heads, parts, strict=True) if head)


def _line(role: str, content: str) -> str:
    content = _XML_TAG.sub(" ", _XML_CALL.sub(r" [\1] ", content))
    role = _ROLES.get(role, role)
    return f"{SPEAKERS.get(role, role)}: {' '.join(html.unescape(content).split())}"


def _earlier_in(text: str) -> str:
    """The summary of earlier turns that an instruction carries, to be extended."""
    begins = _EARLIER_BEGINS.search(text)
    ends = _EARLIER_ENDS.search(text, begins.end()) if begins else None
    return text[begins.end() : ends.start()].strip() if begins and ends else ""


def _joined(*parts: str) -> str:
    return "\n".join(filter(None, (part.strip() for part in parts)))


def _is_empty(message: Any) -> bool:
    if not isinstance(message, Mapping) or message.get("tool_calls"):
        return False
    content = message.get("content")
    return not content or (isinstance(content, str) and not content.strip())


def _message(message: Any, number: int, param: str) -> Message:
    try:
        return to_message(_plain(message), number)
    except BadRow as error:
        raise ApiError(400, f"{param}: {error}.", "invalid_request", f"{param}.{number}") from None


def _plain(message: Any) -> Any:
    """With tools' calls of every kind as those of functions."""
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_function_call(call) for call in calls]}


def _function_call(call: Any) -> Any:
    custom = call.get("custom") if isinstance(call, Mapping) else None
    if not isinstance(custom, Mapping):
        return call
    return {**call, "function": {"name": str(custom.get("name")), "arguments": str(custom.get("input") or "")}}


def _checked(given: Any, param: str) -> Source:
    try:
        return as_source(given)
    except DataError as error:
        raise ApiError(400, f"{param}: {error}", "invalid_request", param) from None
