"""Engines: what they write is what Transformers writes, in any company."""

import copy
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import small_settings
from tomtat import Summarizer, finetune
from tomtat.config import ModelSettings, PromptSettings
from tomtat.engines import LiveEngine, TorchEngine
from tomtat.engines import probe as probe_module
from tomtat.engines.opening import Place
from tomtat.engines.probe import Tried, agreement, fastest
from tomtat.engines.torch_engine import Flight, Job, read_together
from tomtat.errors import ConfigError, RunError
from tomtat.models import Decoding, Encoded, SummarizerModel, load_base
from tomtat.models.attention import quick_attention
from tomtat.models.cache import GrowingLayer, keep_keys_in
from tomtat.models.decoding import Lane, choose
from tomtat.models.int8 import FEW_TOKENS, Int8Head, Int8Linear, quantize
from tomtat.models.lanes import Remembered, order_of
from tomtat.models.loading import load_trained
from tomtat.models.packed import pack, pays_here
from tomtat.models.shared import Readers, Shared, look_at_both
from tomtat.progress import Progress
from tomtat.types import Generation, total

GREEDY = Decoding(12)
BEAMS = Decoding(12, num_beams=4)
SAMPLED = Decoding(12, temperature=1.0, top_p=0.9, candidates=4, seed=3)


def lively(folder: Path) -> SummarizerModel:
    """A random model whose weights are large enough that it says something different of each prompt, and ends."""
    model = load_base(ModelSettings(name=str(folder)), PromptSettings())
    torch.manual_seed(1)
    for name, parameter in model.network.named_parameters():
        if parameter.dim() == 2 and "relative" not in name:
            parameter.data = torch.randn_like(parameter) * (0.3 if "lm_head" not in name else 1.0)
    return model


def encoded(model: SummarizerModel, count: int = 17) -> list[Encoded]:
    return [model.encode(f"meet {n} at noon, " * (1 + n * 5 % 7) + "bye", None, 200) for n in range(count)]


def ids_of(generations: list[list[Generation]]) -> list[str]:
    return [generation.text for each in generations for generation in each]


@pytest.mark.parametrize("batch_tokens", [1, 150, 400, 10_000])
@pytest.mark.parametrize(
    "decoding",
    [GREEDY, Decoding(12, no_repeat_ngram=2), BEAMS, Decoding(12, num_beams=3, no_repeat_ngram=2)],
    ids=["greedy", "no-repeat", "beams", "beams-no-repeat"],
)
def test_lanes_write_what_generate_writes_alone(tiny_model: Path, batch_tokens: int, decoding: Decoding):
    model = lively(tiny_model)
    rows = encoded(model)

    found = TorchEngine(model, batch_tokens).candidates(rows, decoding)

    alone = [model.generate([row], decoding)[0] for row in rows]
    assert [(g[0].text, g[0].new_tokens, g[0].finish_reason) for g in found] == [
        (g[0].text, g[0].new_tokens, g[0].finish_reason) for g in alone
    ]
    assert len(set(ids_of(found))) > 5, "rows that all say the same prove nothing"


def test_lanes_that_join_write_the_same(tiny_model: Path):
    model = lively(tiny_model)
    rows = encoded(model, 8)
    flight = Flight(TorchEngine(model))
    jobs = [Job(row, Decoding(4 + 3 * number, seed=number), number) for number, row in enumerate(rows)]
    done, ages = [], set()
    for job in jobs:
        flight.add(job)
        done += flight.step()
        ages.add(tuple(len(lane.ids) for lane in flight.lanes))
    while flight.jobs:
        done += flight.step()

    assert any(len(set(lengths)) > 3 for lengths in ages), "lanes of different ages side by side"
    assert sorted(job.number for job in done) == list(range(8))
    for job in jobs:
        assert job.generations == model.generate([job.row], job.decoding)[0]


