"""What whole histories cost: each counter's own count, and of the conversation that is there now."""

from typing import Any

import pytest

from memory_fakes import talk
from tomtat.memory import EstimatedTokens
from tomtat.server.totals import Totals
from tomtat.server.which import Place, Wanted
from tomtat.store import Store, open_store


class Constant(EstimatedTokens):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    base = 0

    def message(self, message: Any) -> int:
        return self.tokens


@pytest.fixture
def store(tmp_path: Any) -> Any:
    with open_store(tmp_path / "totals.db") as opened:
        yield opened


def place(store: Store, last: int) -> Place:
    return Place("chat", 0, last, 0, Wanted("chat", only_new=True))


def test_a_counter_in_the_place_of_one_that_is_gone_counts_anew(store: Store, monkeypatch: pytest.MonkeyPatch):
    store.append("chat", talk(4))
    totals = Totals()
    monkeypatch.setattr("tomtat.server.totals.id", lambda _: 7, raising=False)
    for tokens in (1, 10):
        assert totals.of("anna", store, place(store, 4), Constant(tokens), None) == 4 * tokens


def test_a_conversation_that_was_erased_elsewhere_and_begun_anew_is_counted_anew(store: Store):
    totals, counter = Totals(), EstimatedTokens()
    store.append("chat", talk(4))
    first = totals.of("anna", store, place(store, 4), counter, None)
    assert totals.of("anna", store, place(store, 4), counter, None) == first
    store.erase(conversation="chat")
    store.append("chat", [{"role": "user", "content": "Hi"}] * 4)

    assert totals.of("anna", store, place(store, 4), counter, None) < first
