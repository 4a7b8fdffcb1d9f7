"""Texts into sentences, with rules that come with the package: nothing is downloaded."""

from importlib.metadata import version

from sentencex import segment

SPLITTER = f"sentencex-{version('sentencex')}"
"""Named in every recipe of a score that depends on where sentences end."""


def sentences(text: str, language: str = "en") -> list[str]:
    """Sentences of a text, in order, stripped; a newline always ends one. `language` is an ISO 639-1 code.

    So a reference's own lines (CNN/DailyMail's highlights) are never joined.
    """
    return [part.strip() for line in text.splitlines() for part in segment(language, line) if part.strip()]
