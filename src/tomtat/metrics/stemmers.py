"""The words that ROUGE compares, by protocol: what rouge-score is handed as its tokenizer.

google     rouge-score's own: runs of a-z and 0-9, NLTK's Porter stemmer for words of more than three letters
rouge155   the Perl script ROUGE-1.5.5 with `-m`: the same runs, WordNet's exception lists, then its own Porter stemmer
unicode    `tomtat.text.words`: every script, nothing stemmed
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from nltk.stem.porter import PorterStemmer

from tomtat.metrics.wordnet import read_exceptions
from tomtat.text import words

_RUN = re.compile(r"[a-z0-9]+")
_LONGEST_UNSTEMMED = 3


class GoogleTokenizer:
    """rouge-score's default with `use_stemmer=True`, its stems remembered: 1.8 times as fast, the same words."""

    def __init__(self) -> None:
        self._stem = cache(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return [self._word(word) for word in _RUN.findall(text.lower())]

    def _word(self, word: str) -> str:
        return self._stem(word) if len(word) > _LONGEST_UNSTEMMED else word


class Rouge155Tokenizer(GoogleTokenizer):
    """`exceptions` maps irregular forms to their bases and comes before the stemmer, as in the Perl script."""

    def __init__(self, exceptions: dict[str, str]) -> None:
        stem = PerlPorterStemmer().stem
        self._stem = cache(lambda word: exceptions.get(word) or stem(word))


class UnicodeTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return words(text)


class PerlPorterStemmer(PorterStemmer):  # type: ignore[misc]
    """Porter's stemmer as ROUGE-1.5.5 has it.

    It is Martin Porter's own but for step 4, which there goes through its suffixes in four steps instead of one:
    -ment and then -ent or -ion are tried on what the others have left, and on words where -ement did not apply. So
    "agreement" becomes "agreem", and "accidental" loses -al, then -ent.
    """

    _FIRST = tuple("ement ance ence able ible ant ism ate iti ous ive ize al er ic ou".split())

    def __init__(self) -> None:
        super().__init__(mode=PorterStemmer.MARTIN_EXTENSIONS)

    def _step4(self, word: str) -> str:
        word = self._without(word, self._FIRST)
        word = self._without(word, ("ment",))
        if word.endswith("ent"):
            return self._without(word, ("ent",))
        return word[:-3] if word.endswith(("sion", "tion")) and self._measure(word[:-3]) > 1 else word

    def _without(self, word: str, suffixes: tuple[str, ...]) -> str:
        suffix = next((suffix for suffix in suffixes if word.endswith(suffix)), "")
        stem = word[: len(word) - len(suffix)]
        return stem if self._measure(stem) > 1 else word


def _bases(wordnet: Path) -> dict[str, str]:
    """Irregular forms and their first base; a later list wins, as in the Perl script's database."""
    parts = [read_exceptions(wordnet / f"{part}.exc") for part in ("verb", "noun", "adv", "adj")]
    return {form: bases[0] for part in parts for form, bases in part.items()}


def tokenizer_for(protocol: str, wordnet: Path | None = None) -> Any:
    if protocol == "google":
        return GoogleTokenizer()
    if protocol == "rouge155":
        assert wordnet is not None
        return Rouge155Tokenizer(_bases(wordnet))
    return UnicodeTokenizer()