def test_beams_fly_beside_others_and_let_each_be(tiny_model: Path):
    """Lanes of beams are spread when others leave, and what they copy from each other must be theirs."""
    model = lively(tiny_model)
    ways = [Decoding(9, num_beams=3), GREEDY, SAMPLED, Decoding(12, num_beams=2, no_repeat_ngram=2), BEAMS]
    rows = encoded(model, 15)
    jobs = [Job(row, ways[number % len(ways)], number) for number, row in enumerate(rows)]
    flight, company = Flight(TorchEngine(model)), set()
    for job in jobs:
        flight.add(job)
        flight.step()
        flight.step()
        company.add(frozenset(other.decoding.lanes for other in flight.jobs))
    while flight.jobs:
        flight.step()

    assert max(map(len, company)) == 4, "beams of each width beside lanes of their own"
    for job in jobs:
        alone = TorchEngine(model).candidates([job.row], job.decoding)[0]
        assert job.generations == alone
        if job.decoding.num_beams > 1:
            (by_transformers,) = model.generate([job.row], job.decoding)
            assert [one.text for one in job.generations] == [one.text for one in by_transformers]


def test_a_long_flight_lets_go_of_what_nobody_looks_at(tiny_model: Path):
    """Each token is a column; without an end to them a long list would become slower and slower."""
    model = lively(tiny_model)
    rows = encoded(model, 60)
    ways = [Decoding(3 + 5 * (number % 7)) for number in range(60)]  # so that never all of them end together
    flight, waiting, done, widths = Flight(TorchEngine(model, 600)), list(range(60)), {}, []
    while waiting or flight.jobs:
        while waiting and flight.has_room(rows[waiting[0]], ways[waiting[0]]):
            row = waiting.pop(0)
            flight.add(Job(rows[row], ways[row], row))
        done |= {job.number: job.generations for job in flight.step()}
        network = flight._network
        assert network is not None
        sources = network._source_mask if model.is_encoder_decoder else network._mask
        widths.append(max(network._mask.shape[1], sources.shape[1]))

    longest = max(len(row.prompt_ids) for row in rows) + 33
    assert len(widths) > 1.5 * longest, "long enough that it would have grown"
    assert max(widths) <= longest + 64
    assert [done[number] for number in range(60)] == [
        model.generate([row], way)[0] for row, way in zip(rows, ways, strict=True)
    ]


def test_prompts_of_like_length_are_read_together():
    def job(length: int, decoding: Decoding = GREEDY) -> Job:
        return Job(Encoded([1] * length, []), decoding)

    def lengths(*jobs: Job) -> list[list[int]]:
        return [[len(one.row.prompt_ids) for one in batch] for batch in read_together(jobs)]

    assert lengths(job(90), job(100), job(400), job(350)) == [[400, 350], [100, 90]]
    assert lengths(*[job(30)] * 5, job(70)) == [[70, 30, 30, 30, 30, 30]], "so few tokens are read as they come"
    assert lengths(job(300), job(200), job(100)) == [[300, 200], [100]]
    assert lengths(*[job(900)] * 5) == [[900, 900], [900, 900], [900]], "and not more than fit the cache"
    assert lengths(job(100, BEAMS), job(100), job(100, SAMPLED), job(100)) == [[100, 100], [100, 100]]


def test_candidates_do_not_depend_on_their_company(tiny_model: Path):
    model = lively(tiny_model)
    rows = encoded(model, 9)
    found = TorchEngine(model, 500).candidates(rows, SAMPLED)
    backwards = TorchEngine(model, 5000).candidates(rows[::-1], SAMPLED)[::-1]

    assert ids_of(found) == ids_of(backwards)
    assert [each[0].text for each in found] == ids_of([model.generate([row], GREEDY)[0] for row in rows])
    assert all(len({g.text for g in each}) > 1 for each in found)
    another_seed = TorchEngine(model, 500).candidates(rows, Decoding(12, temperature=1.0, candidates=4, seed=4))
    assert ids_of(another_seed) != ids_of(found)


