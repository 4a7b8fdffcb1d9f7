"""What metrics, the summarizer and the data checks need to know about text, without a model."""

from tomtat.text.details import Detail, Details, details, stands_in
from tomtat.text.language import language_of
from tomtat.text.sentences import SPLITTER, sentences
from tomtat.text.words import UNICODE_WORDS, share_beyond_ascii, word_spans, words

__all__ = [
    "SPLITTER",
    "UNICODE_WORDS",
    "Detail",
    "Details",
    "details",
    "language_of",
    "sentences",
    "share_beyond_ascii",
    "stands_in",
    "word_spans",
    "words",
]
