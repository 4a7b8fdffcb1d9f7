"""Texts into words, in any script, without a dictionary."""

import re
import unicodedata
from collections.abc import Iterable

import regex

# Scripts that put no blanks between words: a character (with its marks) is a word there.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"(?V1)[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]+")
_ASCII_WORD = re.compile("[a-z0-9]+")
TYPOGRAPHIC = re.compile("[‘’‚“”„–—…•·«»\u00a0\u2009\u202f]")
"""What English texts have beyond ASCII; no word has any of it inside."""
_LETTER = regex.compile(r"\p{L}")
_LETTER_AFTER_Z = regex.compile(r"(?V1)[\p{L}--[a-zA-Z]]")

UNICODE_WORDS = "unicode-words-1"
"""Named in every recipe of a score made with `words`: raised when `words` changes."""


def words(text: str) -> list[str]:
    """Case-folded runs of letters, marks and digits (NFC); single characters in Chinese, Japanese, Thai and their like.

    Nothing is stemmed and no mark is dropped: Vietnamese "bán" and "bạn" are two words.
    """
    plain = text if text.isascii() else TYPOGRAPHIC.sub(" ", text)
    if plain.isascii():
        return _ASCII_WORD.findall(plain.lower())  # the same, five times as fast
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


def word_spans(text: str) -> list[tuple[str, int, int]]:
    """Each word as `words` gives it, with its place in the text as it stands."""
    return [
        (unicodedata.normalize("NFC", match[0]).casefold(), match.start(), match.end())
        for match in _WORD.finditer(text)
    ]


def share_beyond_ascii(texts: Iterable[str]) -> float:
    """Letters other than a to z over all letters; 0 for texts without any. English news has about 0.0002."""
    letters = beyond = 0
    for text in texts:
        text = unicodedata.normalize("NFC", text)
        letters += len(_LETTER.findall(text))
        beyond += len(_LETTER_AFTER_Z.findall(text))
    return beyond / letters if letters else 0.0