def test_a_prompt_is_held_once_for_its_candidates(tiny_llama: Path):
    """Whatever joins and leaves beside them; and what is spared is room for others."""
    model = lively(tiny_llama)
    rows = encoded(model, 8)
    ways = [SAMPLED, GREEDY, BEAMS, Decoding(5, temperature=0.7, candidates=8, seed=1)]
    jobs = [Job(row, ways[number % 4], number) for number, row in enumerate(rows)]
    flight, held = Flight(TorchEngine(model)), []
    for job in jobs:
        flight.add(job)
        flight.step()
        flight.step()
        network: Any = flight._network
        held.append((len(network._cache.layers[0].prompts.keys), len(set(flight.jobs)), len(flight.jobs)))
    while flight.jobs:
        flight.step()

    assert all(prompts == there < lanes for prompts, there, lanes in held)
    for job in jobs:
        assert job.generations == TorchEngine(model).candidates([job.row], job.decoding)[0]

    width = len(rows[0].prompt_ids) + SAMPLED.max_new_tokens
    narrow = Flight(TorchEngine(model, 2 * width + 6 * SAMPLED.max_new_tokens))
    narrow.add(Job(rows[0], SAMPLED))
    assert narrow.has_room(rows[0], SAMPLED)
    narrow.add(Job(rows[0], SAMPLED))
    assert not narrow.has_room(rows[0], SAMPLED)


