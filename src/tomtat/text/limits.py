"""A summary held to what was asked: so many sentences, so many words, no half sentence at its end."""

from tomtat.text.sentences import sentences
from tomtat.text.words import word_spans


def first_sentences(text: str, count: int) -> str:
    return " ".join(sentences(text)[:count])


def at_most_words(text: str, count: int) -> str:
    """Whole sentences within `count` words; the first sentence is cut at a word where it is longer."""
    kept: list[str] = []
    left = count
    for sentence in sentences(text):
        spans = word_spans(sentence)
        if len(spans) > left:
            return " ".join(kept) if kept else sentence[: spans[left - 1][2]]
        kept.append(sentence)
        left -= len(spans)
    return text


def whole_sentences(text: str) -> str:
    """Without the sentence that was cut at its end; a text that has no other stays as it is."""
    found = sentences(text)
    return " ".join(found[:-1]) if len(found) > 1 else text
