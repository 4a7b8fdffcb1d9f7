"""Which language's rules for sentences fit a text, by looking at its letters. No model, no list of words.

Languages that share the plain Latin alphabet (English, Dutch, Indonesian) are not told apart: the answer is "en" for
all of them, whose rules they share well enough.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from string import ascii_lowercase

import regex

_SCRIPTS = {
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "zh": r"\p{Han}",
    "ko": r"\p{Hangul}",
    "th": r"\p{Thai}",
    "ar": r"\p{Arabic}",
    "he": r"\p{Hebrew}",
    "hi": r"\p{Devanagari}",
    "ru": r"\p{Cyrillic}",
    "el": r"\p{Greek}",
    # Not ă, â, ê and ô, which Romanian, French and Portuguese have too.
    "vi": r"[đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]",
}
LANGUAGES = ("en", *_SCRIPTS)
"""What `language_of` may answer."""
_PATTERNS = {language: regex.compile(pattern) for language, pattern in _SCRIPTS.items()}
_BEYOND_ASCII = regex.compile(r"[^\x00-\x7F]+")
_LETTER = regex.compile(r"\p{L}")
_LEAST_SHARE = 0.05
"""Vietnamese has about 20 % such letters; a foreign name or quotation stays below this."""


def language_of(texts: Iterable[str]) -> str:
    """ISO 639-1 code of the language whose letters stand out, else "en"."""
    counts: Counter[str] = Counter()
    letters = 0
    for text in texts:
        text = unicodedata.normalize("NFC", text).lower()
        letters += sum(map(text.count, ascii_lowercase))
        beyond = "".join(_BEYOND_ASCII.findall(text))  # of most texts next to nothing
        if beyond:
            letters += len(_LETTER.findall(beyond))
            counts.update({language: len(pattern.findall(beyond)) for language, pattern in _PATTERNS.items()})
    if not letters:
        return "en"
    if not counts:
        return "en"
    if counts["ja"] >= _LEAST_SHARE * letters:
        return "ja"  # Japanese has more Han characters than its own
    language, count = max(counts.items(), key=lambda item: item[1])
    return language if count >= _LEAST_SHARE * letters else "en"
