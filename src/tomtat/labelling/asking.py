"""What a model is asked, and what identifies a question: chat, prompt and model, so that none is asked twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tomtat.config import LabelSettings
from tomtat.labelling.drafts import Chat
from tomtat.prompts import Prompt, source_text
from tomtat.text.faults import Source as HeldAgainst
from tomtat.types import Generation

Messages = tuple[dict[str, str], ...]

CORRECTION = (
    "This summary can't be used: {reasons}. Write it again, so that this is not the case. Use only what the "
    "conversation says. Write nothing but the summary."
)
CORRECTION_TOKENS = 150
"""What this adds to a question, the refused answer aside, at most but for many reasons."""
DECLINED = "the model declined"
_TOLD = {
    "empty": "it is empty",
    "nearly empty": "it says next to nothing",
    "cut at the limit": "it is too long and was cut",
    "not shorter than what it stands for": "it is not shorter than the conversation",
    "repeats itself": "it repeats itself",
    "hardly a word of it was said": "hardly a word of it stands in the conversation",
    DECLINED: "there is none; a summary of the conversation is wanted",
}


@dataclass(frozen=True)
class Question:
    """A chat to be drafted. Chats with the same text are one question."""

    key: str
    chats: tuple[Chat, ...]
    messages: Messages

    @property
    def text(self) -> str:
        return source_text(self.chats[0].source)


def questions(chats: Sequence[Chat], settings: LabelSettings, model: str) -> list[Question]:
    """In the chats' order."""
    prompt = Prompt(settings.template, settings.system)
    found: dict[str, tuple[Messages, list[Chat]]] = {}
    for chat in chats:
        messages = first_messages(prompt, source_text(chat.source))
        found.setdefault(_key(messages, model), (messages, []))[1].append(chat)
    return [Question(key, tuple(same), messages) for key, (messages, same) in found.items()]


def first_messages(prompt: Prompt, text: str) -> Messages:
    system = ({"role": "system", "content": prompt.system},) if prompt.system else ()
    return (*system, {"role": "user", "content": prompt.render(text)})


def _key(messages: Messages, model: str) -> str:
    return hashlib.sha256(json.dumps([messages, model], ensure_ascii=False).encode()).hexdigest()[:32]


def second_messages(first: Messages, draft: str, reasons: Sequence[str]) -> Messages:
    """The same, with the refused answer and why it was refused. Some templates want no empty message."""
    told = CORRECTION.format(reasons="; ".join(map(_as_told, reasons)))
    return (*first, {"role": "assistant", "content": draft or "..."}, {"role": "user", "content": told})


def _as_told(reason: str) -> str:
    """A reason in words that a model takes up rather than repeats."""
    if " from nowhere: " in reason:
        return f"the conversation does not say {reason.partition(' from nowhere: ')[2]}"
    return _TOLD.get(reason, "it is in another language than the conversation" if reason[:3] == "in " else reason)


def faults(text: str, answer: str, finish_reason: str | None) -> tuple[str, ...]:
    """Why an answer may not stand for a chat; empty where it may.

    finish_reason: as the server gave it; servers that give none are taken at their word.
    """
    if finish_reason == "content_filter":
        return (DECLINED,)
    is_cut = finish_reason == "length"
    found = HeldAgainst(text).refuse(Generation(answer, 0, 0, "length" if is_cut else "stop"))
    return tuple(dict.fromkeys(found))
