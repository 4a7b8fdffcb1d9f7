"""Prompt lookup: guesses from the source, checked several at once; what is said is what would be said without them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from conftest import small_settings
from test_engines import GREEDY, encoded, lively
from tomtat import Summarizer, finetune
from tomtat.engines import TorchEngine
from tomtat.engines.opening import Place, make_engine
from tomtat.engines.torch_engine import Flight, Job
from tomtat.errors import ConfigError
from tomtat.models import Decoding, Encoded, SummarizerModel
from tomtat.models.attention import quick_attention
from tomtat.models.decoding import Lane
from tomtat.models.int8 import few_tokens
from tomtat.models.lanes import Lanes, Remembered
from tomtat.models.lookup import Lookup
from tomtat.server.models import _asked_for
from tomtat.types import Generation

Guess = Callable[[Lane, int], list[int]]


def test_what_followed_the_same_words_is_guessed():
    lookup = Lookup([7, 8, 9, 1, 2, 3, 4, 5, 6, 2, 10, 11])

    assert lookup.guess([1], 10) == [2], "after one token one"
    assert lookup.guess([1, 2], 10) == [3, 4, 5], "after two three: the 2 alone stood later, before 10"
    assert lookup.guess([1, 2, 3], 10) == [4, 5, 6, 2, 10]
    assert lookup.guess([1, 2, 3], 2) == [4, 5]
    assert lookup.guess([1, 2, 3, 77], 10) == []
    assert lookup.guess([1, 2, 3, 77, 1, 2], 10) == [3, 77, 1], "the summary's own words too, the latest first"
    assert lookup.guess([1, 2, 3, 77, 1, 2], 0) == []
    assert lookup.guess([1, 2, 3, 77, 1, 2, 50, 50, 50, 50], 9) == [50] * 5, "a loop goes on"
    assert Lookup([]).guess([3], 5) == []


def test_no_guess_goes_beyond_the_limit():
    lane = Lane([1, 2, 3, 4, 5, 6, 7, 8], Decoding(5), ids=[1, 2, 3])
    assert lane.guess(9) == [4], "one more is chosen after it"
    lane.ids.append(4)
    assert lane.guess(9) == []


def test_in_eight_bits_no_more_is_guessed_than_one_reading_takes(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(Lane, "guess", lambda lane, most: asked.append(most) or [])
    engine = make_engine("torch-int8", Place(str(tiny_llama), "cpu", "fp32", None, lookup_tokens=8))
    assert isinstance(engine, TorchEngine)
    assert engine.most_lookup_tokens == few_tokens()
    for most, guesses in ((None, 7), (4, 3)):
        engine.most_lookup_tokens = most
        engine.candidates(encoded(engine.model, 1), Decoding(3))
        assert set(asked) == {guesses}
        asked.clear()


def fly(flight: Flight, jobs: list[Job]) -> None:
    """Each joins those under way, until all are done."""
    for job in jobs:
        flight.add(job)
        flight.step()
    while flight.jobs:
        flight.step()


def seers(model: SummarizerModel, rows: list[Any], ways: list[Decoding], wrong: float) -> Guess:
    """Guesses of one who knows what will be said, but for some tokens."""
    truth: dict[tuple[Any, ...], list[int]] = {}
    remember: Any = model.generation

    def generation(row: Any, ids: list[int], *rest: Any) -> Generation:
        truth[tuple(row.prompt_ids)] = list(ids)
        return remember(row, ids, *rest)  # type: ignore[no-any-return]

    model.generation = generation  # type: ignore[method-assign]
    engine = TorchEngine(model, lookup_tokens=0)
    for row, way in zip(rows, ways, strict=True):
        engine.candidates([row], way)
    model.generation = remember  # type: ignore[method-assign]
    dice = random.Random(5)

    def guess(lane: Lane, most: int) -> list[int]:
        said = truth[tuple(lane.prompt_ids)]
        assert lane.ids == said[: len(lane.ids)]
        ahead = said[len(lane.ids) : len(lane.ids) + dice.randint(0, most)]
        return [token if dice.random() >= wrong else token + 1 for token in ahead]

    return guess


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_guesses_change_nothing_but_the_number_of_passes(
    tiny_model: Path, wrong: float, monkeypatch: pytest.MonkeyPatch
):
    """Of all lanes at once, right, partly right and wrong; greedy, drawn and without repeats; others join meanwhile."""
    model = lively(tiny_model)
    rows = encoded(model, 12)
    kinds = [Decoding(12), Decoding(9, temperature=0.9, top_p=0.95, seed=4), Decoding(14, no_repeat_ngram=2)]
    ways = [kinds[number % 3] for number in range(len(rows))]
    plain = [TorchEngine(model, lookup_tokens=0).candidates([row], way)[0] for row, way in zip(rows, ways, strict=True)]
    monkeypatch.setattr(Lane, "guess", seers(model, rows, ways, wrong))
    checked: list[tuple[int, int]] = []
    choose = Flight._choose

    def watched(self: Flight, network: Lanes, lanes: list[Lane], *rest: Any) -> None:
        before = sum(len(lane.ids) for lane in lanes)
        choose(self, network, lanes, *rest)
        if rest[1:]:
            checked.append((sum(len(lane.ids) for lane in lanes) - before, len(lanes)))

    monkeypatch.setattr(Flight, "_choose", watched)
    flight = Flight(TorchEngine(model, lookup_tokens=80))
    jobs = [Job(row, way, number) for number, (row, way) in enumerate(zip(rows, ways, strict=True))]
    fly(flight, jobs)

    assert [job.generations for job in jobs] == plain
    tokens, lanes = (sum(column) for column in zip(*checked, strict=True))
    assert tokens == lanes if wrong == 1 else tokens > (1.3 if wrong else 2) * lanes


def test_beams_and_prompts_held_once_take_no_guesses(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    model = lively(tiny_model)
    rows = encoded(model, 4)
    monkeypatch.setattr(Lane, "guess", seers(model, rows, [GREEDY] * 4, 0.0))
    flight = Flight(TorchEngine(model, lookup_tokens=100))
    ways = [GREEDY, Decoding(12, num_beams=3), GREEDY, Decoding(12, num_beams=2)]
    jobs = [Job(row, way, number) for number, (row, way) in enumerate(zip(rows, ways, strict=True))]
    fly(flight, jobs)
    for job in jobs:
        assert job.generations == TorchEngine(model, lookup_tokens=0).candidates([job.row], job.decoding)[0]


def test_candidates_are_the_same_with_guesses(tiny_model: Path):
    """T5's kind guesses for each of them; where lanes look at one copy of a prompt, none is made."""
    model = lively(tiny_model)
    rows, drawn = encoded(model, 3), Decoding(30, temperature=0.5, candidates=3, seed=3)
    flight = Flight(TorchEngine(model, lookup_tokens=100))
    jobs = [Job(row, drawn, number) for number, row in enumerate(rows)]
    for job in jobs:
        flight.add(job)
        flight.step()
        network: Any = flight._network
        assert network.takes_several == model.is_encoder_decoder
    while flight.jobs:
        flight.step()

    assert [job.generations for job in jobs] == TorchEngine(model, lookup_tokens=0).candidates(rows, drawn)