def test_attention_over_prompts_held_once_is_attention_over_copies():
    torch.manual_seed(0)
    prompt_of, groups, heads, width = [0, 2, 0, 1, 2, 2], 2, 4, 8
    lanes, columns, own = len(prompt_of), 7, 3
    seen = torch.ones(3, columns, dtype=torch.bool)
    seen[1, :4] = False
    mask = torch.ones(lanes, 1, 1, own, dtype=torch.bool)
    mask[3, ..., :2] = False
    query = torch.randn(lanes, heads, 1, width)
    parts = [(torch.randn(3, groups, columns, width), torch.randn(lanes, groups, own, width)) for _ in range(2)]
    readers = Readers(seen, prompt_of)
    found = look_at_both(query, *(Shared(*part, readers) for part in parts), mask, None)

    key, value = (
        torch.cat([prompts[prompt_of], mine], 2).repeat_interleave(heads // groups, 1) for prompts, mine in parts
    )
    whole = torch.cat([seen[prompt_of][:, None, None], mask], -1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=whole)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    decoding = Decoding(4000, temperature=1.0)
    lane = Lane([1, 2, 3], decoding)
    for _ in range(4000):
        lane.ids += choose(logits[None], [lane])
    shares = torch.bincount(torch.tensor(lane.ids), minlength=4) / 4000
    assert torch.allclose(shares, logits.exp(), atol=0.03)

    narrow = Lane([1], Decoding(500, temperature=1.0, top_p=0.7))
    for _ in range(500):
        narrow.ids += choose(logits[None], [narrow])
    assert set(narrow.ids) == {0, 1}, "0.5 and 0.3 together are the shortest beginning with 0.7"


def test_near_ties_are_counted():
    lane = Lane([1], Decoding(2))
    assert choose(torch.tensor([[1.0, 1.00005, 0.0]]), [lane]) == [1]
    assert choose(torch.tensor([[1.0, 1.1, 0.0]]), [lane]) == [1]
    assert lane.near_ties == 1


def test_near_ties_that_nobody_counts_are_not_none_of_them(tiny_model: Path):
    model = lively(tiny_model)
    rows = encoded(model, 2)
    assert [type(each[0].near_ties) for each in TorchEngine(model).candidates(rows, GREEDY)] == [int, int]
    assert [each[0].near_ties for each in TorchEngine(model).candidates(rows, BEAMS)] == [None, None]
    assert model.generate(rows[:1], GREEDY)[0][0].near_ties is None
    assert (total([2, 3]), total([2, None, 3]), total([])) == (5, None, 0)


def test_a_prompts_front_is_read_once(tiny_llama: Path):
    model = lively(tiny_llama)
    engine = TorchEngine(model)
    read: list[int] = []
    model.network.get_input_embeddings().register_forward_hook(lambda m, args, out: read.append(args[0].numel()))
    rows = encoded(model, 3)
    engine.candidates(rows[:1], Decoding(1))
    engine.candidates(rows[1:2], Decoding(1))

    front = len(model.front_ids)
    assert front >= 8
    assert read == [front, len(rows[0].prompt_ids) - front, len(rows[1].prompt_ids) - front]


def test_encoder_states_are_kept_for_the_next_adapter_in_the_decoder(tiny_t5: Path, data: Path, tmp_path: Path):
    run = finetune(settings=small_settings(tiny_t5, data) | {"lora.target": "decoder"}, out=tmp_path / "run")
    summarizer = Summarizer.load(run)
    calls: list[int] = []
    summarizer.model.network.get_encoder().register_forward_hook(lambda m, args, out: calls.append(1))

    tuned = summarizer.generate(["a text"])
    with summarizer.model.untuned():
        untuned = summarizer.generate(["a text"])

    assert len(calls) == 1
    assert tuned != untuned


def test_a_stream_is_the_summary_in_pieces(tiny_model: Path):
    model = lively(tiny_model)
    row = encoded(model, 4)[3]
    *pieces, whole = TorchEngine(model).stream(row, Decoding(30))

    assert isinstance(whole, Generation)
    assert "".join(map(str, pieces)) == whole.text == model.generate([row], Decoding(30))[0][0].text
    assert len(pieces) > 1


def test_requests_join_those_under_way(tiny_model: Path):
    model = lively(tiny_model)
    rows = encoded(model, 12)
    with LiveEngine(TorchEngine(model)) as live:
        futures = [live.submit(row, Decoding(5 + n)) for n, row in enumerate(rows)]
        found = [future.result(30)[0] for future in futures]

    assert [g.text for g in found] == [model.generate([r], Decoding(5 + n))[0][0].text for n, r in enumerate(rows)]


@pytest.mark.parametrize("when", [0, 1, 4])
def test_jobs_that_are_dropped_leave_the_others_as_they_were(tiny_model: Path, when: int):
    model = lively(tiny_model)
    jobs = [Job(row, Decoding(12), number) for number, row in enumerate(encoded(model, 7))]
    jobs.append(Job(jobs[0].row, SAMPLED, 7))
    flight = Flight(TorchEngine(model))
    for job in jobs[:6]:
        flight.add(job)
    done = [job for _ in range(when) for job in flight.step()]
    flight.add(jobs[6])
    flight.add(jobs[7])
    flight.drop([jobs[0], jobs[3], jobs[6]])
    while flight.jobs:
        done += flight.step()
    stay = {1, 2, 4, 5, 7}
    assert {job.number for job in done} >= stay
    for job in done:
        if job.number in stay - {7}:
            assert job.generations[0].text == model.generate([job.row], Decoding(12))[0][0].text
    flight.add(jobs[6])
    flight.drop([jobs[6]])
    assert not flight.jobs
    assert not flight.lanes


def test_a_live_engine_tells_each_request_its_own_error(tiny_llama: Path):
    model = lively(tiny_llama)
    good = encoded(model, 1)[0]
    with LiveEngine(TorchEngine(model)) as live:
        bad = live.submit(Encoded([10**9], []), GREEDY)
        with pytest.raises(IndexError):
            bad.result(30)
        assert live.submit(good, GREEDY).result(30)[0].text
    assert not any(thread.name == "tomtat-engine" for thread in threading.enumerate())
    with pytest.raises(RuntimeError):
        live.submit(good, GREEDY)


def test_growing_layers_keep_what_they_are_given():
    torch.manual_seed(0)
    layer = GrowingLayer()
    expected: list[torch.Tensor] = []
    for length in (5, 1, 1, 70, 1):
        new = torch.randn(4, 2, length, 3)
        expected.append(new)
        keys, values = layer.update(new, -new)
        assert torch.equal(keys, torch.cat(expected, 2))
        assert torch.equal(values, -keys)
    whole = torch.cat(expected, 2)
    order = order_of([0, 2, 3])
    assert order == [0, 3, 2]
    layer.keep(order)
    assert torch.equal(layer.keys, whole[order])
    layer.repeat(2)
    assert torch.equal(layer.keys, whole[order].repeat_interleave(2, 0))


def test_eight_bits_stay_close_and_the_likeliest_logits_are_exact():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 300, bias=False)
    inputs = torch.randn(5, 7, 64) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0, 1.0, 1.0])[None, :, None]
    exact = linear(inputs)

    rounded = Int8Linear(linear)(inputs)
    # One scale a token: the large ones don't round the small ones away.
    error = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < 0.05

    logits = Int8Head(linear)(inputs)
    best, place = exact.topk(8)
    torch.testing.assert_close(logits.gather(-1, place), best, atol=1e-5, rtol=1e-5)
    zero = Int8Linear(linear)(torch.zeros(1, 64))
    assert torch.isfinite(zero).all()


