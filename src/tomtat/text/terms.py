"""A text as the terms it is found by: one analysis for every database, in any language.

What was measured is in LOG.md ("Finding turns again"): the first five letters of a word find more of what a question
asks about than the word itself or its stem, need no dictionary, and make the index smaller.
"""

import unicodedata
from itertools import pairwise

import regex

from tomtat.text.words import TYPOGRAPHIC, UNSPACED, words

TERMS = "terms-1"
"""Raised when `terms` changes: an index made by another analysis is made anew."""

PREFIX = 5
"""Letters kept of a word of a to z: "painted" and "paintings" meet."""
MARKED_PREFIX = 6
"""Of a word with other letters, where the mark that tells words apart may come late ("chuyện", "chuyển")."""
LONGEST_NUMBER = 64
"""Characters kept of a word with a digit in it: numbers, dates and ids are found whole or not at all."""

_UNSPACED_RUN = regex.compile(rf"[{UNSPACED}]\p{{M}}*(?:[{UNSPACED}]\p{{M}}*)+")
_UNSPACED_CHARACTER = regex.compile(rf"[{UNSPACED}]\p{{M}}*")
_DIGIT = regex.compile(r"\p{N}")


def terms(text: str) -> list[str]:
    """The beginnings of a text's words, folded so that width and case don't matter (NFKC); marks do: "bán" is not
    "bạn".

    Chinese, Japanese, Thai and their like put no blanks between words: there each character is a term, and each pair of
    neighbours, which is what tells a word from its characters (as Lucene's analysis of CJK does).
    """
    plain = text if text.isascii() else TYPOGRAPHIC.sub(" ", text)
    if plain.isascii():
        return [word[:PREFIX] if word.isalpha() else word[:LONGEST_NUMBER] for word in words(plain)]
    text = unicodedata.normalize("NFKC", text)
    found = [_ascii_term(word) if word.isascii() else _term(word) for word in words(text)]
    for run in _UNSPACED_RUN.findall(text):
        characters = _UNSPACED_CHARACTER.findall(run)
        found += [first + second for first, second in pairwise(characters)]
    return found


def query_terms(text: str) -> dict[str, float]:
    """The terms to look for, and what each counts.

    In a question of a to z long words say more than "when did she": a word of four letters counts twice, a longer one
    three times. In Vietnamese, where all are short, that costs, so in marked texts each counts alike.
    """
    found = dict.fromkeys(terms(text), 1.0)
    if text.isascii():
        for word in words(text):
            term = _ascii_term(word)
            found[term] = max(found[term], min(max(len(word) - 2.0, 1.0), 3.0))
    return found


def _ascii_term(word: str) -> str:
    return word[:PREFIX] if word.isalpha() else word[:LONGEST_NUMBER]


def _term(word: str) -> str:
    return word[: LONGEST_NUMBER if _DIGIT.search(word) else MARKED_PREFIX]