def test_those_who_stay_forget_what_only_those_who_leave_saw(tiny_model: Path):
    """One keeps all guesses and leaves, the other none: its last columns are nobody's, and the long prompt's first."""
    model = lively(tiny_model)
    model.network.eval()
    # Not as the template begins, which all would see.
    long, short = Encoded([20 + n % 30 for n in range(90)], []), Encoded([25, 31, 27, 22], [])
    with torch.inference_mode(), quick_attention():
        network: Any = model.start([long, short], Remembered())
        alone: Any = model.start([short], Remembered())
        for right in ([3, 1], [2, 3]):
            network.advance([[20, 21, 22], [23, 24, 25]])
            network.settle(right)
            for token in [23, 24, 25][: right[1]]:
                alone.advance([[token]])
        network.advance([[20, 21, 22], [26, 24, 25]])
        network.settle([3, 1])
        alone.advance([[26]])
        network.keep([1])
        caches = network._cache.self_attention_cache if model.is_encoder_decoder else network._cache
        assert network._mask.shape[1] == caches.layers[0].get_seq_length()
        for token in (30, 31):
            network.advance([[token]])
            alone.advance([[token]])
            torch.testing.assert_close(network.logits, alone.logits, atol=1e-4, rtol=1e-4)


def test_jobs_that_are_let_go_leave_the_others_be(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    model = lively(tiny_model)
    rows = encoded(model, 6)
    plain = [TorchEngine(model, lookup_tokens=0).candidates([row], GREEDY)[0] for row in rows]
    monkeypatch.setattr(Lane, "guess", seers(model, rows, [GREEDY] * 6, 0.3))
    flight = Flight(TorchEngine(model, lookup_tokens=60))
    jobs = [Job(row, GREEDY, number) for number, row in enumerate(rows)]
    for number in (3, 0, 5, 1, 4, 2):
        flight.add(jobs[number])
    flight.step()
    flight.drop([jobs[3], jobs[5]])
    flight.step()
    flight.drop([jobs[0]])
    while flight.jobs:
        flight.step()
    for number in (1, 2, 4):
        assert jobs[number].generations == plain[number]


def test_words_of_the_source_are_said_in_fewer_passes(tiny_llama: Path):
    """The real guesses, with a network that says the token it has just read."""
    model = lively(tiny_llama)
    embeddings = model.network.get_input_embeddings().weight
    for parameter in model.network.parameters():
        if parameter.dim() == 2:
            parameter.data.zero_()
    embeddings.data = F.normalize(torch.randn_like(embeddings), dim=1)
    model.network.get_output_embeddings().weight.data = embeddings.data.clone()
    rows = encoded(model, 3)
    long = Decoding(60)
    plain = TorchEngine(model, lookup_tokens=0)
    engine = TorchEngine(model, lookup_tokens=30)

    assert engine.candidates(rows, long) == plain.candidates(rows, long)
    assert "".join(piece for piece in engine.stream(rows[0], long) if isinstance(piece, str)) == (
        plain.candidates(rows[:1], long)[0][0].text
    )

    def steps(engine: TorchEngine) -> int:
        flight, count = Flight(engine), 0
        for row in rows:
            flight.add(Job(row, long))
        while flight.jobs:
            flight.step()
            count += 1
        return count

    assert steps(engine) < 0.4 * steps(plain)


def test_some_tokens_look_back_as_torch_lets_them():
    """Heads that share keys, a mask with holes, several tokens."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    torch.manual_seed(0)
    rows, heads, groups, tokens, columns, width = 3, 6, 2, 4, 11, 8
    query = torch.randn(rows, heads, tokens, width)
    key, value = (torch.randn(rows, groups, columns, width) for _ in range(2))
    mask = torch.ones(rows, 1, tokens, columns, dtype=torch.bool).tril(columns - tokens)
    mask[0, ..., :3] = mask[1, ..., 5:7] = False
    with torch.inference_mode(), quick_attention():
        found, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](torch.nn.Module(), query, key, value, mask, scaling=0.3)
    shared = (part.repeat_interleave(heads // groups, 1) for part in (key, value))
    expected = F.scaled_dot_product_attention(query, *shared, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_it_can_be_turned_off(tiny_llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = finetune(settings=small_settings(tiny_llama, data) | {"generate.lookup_tokens": 0}, out=tmp_path / "run")
    summarizer = Summarizer.load(run.path)
    asked: list[int] = []
    monkeypatch.setattr(Lane, "guess", lambda _lane, most: asked.append(most) or [])

    summarizer("meet at noon, meet at noon, bye")
    assert not asked
    summarizer.ask_for({"lookup_tokens": 5})
    summarizer("meet at noon, meet at noon, bye")
    assert set(asked) == {4}

    with pytest.raises(ConfigError, match="lookup_tokens can't be asked for in a request"):
        _asked_for(summarizer, {"lookup_tokens": 0, "max_words": 9})  # all requests share the engine

    class Other:
        name = "ctranslate2"

    summarizer.engine = Other()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="lookup_tokens changes nothing with engine ctranslate2"):
        summarizer.ask_for({"lookup_tokens": 5})