def test_eight_bits_with_a_bias():
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 16)
    inputs = torch.randn(4, 32) * 10
    error = (Int8Linear(linear)(inputs) - linear(inputs)).norm() / linear(inputs).norm()
    assert error < 0.05


def test_without_vnni_eight_bits_are_seven_and_near(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    test_eight_bits_stay_close_and_the_likeliest_logits_are_exact()
    test_eight_bits_with_a_bias()


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="the other kernel rounds by its company")
def test_eight_bits_do_not_depend_on_their_company():
    torch.manual_seed(0)
    layer = Int8Linear(torch.nn.Linear(64, 48))
    inputs = torch.randn(6, 64) * torch.tensor([1.0, 100.0, 0.0, 1e-12, 1.0, 3.0])[:, None] + 2.0
    together, few = layer(inputs), layer(inputs[:FEW_TOKENS])
    assert all(torch.equal(layer(inputs[[n, 5, 4, 3, 2]])[0], together[n]) for n in range(6))
    assert all(torch.equal(layer(inputs[n : n + 1])[0], few[n]) for n in range(FEW_TOKENS))
    for n in range(FEW_TOKENS):  # by another kernel
        assert (few[n] - together[n]).norm() < 0.02 * together[n].norm()


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="the other kernel rounds activations of any number")
def test_of_a_few_tokens_only_the_weights_are_rounded():
    torch.manual_seed(0)
    plain = torch.nn.Linear(256, 48, bias=False)
    layer, inputs = Int8Linear(plain), torch.randn(8, 256)
    inputs[:, 0] = 300.0  # an outlier that takes all levels of its token
    with torch.no_grad():
        plain.weight[:, 0] = 0.0
        layer = Int8Linear(plain)
        exact = plain(inputs)
    few, many = ((layer(inputs[:n]) - exact[:n]).norm() / exact[:n].norm() for n in (FEW_TOKENS, 8))
    assert few < 0.02 < 0.2 < many


def test_layers_side_by_side_say_what_each_says_alone():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, size, bias=size != 16) for size in (48, 16, 16)]
    alone, together = [Int8Linear(layer) for layer in layers], Int8Linear.side_by_side(layers)
    assert len({id(part._product) for part in together}) == 1
    one, other = torch.randn(2, 5, 64), torch.randn(2, 5, 64)
    for inputs in (one, one, other):
        for part, single in zip(together, alone, strict=True):
            torch.testing.assert_close(part(inputs), single(inputs))
    for part, single, inputs in zip(together, alone, (one, other, one), strict=True):
        torch.testing.assert_close(part(inputs), single(inputs))


@pytest.mark.parametrize("width", [8, 20, 24, 40, 48, 100, 1365])
def test_eight_bits_take_inputs_of_any_width_and_number(width: int):
    torch.manual_seed(0)
    plain = torch.nn.Linear(width, 24)
    layer, inputs = Int8Linear(plain), torch.randn(6, width)
    exact = plain(inputs).detach()
    for tokens in (1, 3, 6):
        assert (layer(inputs[:tokens]) - exact[:tokens]).norm() < 0.05 * exact[:tokens].norm()
    assert layer(inputs[:0]).shape == (0, 24)
    assert layer(inputs[:0, None]).shape == (0, 1, 24)


@pytest.mark.parametrize("has_run", [False, True])
def test_a_copy_of_a_packed_layer_has_weights_of_its_own(has_run: bool):
    network = torch.nn.ModuleDict({name: torch.nn.Linear(32, 16) for name in ("q_proj", "k_proj", "v_proj")})
    pack(network)
    inputs = torch.randn(3, 32)
    if has_run:
        network["k_proj"](inputs)
    for copied in (copy.deepcopy(network["k_proj"]), pickle.loads(pickle.dumps(network["k_proj"]))):
        assert type(copied) is torch.nn.Linear
        torch.testing.assert_close(copied(inputs), network["k_proj"](inputs))
        copied.weight.data.zero_()
        torch.testing.assert_close(copied(inputs), copied.bias.expand(3, 16))
    assert network["k_proj"].weight.any()


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="the other kernel rounds within the product")
def test_layers_that_read_the_same_states_later_round_them_once(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    one, other = Int8Linear(torch.nn.Linear(32, 8)), Int8Linear(torch.nn.Linear(32, 8))
    states, between, few = torch.randn(2, 100, 32), torch.randn(2, 100, 32), torch.randn(9, 32)
    expected = other(states.clone())
    one(states)
    one(few)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "amin", None)
        assert torch.equal(other(states), expected)
    one(between)
    assert torch.equal(other(states), expected), "others in between take their place"


