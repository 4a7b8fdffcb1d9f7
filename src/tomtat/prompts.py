"""From a source to the text that a model reads. Training, evaluation and serving all come through here."""

from dataclasses import dataclass

from tomtat.config import PromptSettings
from tomtat.types import Message, Source

SEQ2SEQ_TEMPLATE = "summarize: {text}"
"""The prefix T5 was trained with (Raffel et al. 2020, appendix D.14)."""

PLAIN_TEMPLATE = "{text}"

CHAT_TEMPLATE = "Summarize the following text in a few short sentences.\n\n{text}"

SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool"}


@dataclass(frozen=True)
class Prompt:
    """How a source becomes the user's message. Saved with the adapter, so that serving says what training said."""

    template: str
    system: str | None = None
    language: str | None = None
    """ISO 639-1 code of the sources, for models that are told it (mBART)."""
    summary_language: str | None = None

    def render(self, text: str) -> str:
        # Not str.format: articles and code are full of braces.
        return self.template.replace("{text}", text, 1)


def choose_prompt(settings: PromptSettings, default_template: str) -> Prompt:
    return Prompt(settings.template or default_template, settings.system, settings.language, settings.summary_language)


def source_text(source: Source) -> str:
    """A text as it is; a conversation as one `Speaker: words` line per message."""
    if isinstance(source, str):
        return source
    return "\n".join(_line(message) for message in source)


def _line(message: Message) -> str:
    speaker = message.name or SPEAKERS.get(message.role, message.role)
    calls = [f"[{call.name} {call.arguments}]" for call in message.tool_calls]
    return f"{speaker}: {' '.join([message.content, *calls]).strip()}"
