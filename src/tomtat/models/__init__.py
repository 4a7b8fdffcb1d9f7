"""Encoder-decoder and causal models behind one interface. Only this package knows what a T5 or a Llama is."""

from tomtat.models.base import Encoded, SummarizerModel
from tomtat.models.decoding import NO_LIMITS, Decoding, Limits, LongInputs
from tomtat.models.loading import load_base, load_trained
from tomtat.models.sources import ModelSource, resolve

__all__ = [
    "NO_LIMITS",
    "Decoding",
    "Encoded",
    "Limits",
    "LongInputs",
    "ModelSource",
    "SummarizerModel",
    "load_base",
    "load_trained",
    "resolve",
]