def test_what_reads_the_same_inputs_is_one_product(tiny_t5: Path, tiny_llama: Path):
    def products(folder: Path, *names: str) -> int:
        network = lively(folder).network
        quantize(network)
        return len({id(network.get_submodule(name)._product) for name in names})

    own, cross = "decoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.1.EncDecAttention"
    assert products(tiny_t5, *(f"{own}.{name}" for name in "qkv")) == 1
    assert products(tiny_t5, *(f"{cross}.{name}" for name in "qkv")) == 3, "the query does not read the encoder"
    assert products(tiny_llama, *(f"model.layers.0.self_attn.{name}_proj" for name in "qkvo")) == 2
    assert products(tiny_llama, *(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down"))) == 2


def test_keys_kept_in_bf16_hardly_change_what_comes_next(tiny_model: Path):
    model = lively(tiny_model)
    rows = encoded(model, 5)

    def logits() -> torch.Tensor:
        with torch.inference_mode(), quick_attention():
            lanes = model.start(rows, Remembered())
            lanes.advance([[9]] * 5)
            lanes.keep([0, 4, 2])
            lanes.join(model.start(rows[3:], Remembered()))
            lanes.advance([[11]] * 5)
            return lanes.logits

    exact = logits()
    keep_keys_in(model.network, torch.bfloat16)
    rounded = logits()
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.08 * exact.norm()


def test_packed_layers_are_exact_and_follow_their_weights():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.ReLU(), torch.nn.Linear(96, 24, bias=False))
    inputs = torch.randn(3, 5, 48)
    plain = network(inputs)
    pack(network)
    torch.testing.assert_close(network(inputs), plain)

    with torch.no_grad():
        network[0].weight += 1.0  # in place, as an optimizer does
        network[2].weight = torch.nn.Parameter(torch.randn(24, 96))  # another one, as a folded adapter does
    again = torch.nn.functional.linear(inputs, network[0].weight, network[0].bias).relu() @ network[2].weight.t()
    torch.testing.assert_close(network(inputs), again, rtol=1e-4, atol=1e-4)
    assert set(network.state_dict()) == {"0.weight", "0.bias", "2.weight"}
    assert pays_here(torch.float32) in (True, False)
    assert pays_here(torch.bfloat16) in (True, False)
    assert not pays_here(torch.float16)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bf16")
def test_packed_layers_are_the_same_in_bf16():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.ReLU(), torch.nn.Linear(96, 24, bias=False))
    network = network.to(torch.bfloat16)
    for tokens in (1, 7, 300):
        inputs = torch.randn(tokens, 48, dtype=torch.bfloat16)
        plain = network(inputs)
        pack(packed := copy.deepcopy(network))
        torch.testing.assert_close(packed(inputs), plain)


def test_a_quantized_network_has_no_wide_layer_left(tiny_model: Path):
    model = lively(tiny_model)
    quantize(model.network)
    assert not any(isinstance(module, torch.nn.Linear) for module in model.network.modules())
    assert all(len(each[0].text) >= 0 for each in TorchEngine(model).candidates(encoded(model, 3), GREEDY))


# Adapters


@pytest.fixture
def two_runs(tiny_model: Path, data: Path, tmp_path: Path) -> tuple[Path, Path]:
    settings = small_settings(tiny_model, data) | {"train.learning_rate": 0.05}
    runs = [
        finetune(settings=settings | {"seed": seed, "lora.target": target}, out=tmp_path / f"run-{seed}")
        for seed, target in ((0, "all-linear"), (1, "attention"))
    ]
    return runs[0].adapter_path, runs[1].adapter_path


