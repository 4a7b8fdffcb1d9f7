"""Embeddings of turns, one bit a dimension: 48 bytes for what all-MiniLM-L6-v2 says about a turn in 1,536.

The store knows no model: whoever opens it may hand it an `Embedder`. Turns keep the signs of their vectors; a query
keeps its numbers, which is why so little is lost: joined with BM25, signs find what whole vectors find.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

Array = np.ndarray


class Embedder(Protocol):
    """Texts in, vectors out. `tomtat.models.embedding.MiniLM` is one."""

    name: str
    """Kept in the store: codes made by one embedder say nothing to another."""
    width: int
    """Numbers in a vector, a multiple of 8."""

    def embed(self, texts: Sequence[str]) -> Array:
        """[texts, width], each of length 1."""

    def related(self, query: str) -> Mapping[str, Mapping[str, float]]:
        """Of a query's words those that mean something near it, as terms of the index, with how near (0 to 1)."""

    def weight(self, query: str) -> float:
        """How far to trust it beside BM25 for this query, 0 to 1: less in languages it has not learned."""


def codes(vectors: Array) -> list[bytes]:
    """The signs of each vector, [n, width] to n times width / 8 bytes."""
    return [row.tobytes() for row in np.packbits(vectors >= 0, axis=1)]


def similarities(query: Array, packed: Array) -> Array:
    """A query's numbers against the signs of others.

    query: [width]. packed: [n, width / 8], bytes. Returns: [n].
    """
    # What a byte's eight signs add up to is looked up, for all 256 bytes at each place: ten times as fast as unpacking.
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1
    tables = query.astype(np.float32).reshape(-1, 8) @ signs.T
    found = np.zeros(len(packed), np.float32)
    for place in range(packed.shape[1]):
        found += tables[place][packed[:, place]]
    return found
