"""What is asked for of generating, held against itself: before a model is loaded, and again when it is asked."""

from collections.abc import Mapping
from typing import Any

from tomtat.errors import ConfigError
from tomtat.text.language import LANGUAGES

DRAWING = ("sample", "mbr")
"""Ways of decoding that draw tokens at random."""
FOR_DRAWING = ("temperature", "top_p")
TOLD_APART = (
    f"summaries are told apart by their letters only. Choose {', '.join(LANGUAGES)}; en is every language in plain "
    "Latin letters."
)


def completed(asked: Mapping[str, Any], own: str | None = None) -> dict[str, Any]:
    """[generate] settings by name, with `decode` where another of them says it.

    `own` is how the model decodes by itself; None while that is not known. A language is found among candidates, so
    asking for one asks for them.

    Raises: ConfigError for what would change nothing: candidates, a language or a temperature with a way of decoding
    that has no use for it, and languages that can't be told apart.
    """
    language = asked.get("language")
    if language is not None:
        require_language(language)
    has_candidates = asked.get("candidates") is not None
    wants_several = has_candidates or language is not None
    decode = asked.get("decode") or _implied(asked, wants_several) or own
    if wants_several and decode != "mbr":
        why = "candidates: several are drawn" if has_candidates else "language: it is looked for among several"
        raise ConfigError(f"{why}, and decode {decode!r} writes one. Take decode mbr, or leave one of the two out.")
    if decode is not None:
        require_use(asked, decode)
    return {**asked, "decode": decode} if wants_several else dict(asked)


def _implied(asked: Mapping[str, Any], wants_several: bool) -> str | None:
    if wants_several:
        return "mbr"
    beams = asked.get("num_beams")
    return "beam" if isinstance(beams, int) and beams > 1 else None


def require_language(language: object) -> None:
    """Raises: ConfigError."""
    if language not in LANGUAGES:
        raise ConfigError(f"language {language!r}: {TOLD_APART}")


def require_use(asked: Mapping[str, Any], decode: str) -> None:
    """Raises: ConfigError where what was asked for is for drawing, and this way of decoding draws nothing."""
    found = [name for name in FOR_DRAWING if asked.get(name) is not None]
    if found and decode not in DRAWING:
        does = "changes" if len(found) == 1 else "change"
        raise ConfigError(
            f"{' and '.join(found)} {does} nothing with decode {decode!r}, which draws nothing. "
            "Take decode sample or mbr, or leave it out."
        )