@pytest.mark.parametrize("is_packed", [False, True])
def test_adapters_are_swapped_by_name_without_a_trace(
    two_runs: tuple[Path, Path], is_packed: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tomtat.models.packed.pays_here", lambda _dtype: is_packed)
    first, second = two_runs
    texts = [f"#Person1#: can we meet at {n}?" for n in range(6)]
    alone = [[s.text for s in Summarizer.load(path).generate(texts)] for path in two_runs]
    assert alone[0] != alone[1]

    summarizer = Summarizer.load(first)
    adapters = summarizer.model.adapters
    base_weights = {n: p.clone() for n, p in load_base_of(summarizer).items()}
    adapters.add("second", second)
    found = []
    for name in ("second", "default", None, "second", "default"):
        adapters.use(name)
        found.append([s.text for s in summarizer.generate(texts)])

    assert found[0] == found[3] == alone[1]
    assert found[1] == found[4] == alone[0]
    adapters.use(None)
    for name, weight in load_base_of(summarizer).items():
        assert torch.equal(weight, base_weights[name]), name
    adapters.use("default")
    with pytest.raises(RunError, match="at work"):
        adapters.remove("default")
    adapters.remove("second")
    with pytest.raises(RunError, match="no adapter 'second'"):
        adapters.use("second")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_gives_the_same_weights_loaded_first_or_chosen_later(two_runs: tuple[Path, Path], precision: str):
    def weights(model: Any) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in model.network.named_parameters() if "lora_" not in name}

    alone = [weights(load_trained(path, "cpu", precision, fold=True)[0]) for path in two_runs]
    model, _ = load_trained(two_runs[0], "cpu", precision, fold=True)
    model.adapters.add("second", two_runs[1])
    for name, expected in (("second", alone[1]), ("default", alone[0]), ("second", alone[1])):
        model.adapters.use(name)
        found = {key.replace(".base_layer", ""): weight for key, weight in weights(model).items()}
        for key, weight in expected.items():
            assert torch.equal(found[key.replace(".base_layer", "")], weight), (name, key)


def test_eight_bits_have_no_untuned_self(two_runs: tuple[Path, Path]):
    summarizer = Summarizer.load(two_runs[0], engine="torch-int8")
    with pytest.raises(RunError, match="8 bits"), summarizer.model.untuned():
        pass
    with pytest.raises(RunError, match="can't be added"):
        summarizer.model.adapters.add("second", two_runs[1])


def test_an_adapter_replaced_under_its_name_forgets_the_old_one(two_runs: tuple[Path, Path]):
    first, second = two_runs
    texts = [f"#Person1#: can we meet at {n}?" for n in range(6)]
    alone = [s.text for s in Summarizer.load(first).generate(texts)]

    summarizer = Summarizer.load(first)
    adapters = summarizer.model.adapters
    adapters.add("other", second)
    adapters.use("other")
    assert [s.text for s in summarizer.generate(texts)] != alone
    adapters.use("default")
    adapters.add("other", first)
    adapters.use("other")
    assert [s.text for s in summarizer.generate(texts)] == alone


def load_base_of(summarizer: Summarizer) -> dict[str, torch.Tensor]:
    """The base's own weights, whatever adapter is at work."""
    with summarizer.model.untuned():
        return {
            name.replace(".base_layer", ""): parameter.detach().clone()
            for name, parameter in summarizer.model.network.named_parameters()
            if "lora_" not in name
        }


def test_an_adapter_that_does_not_fit_leaves_the_others_at_work(two_runs: tuple[Path, Path], tmp_path: Path):
    summarizer = Summarizer.load(two_runs[0])
    before = summarizer.generate(["a text"])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match="does not fit"):
        summarizer.model.adapters.add("broken", broken)
    assert summarizer.generate(["a text"]) == before
    with pytest.raises(RunError, match="letters"):
        summarizer.model.adapters.add("../up", two_runs[1])


# Choosing


def test_auto_tries_once_and_takes_the_fastest_that_says_the_same(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    tries: list[int] = []
    results = [Tried("torch", 2.0, 1.0), Tried("torch-int8", 0.5, 0.9), Tried("ctranslate2", 1.0, 0.95)]
    monkeypatch.setattr(probe_module, "_try", lambda where: (tries.append(1), results)[1])
    told: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "note", told.append)
    where = Place(str(tiny_llama), "cpu", "fp32", None)

    assert fastest(where, progress) == fastest(where, progress) == "ctranslate2"
    assert len(tries) == 1
    assert "torch-int8 0.5 s (goes on as torch does in 90.0% of tokens)" in told[-1]
    (tmp_path / "cache" / "engines.json").write_text("{half")
    assert fastest(where, progress) == "ctranslate2"
    assert len(tries) == 2


