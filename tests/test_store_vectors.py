"""Searching by meaning: vectors made by `tidy`, whatever embedder is handed over."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tomtat.store import open_store
from tomtat.store.vectors import codes, similarities


class Topics:
    """An embedder for tests: animals point one way, vehicles the other."""

    name = "topics-1"
    width = 16
    calls = 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += len(texts)
        vectors = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            sign = sum(word in text for word in ("cat", "kitten", "pet")) - sum(
                word in text for word in ("car", "truck")
            )
            topic, neither = np.where(np.arange(self.width) % 2, 1, -1), np.where(np.arange(self.width) % 4 < 2, 1, -1)
            row[:] = topic * sign if sign else neither
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def related(self, query: str) -> dict[str, dict[str, float]]:
        return {}

    def weight(self, query: str) -> float:
        return 0.5


def say(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def test_other_words_for_the_same_are_found_once_tidied(tmp_path: Path):
    with open_store(tmp_path / "s.db", embedder=Topics()) as store:
        store.append("c", say("the truck broke down", "it rains", "a kitten sleeps", "it rains", "the car is fine"))
        assert store.search("pet", conversation="c") == []
        store.tidy()
        assert store.search("pet", conversation="c")[0].turn.message["content"] == "a kitten sleeps"
        assert store.stats().embedded_turns == 5


def test_turns_are_embedded_once_rows_and_segments_alike(tmp_path: Path):
    embedder = Topics()
    with open_store(tmp_path / "s.db", embedder=embedder) as store:
        for number in range(6):
            store.append("c", say(*(f"turn {number * 100 + place}" for place in range(100))))
        store.append("c", say("a kitten sleeps"))
        store.tidy()
        assert store.stats().packed_turns > 400
        assert store.stats().embedded_turns == 601
        before = embedder.calls
        store.tidy()
        assert embedder.calls == before
        assert store.search("pet", conversation="c")[0].turn.seq == 601
    with open_store(tmp_path / "s.db", embedder=embedder) as store:
        assert store.stats().embedded_turns == 601
        assert store.check().is_sound


def test_closing_embeds_what_was_appended(tmp_path: Path):
    with open_store(tmp_path / "s.db", embedder=Topics()) as store:
        store.append("c", say("a kitten sleeps"))
    with open_store(tmp_path / "s.db") as store:
        assert store.stats().embedded_turns == 1


def test_another_embedders_vectors_are_not_read_but_made_anew(tmp_path: Path):
    class Other(Topics):
        name = "topics-2"
        width = 8

    with open_store(tmp_path / "s.db", embedder=Topics()) as store:
        store.append("c", say("a kitten sleeps", "the car is fine"))
    with open_store(tmp_path / "s.db", embedder=Other()) as store:
        assert store.search("pet", conversation="c") == []
        store.tidy()
        assert store.search("pet", conversation="c")[0].turn.seq == 1


def test_a_sealed_store_keeps_no_vectors(tmp_path: Path):
    with open_store(tmp_path / "s.db", embedder=Topics(), key=bytes(range(32))) as store:
        store.append("c", say("a kitten sleeps"))
        store.tidy()
        assert store.stats().embedded_turns == 0


def test_similarities_are_the_dot_product_with_signs():
    rng = np.random.default_rng(0)
    vectors, query = rng.normal(size=(50, 384)), rng.normal(size=384).astype(np.float32)
    packed = np.frombuffer(b"".join(codes(vectors)), np.uint8).reshape(50, 48)
    assert similarities(query, packed) == pytest.approx(np.where(vectors >= 0, 1, -1) @ query, rel=1e-4, abs=1e-3)


@pytest.mark.slow
def test_minilm_finds_what_is_said_in_other_words(tmp_path: Path):
    from tomtat.assets import MINILM, pull
    from tomtat.models.embedding import MiniLM

    pull(MINILM)
    with open_store(tmp_path / "s.db", embedder=MiniLM()) as store:
        store.append("c", say("My cat is ill.", "We moved to Hanoi.", "The invoice is wrong.", "I took up painting."))
        store.tidy()
        hits = store.search("Which pet has a disease?", conversation="c")
        assert hits[0].turn.message["content"] == "My cat is ill."
