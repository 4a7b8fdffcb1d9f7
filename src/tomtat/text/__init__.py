"""What metrics, the summarizer and the data checks need to know about text, without a model."""

from tomtat.text.sentences import SPLITTER, sentences

__all__ = ["SPLITTER", "sentences"]