def test_auto_probes_for_real(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    summarizer = Summarizer.load(tiny_model, engine="auto", device="cpu")
    assert summarizer("a text") == summarizer("a text")
    tried = next(iter(json.loads((tmp_path / "cache" / "engines.json").read_text()).values()))
    assert [one["engine"] for one in tried] == ["torch", "torch-int8", "ctranslate2", "ctranslate2-float32"]
    assert all(one["seconds"] > 0 or one["problem"] for one in tried)


def test_only_what_follows_the_same_beginning_is_compared():
    said = "they meet on friday at noon".split()
    assert agreement([(said, said), (said, [*said[:2], "at", "noon"])]) == 8 / 9
    assert agreement([(said, said[:3])]) == 3 / 4, "one that ends earlier parts there"
    assert agreement([([], [])]) == 1.0
    assert agreement([(["they"], ["we"])]) == 0.0


@pytest.mark.parametrize(("wrong", "chosen"), [(1.0, "torch-int8"), (1.0001, "torch-int8"), (2.0, "torch")])
def test_an_engine_with_a_wrong_scale_is_not_taken_and_one_that_rounds_is(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float, chosen: str
):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(probe_module, "ALTERNATIVES", ("torch-int8",))
    timed = probe_module._timed
    by_name = {"torch": 2.0, "torch-int8": 1.0}
    monkeypatch.setattr(probe_module, "_timed", lambda engine, rows: (by_name[engine.name], timed(engine, rows)[1]))

    def made(name: str, where: Place) -> TorchEngine:
        model = lively(tiny_llama)
        if name != "torch":
            model.network.model.layers[0].mlp.down_proj.weight.data *= wrong
        return TorchEngine(model, name=name)

    monkeypatch.setattr(probe_module, "make_engine", made)
    assert fastest(Place(str(tiny_llama), "cpu", "fp32", None), Progress()) == chosen


def test_unknown_engines_are_refused(tomtat: Callable[..., Any], tiny_llama: Path, tmp_path: Path):
    text = tmp_path / "a.txt"
    text.write_text("one")
    result = tomtat("summarize", tiny_llama, text, "--engine", "warp")
    assert (result.code, result.err.strip()) == (
        2, "tomtat: 'warp' is no engine. Take torch, torch-int8, ctranslate2, ctranslate2-float32, auto.",
    )  # fmt: skip
    result = tomtat("summarize", tiny_llama, text, "--set", "lora.rank=3")
    assert result.code == 2
    with pytest.raises(ConfigError, match="runs on the CPU"):
        Summarizer.load(tiny_llama, engine="torch-int8", device="cuda")


ctranslate2 = pytest.importorskip("ctranslate2", reason="pip install 'tomtat[ctranslate2]'")


def test_ctranslate2_writes_what_torch_writes(tiny_model: Path, data: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    run = finetune(settings=small_settings(tiny_model, data), out=tmp_path / "run")
    texts = [f"#Person1#: can we meet on monday at {n}? " * (1 + n % 3) for n in range(9)]

    torch_says = Summarizer.load(run).generate(texts)
    for attempt in ("converted", "from the cache"):
        fast = Summarizer.load(run, engine="ctranslate2-float32").generate(texts)
        assert [s.text for s in fast] == [s.text for s in torch_says], attempt
        assert [s.finish_reason for s in fast] == [s.finish_reason for s in torch_says]
        assert [s.new_tokens for s in fast] == [s.new_tokens for s in torch_says]
    assert len(list((tmp_path / "cache" / "ctranslate2").glob("*/model.bin"))) == 1


def test_ctranslate2_draws_candidates(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    summarizer = Summarizer.load(tiny_model, engine="ctranslate2-float32", device="cpu")
    rows = [summarizer.model.encode(text, None, 100) for text in ("one", "two two")]
    found = summarizer.engine.candidates(rows, Decoding(6, temperature=1.0, candidates=3))
    assert [len(each) for each in found] == [3, 3]
    if not summarizer.model.is_encoder_decoder:
        with pytest.raises(ConfigError, match="torch"):
            summarizer.engine.candidates(rows, Decoding(6, no_repeat_ngram=3))
