"""The server's summarizers: over few bases, by turns, coming and going, whoever vanishes or fails."""

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memory_fakes import MANUAL, talk
from tiny_adapters import save_lively, save_random_adapter
from tomtat import Summarizer
from tomtat.config import ModelSettings, PromptSettings
from tomtat.engines import TorchEngine
from tomtat.engines.torch_engine import Flight
from tomtat.errors import ConfigError, RunError, TomtatError
from tomtat.memory import ChatMemory
from tomtat.models import Decoding, load_base
from tomtat.models.loading import add_adapter
from tomtat.progress import Progress
from tomtat.prompts import Prompt
from tomtat.server.errors import ApiError
from tomtat.server.lane import Lane, Voice, Work
from tomtat.server.memories import CurrentSummarizer
from tomtat.server.metrics import Metrics
from tomtat.server.models import Registry
from tomtat.server.services import Caller
from tomtat.server.settings import EMBEDDED, LimitSettings, RunSettings, ServerSettings
from tomtat.server.unloaded import Unloaded
from tomtat.store import open_store
from tomtat.types import Summary

ANNA = Caller("anna", "anna-1", "r1")
BEN = Caller("ben", "ben-1", "r2")
TEXTS = [f"#Person1#: can we meet at {n}?" for n in range(4)]
LONG = "\n".join(f"#Person{n % 2}#: the meeting number {n} moves from monday to friday." for n in range(40))


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively(tiny_llama, tmp_path_factory.mktemp("bases") / "lively")


@pytest.fixture(scope="module")
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters over one base; the second is asked in other words."""
    folder = tmp_path_factory.mktemp("runs")
    asked = Prompt("In a few short words, please: {text}", system="summarize")
    return (
        save_random_adapter(base, folder / "one", seed=1),
        save_random_adapter(base, folder / "two", seed=2, prompt=asked),
    )


@pytest.fixture(scope="module")
def alone(runs: tuple[Path, Path]) -> list[Summarizer]:
    return [Summarizer.load(path, device="cpu") for path in runs]


def registry(runs: dict[str, Any], **limits: Any) -> Registry:
    settings = ServerSettings(
        runs={name: run if isinstance(run, RunSettings) else RunSettings(run=str(run)) for name, run in runs.items()},
        limits=LimitSettings(**limits), device="cpu",
    )  # fmt: skip
    return Registry(settings, Metrics(), Progress())


@pytest.fixture
def using() -> Iterator[Callable[..., Any]]:
    """Run a coroutine function with a registry that is closed at the end."""

    def run(models: Registry, asked: Callable[[Registry], Any]) -> Any:
        async def all_of_it() -> Any:
            try:
                return await asyncio.wait_for(asked(models), 120)
            finally:
                await models.close()

        return asyncio.run(all_of_it())

    yield run
    assert not any(thread.name.startswith("tomtat-lane") for thread in threading.enumerate())


def texts_of(summaries: Sequence[Any]) -> list[str]:
    return [summary.text for summary in summaries]


async def told(stream: AsyncIterator[str | Summary]) -> tuple[list[str], Summary]:
    pieces: list[str] = []
    async for piece in stream:
        if isinstance(piece, Summary):
            return pieces, piece
        pieces.append(piece)
    raise AssertionError("the stream ended without its whole")


def test_runs_over_one_base_share_it_and_write_as_they_do_alone(
    runs: tuple[Path, Path], alone: list[Summarizer], base: Path, using: Callable[..., Any]
):
    async def ask(models: Registry) -> Any:
        return await asyncio.gather(
            *(models.summarize(ANNA, name, [*TEXTS, LONG], {}) for name in ("one", "two", "plain") for _ in range(3))
        )

    models = registry({"plain": base, "one": runs[0], "two": runs[1]})
    found = using(models, ask)

    untuned = Summarizer.load(base, device="cpu")
    expected = [texts_of(each.generate([*TEXTS, LONG])) for each in (*alone, untuned)]
    assert expected[0] != expected[1]
    assert [texts_of(each) for each in found] == [texts for texts in expected for _ in range(3)]
    assert found[0] == alone[0].generate([*TEXTS, LONG])
    assert found[0][-1].pieces > 1
    assert len(models._bases) == 1
    assert models.metrics.usage("anna")["summaries"] == 45


def test_streams_are_the_summary_in_pieces(runs: tuple[Path, Path], alone: list[Summarizer], using: Callable[..., Any]):
    async def ask(models: Registry) -> Any:
        asked = [(text, {}) for text in (*TEXTS, LONG)] + [(LONG, {"max_words": 3}), (LONG, {"candidates": 3})]
        return asked, await asyncio.gather(
            *(told(models.stream(ANNA, "one", text, generate)) for text, generate in asked)
        )

    asked, found = using(registry({"one": runs[0]}), ask)
    for (text, generate), (pieces, whole) in zip(asked, found, strict=True):
        assert "".join(pieces) == whole.text
        if not generate:
            assert whole == alone[0].generate([text])[0]
    assert max(len(pieces) for pieces, _ in found) > 1


def test_a_tuned_run_s_base_answers_beside_it_in_the_same_words_and_is_not_listed(
    runs: tuple[Path, Path], base: Path, using: Callable[..., Any]
):
    async def ask(models: Registry) -> Any:
        await loaded(models)
        (card,) = models.untuned("anna")
        assert (card.id, card.base, card.weights) == ("lively under annas", "lively", None)
        assert models.untuned("ben") == []
        assert models.ids("anna") == ["annas", "plain"]
        assert [one.id for one in models.cards("anna")] == ["annas", "plain"]
        with pytest.raises(ApiError, match="There is no model"):
            await models.summarize(BEN, card.id, TEXTS, {})
        found = await asyncio.gather(
            *(models.summarize(ANNA, name, [*TEXTS, LONG], {}) for name in ("annas", card.id) for _ in range(2))
        )
        await asyncio.to_thread(models.unload, "annas")
        assert models.untuned("anna") == []
        with pytest.raises(ApiError, match="There is no model"):
            await models.summarize(ANNA, card.id, TEXTS, {})
        return found

    annas = RunSettings(run=str(runs[1]), tenants=("anna",))
    found = using(registry({"annas": annas, "plain": base}), ask)
    own = Summarizer.load(runs[1], device="cpu")
    tuned = texts_of(own.generate([*TEXTS, LONG]))
    adapters = own.engine.model.adapters
    assert adapters is not None
    with adapters.using(None):
        untuned = texts_of(own.generate([*TEXTS, LONG]))
    assert tuned != untuned
    assert [texts_of(each) for each in found] == [tuned, tuned, untuned, untuned]


def test_what_is_asked_for_holds_for_one_request(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> Any:
        await loaded(models)
        short, usual = await asyncio.gather(
            models.summarize(ANNA, "one", TEXTS, {"max_words": 1}), models.summarize(ANNA, "one", TEXTS, {})
        )
        with pytest.raises(ConfigError, match="temperature changes nothing with decode 'greedy'"):
            await models.summarize(ANNA, "one", TEXTS, {"decode": "greedy", "temperature": 0.5})
        with pytest.raises(ConfigError, match="num_beams"):
            await models.summarize(ANNA, "one", TEXTS, {"num_beams": 2, "decode": "sample"})
        beams = await models.summarize(ANNA, "one", TEXTS, {"num_beams": 2, "max_new_tokens": 4})
        drawn = [await models.summarize(ANNA, "one", TEXTS, {"candidates": 3}) for _ in range(2)]
        assert models._bases[0].lane.waiting == 0
        return short, usual, beams, drawn

    short, usual, beams, drawn = using(registry({"one": runs[0]}), ask)
    own = Summarizer.load(runs[0], device="cpu")
    assert texts_of(usual) == texts_of(own.generate(TEXTS))
    own.ask_for({"max_words": 1})
    assert texts_of(short) == texts_of(own.generate(TEXTS))
    own = Summarizer.load(runs[0], device="cpu")
    own.ask_for({"num_beams": 2, "max_new_tokens": 4})
    assert texts_of(beams) == texts_of(own.generate(TEXTS))
    assert drawn[0] == drawn[1]


async def loaded(models: Registry) -> None:
    while models.waits_for:
        await asyncio.sleep(0.01)


# -- who sees what


def test_a_tenant_sees_its_own(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> None:
        assert models.waits_for in (None, "the summarizer all is being loaded", "the summarizer annas is being loaded")
        assert models.ids("anna") == ["all", "annas"]
        assert models.ids("ben") == ["all"]
        await loaded(models)
        assert [card.id for card in models.cards("ben")] == ["all"]
        for name in ("annas", "nobodys"):
            with pytest.raises(ApiError) as raised:
                await models.summarize(BEN, name, TEXTS, {})
            assert (raised.value.status, raised.value.message) == (404, f"There is no model {name!r}.")
            with pytest.raises(ApiError) as raised:
                await told(models.stream(BEN, name, TEXTS[0], {}))
            assert raised.value.status == 404
        card = models.cards("anna")[1]
        assert (card.base, card.max_source_tokens, card.max_new_tokens) == ("lively", 64, 12)
        assert card.weights
        assert "/" not in card.base

    annas = RunSettings(run=str(runs[1]), tenants=("anna",))
    using(registry({"all": RunSettings(run=str(runs[0])), "annas": annas}), ask)


def test_what_cannot_be_loaded_leaves_the_others_at_work(
    runs: tuple[Path, Path], tmp_path: Path, using: Callable[..., Any]
):
    async def ask(models: Registry) -> None:
        await asyncio.to_thread(lambda: [entry.loaded.exception() for entry in models._all()])
        assert models.waits_for == "the summarizer bad can't be loaded: see the log"
        assert (await models.summarize(ANNA, "good", TEXTS, {}))[0].pieces == 1
        with pytest.raises(ApiError) as raised:
            await models.summarize(ANNA, "bad", TEXTS, {})
        assert (raised.value.status, raised.value.code) == (503, "model_not_loaded")
        assert str(tmp_path) not in raised.value.message
        assert [card.id for card in models.cards("anna")] == ["good"]

    using(registry({"good": runs[0], "bad": broken(runs[0], tmp_path)}), ask)


def broken(run: Path, tmp_path: Path) -> Path:
    """An adapter of another shape, under a good name."""
    folder = Path(shutil.copytree(run, tmp_path / "broken"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    return folder


def test_without_summarizers_nothing_is_loaded_and_sentences_stand_in(using: Callable[..., Any], tmp_path: Path):
    async def asked(models: Registry) -> None:
        assert models.waits_for is None
        assert models.ids("anna") == models.cards("anna") == []
        with pytest.raises(ApiError, match="no model"):
            await models.summarize(ANNA, EMBEDDED, ["Hi"], {})

    models = Registry(ServerSettings(summarizers=False), Metrics(), Progress())
    using(models, asked)
    with open_store(tmp_path / "s.db") as store, ChatMemory(CurrentSummarizer(models), store, MANUAL) as memory:
        memory.append("chat", talk(80))
        memory.fold("chat")
        folds = memory.folds("chat")

    assert {fold.by for fold in folds} == {"extract"}


def test_summarizers_are_named_or_switched_off(runs: tuple[Path, Path]):
    with pytest.raises(ConfigError, match="no runs"):
        Registry(ServerSettings(runs={"one": RunSettings(run=str(runs[0]))}, summarizers=False), Metrics(), Progress())


def test_folds_are_made_with_a_run_that_is_there(runs: tuple[Path, Path]):
    with pytest.raises(ConfigError, match="folds_with"):
        Registry(ServerSettings(runs={"one": RunSettings(run=str(runs[0]))}, folds_with="two"), Metrics(), Progress())


def private(run: Path) -> RunSettings:
    return RunSettings(run=str(run), tenants=("anna",))


def test_a_private_summarizer_folds_nobodys_chats(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> None:
        await loaded(models)
        folding = models.folding()
        assert folding is not None
        assert folding.name == "all"

    using(registry({"annas": private(runs[1]), "all": runs[0]}), ask)


def test_where_each_summarizer_is_private_sentences_stand_in(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> None:
        await loaded(models)
        assert models.folding() is None

    using(registry({"annas": private(runs[1])}), ask)


def test_folds_with_a_private_summarizer_is_refused(runs: tuple[Path, Path]):
    settings = ServerSettings(runs={"all": RunSettings(run=str(runs[0])), "x": private(runs[1])}, folds_with="x")
    with pytest.raises(ConfigError, match="folds_with: 'x' is some tenants' own"):
        Registry(settings, Metrics(), Progress())


def test_who_folds_does_not_become_private(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> None:
        await loaded(models)
        with pytest.raises(ApiError) as raised:
            await asyncio.to_thread(models.load, "all", str(runs[1]), ("anna",))
        assert (raised.value.status, raised.value.code) == (409, "in_use")
        assert models.ids("ben") == ["all"]
        await asyncio.to_thread(models.load, "all", str(runs[1]), None)

    using(registry({"all": runs[0]}), ask)


# -- coming and going


def test_a_request_that_found_a_run_as_it_was_replaced_gives_it_back_once(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, using: Callable[..., Any]
):
    """The swap comes between the look-up and the work, at the first line that asks for anything else."""

    async def ask(models: Registry) -> None:
        await loaded(models)
        entry = models._entries["one"]
        swapped: list[bool] = []
        ready = type(entry.loaded).done

        def swap(future: Any) -> bool:
            if future is entry.loaded and not swapped and threading.current_thread() is threading.main_thread():
                swapped.append(True)
                models.load("one", str(runs[1]), None)
            return ready(future)

        monkeypatch.setattr(type(entry.loaded), "done", swap)
        await models.summarize(ANNA, "one", TEXTS, {})
        assert swapped
        [base] = models._bases
        assert base.voices == 1
        assert len(await models.summarize(ANNA, "one", TEXTS, {})) == 4

    using(registry({"one": runs[0]}), ask)


def test_a_run_that_is_used_when_it_goes_is_forgotten_once(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, using: Callable[..., Any]
):
    async def ask(models: Registry) -> None:
        await loaded(models)
        forgotten: list[str] = []
        forget = models._forget
        monkeypatch.setattr(models, "_forget", lambda entry: (forgotten.append(entry.id), forget(entry)))
        with models._in_use("one"), models._in_use("one", "anna"):
            await asyncio.to_thread(models.load, "one", str(runs[1]), None)
            assert forgotten == []
        assert forgotten == ["one"]
        with models._in_use("one"):
            pass
        await asyncio.to_thread(models.load, "one", str(runs[0]), None)
        assert forgotten == ["one", "one"]
        assert [base.voices for base in models._bases] == [1]

    using(registry({"one": runs[0]}), ask)


def test_a_run_is_replaced_while_requests_are_under_way(
    runs: tuple[Path, Path], alone: list[Summarizer], using: Callable[..., Any]
):
    async def ask(models: Registry) -> Any:
        await loaded(models)
        lane = models._bases[0].lane
        held = hold(lane)
        before = asyncio.create_task(models.summarize(ANNA, "one", TEXTS, {}))
        await until(lambda: lane.waiting == 1)
        loading = asyncio.create_task(asyncio.to_thread(models.load, "one", str(runs[1]), None))
        await asyncio.sleep(0)
        held.set()
        await loading
        after = await models.summarize(ANNA, "one", TEXTS, {})
        await before
        await until(lambda: lane.adapters is not None and lane.adapters.names == ["v1"])
        return before.result(), after

    before, after = using(registry({"one": runs[0]}), ask)
    assert texts_of(before) == texts_of(alone[0].generate(TEXTS))
    assert texts_of(after) == texts_of(alone[1].generate(TEXTS))


def hold(lane: Lane) -> threading.Event:
    """Keep its thread busy until the event is set."""
    go_on, has_begun = threading.Event(), threading.Event()

    def wait() -> None:
        has_begun.set()
        assert go_on.wait(60)

    lane.call(wait)
    assert has_begun.wait(60)
    return go_on


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.005)


def test_a_broken_folder_leaves_the_old_one_at_work(
    runs: tuple[Path, Path], alone: list[Summarizer], tmp_path: Path, using: Callable[..., Any]
):
    async def ask(models: Registry) -> Any:
        await loaded(models)
        for folder in (broken(runs[0], tmp_path), tmp_path / "nowhere", tmp_path):
            with pytest.raises(TomtatError):
                await asyncio.to_thread(models.load, "one", str(folder), None)
        pickled = tmp_path / "pickled"
        shutil.copytree(runs[0], pickled)
        (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
        with pytest.raises(RunError, match="can run code"):
            await asyncio.to_thread(models.load, "one", str(pickled), None)
        assert len(models._bases) == 1
        assert models._bases[0].voices == 1
        return await models.summarize(ANNA, "one", TEXTS, {})

    assert texts_of(using(registry({"one": runs[0]}), ask)) == texts_of(alone[0].generate(TEXTS))


def test_runs_come_and_go_until_none_is_left_of_a_base(
    runs: tuple[Path, Path], alone: list[Summarizer], base: Path, tiny_t5: Path, using: Callable[..., Any]
):
    async def ask(models: Registry) -> None:
        await loaded(models)
        for number in (0, 1, 0):
            await asyncio.to_thread(models.load, "more", str(runs[number]), ("ben",))
            assert models.ids("anna") == ["t5"]
            found = await models.summarize(BEN, "more", TEXTS, {})
            assert texts_of(found) == texts_of(alone[number].generate(TEXTS))
            assert len(models._bases) == 2
        lane = models._bases[1].lane
        await asyncio.to_thread(models.unload, "more")
        assert models.ids("ben") == ["t5"]
        assert len(models._bases) == 1
        await until(lambda: not lane._thread.is_alive())
        with pytest.raises(ApiError) as raised:
            await asyncio.to_thread(models.unload, "more")
        assert raised.value.status == 404
        with pytest.raises(ApiError) as raised:
            await asyncio.to_thread(models.unload, "t5")
        assert (raised.value.status, raised.value.code) == (409, "in_use")

    using(registry({"t5": tiny_t5}), ask)


def test_the_last_adapter_of_an_untuned_base_goes_and_another_comes(
    runs: tuple[Path, Path], alone: list[Summarizer], base: Path, using: Callable[..., Any]
):
    async def ask(models: Registry) -> Any:
        await loaded(models)
        plain = await models.summarize(ANNA, "plain", TEXTS, {})
        found = []
        for number in (0, 1):
            await asyncio.to_thread(models.load, "one", str(runs[number]), None)
            found.append(await models.summarize(ANNA, "one", TEXTS, {}))
            await asyncio.to_thread(models.unload, "one")
            assert await models.summarize(ANNA, "plain", TEXTS, {}) == plain
        assert len(models._bases) == 1
        return found

    found = using(registry({"plain": base}), ask)
    assert [texts_of(each) for each in found] == [texts_of(each.generate(TEXTS)) for each in alone]


def test_a_broken_first_adapter_leaves_an_untuned_base_as_it_was(runs: tuple[Path, Path], base: Path, tmp_path: Path):
    model = load_base(ModelSettings(name=str(base)), PromptSettings())
    before = Summarizer(TorchEngine(model), Decoding(12), 64).generate(TEXTS)
    names = [name for name, _ in model.network.named_parameters()]
    with pytest.raises(RunError, match="does not fit"):
        add_adapter(model, "broken", broken(runs[0], tmp_path))
    assert [name for name, _ in model.network.named_parameters()] == names
    assert Summarizer(TorchEngine(model), Decoding(12), 64).generate(TEXTS) == before
    add_adapter(model, "good", runs[0])
    model.adapters.use("good")
    assert Summarizer(TorchEngine(model), Decoding(12), 64).generate(TEXTS) != before


# -- too many, too slow, gone


def test_beyond_the_queue_it_is_429_and_a_place_is_free_again_when_somebody_goes(
    runs: tuple[Path, Path], using: Callable[..., Any]
):
    async def ask(models: Registry) -> None:
        await loaded(models)
        lane = models._bases[0].lane
        held = hold(lane)
        waiting = [asyncio.create_task(models.summarize(ANNA, "one", TEXTS[:1], {})) for _ in range(2)]
        await until(lambda: lane.waiting == 2)
        with pytest.raises(ApiError) as raised:
            await models.summarize(BEN, "one", TEXTS, {})
        assert (raised.value.status, raised.value.code) == (429, "queue_full")
        assert int(raised.value.headers["retry-after"]) >= 1
        with pytest.raises(ApiError) as raised:
            await told(models.stream(BEN, "one", TEXTS[0], {}))
        assert raised.value.status == 429
        waiting[0].cancel()
        await until(lambda: lane.waiting == 1)
        late = asyncio.create_task(models.summarize(BEN, "one", TEXTS, {}))
        await until(lambda: lane.waiting == 2)
        held.set()
        assert len(await late) == 4
        assert len(await waiting[1]) == 1
        assert lane.waiting == 0
        assert b"tomtat_queue 0.0" in models.metrics.text()

    using(registry({"one": runs[0]}, queue=2), ask)


def test_with_no_queue_one_at_a_time_is_answered(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> None:
        await loaded(models)
        assert await models.summarize(ANNA, "one", TEXTS, {}) == await models.summarize(ANNA, "one", TEXTS, {})
        held = hold(models._bases[0].lane)
        first = asyncio.create_task(models.summarize(ANNA, "one", TEXTS, {}))
        await until(lambda: models._bases[0].lane.waiting == 1)
        with pytest.raises(ApiError) as raised:
            await models.summarize(BEN, "one", TEXTS, {})
        assert raised.value.status == 429
        held.set()
        await first

    using(registry({"one": runs[0]}, queue=0), ask)


def test_what_takes_too_long_is_504_and_leaves_its_place(runs: tuple[Path, Path], using: Callable[..., Any]):
    async def ask(models: Registry) -> None:
        await loaded(models)
        lane = models._bases[0].lane
        held = hold(lane)
        for asked in (models.summarize(ANNA, "one", TEXTS, {}), told(models.stream(ANNA, "one", TEXTS[0], {}))):
            with pytest.raises(ApiError) as raised:
                await asked
            assert (raised.value.status, raised.value.code) == (504, "timeout")
        assert lane.waiting == 0
        assert all(entry.users == 0 for entry in models._all())
        held.set()

    using(registry({"one": runs[0]}, seconds=0.3), ask)


class Counting:
    """Steps of flights, those that are stopped on request among them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, int]] = []
        """What was decoded by whom: the engine's name, and how many lanes."""
        self.before: Callable[[], None] = lambda: None
        step = Flight.step

        def counted(flight: Flight) -> Any:
            self.before()
            self.steps.append((flight.engine.name, len(flight.jobs)))
            return step(flight)

        monkeypatch.setattr(Flight, "step", counted)


def test_who_goes_leaves_the_flight_between_two_tokens(
    runs: tuple[Path, Path], alone: list[Summarizer], monkeypatch: pytest.MonkeyPatch, using: Callable[..., Any]
):
    counting = Counting(monkeypatch)

    async def ask(models: Registry) -> Any:
        await loaded(models)
        # A step waits until the test says go on.
        turns = threading.Semaphore(0)
        counting.before = lambda: turns.acquire(timeout=60) and None
        stays = asyncio.create_task(models.summarize(ANNA, "one", TEXTS[:1], {}))
        goes = asyncio.create_task(models.summarize(BEN, "one", TEXTS[1:], {}))
        stream = models.stream(BEN, "one", TEXTS[0], {})
        first = asyncio.create_task(anext(stream))
        for _ in range(5):
            turns.release()
        await until(lambda: any(lanes == 5 for _, lanes in counting.steps))
        goes.cancel()
        with pytest.raises(asyncio.CancelledError):
            await goes
        turns.release(1000)
        await first
        await stream.aclose()
        found = await stays
        assert models._bases[0].lane._under_way == 0
        return found

    assert texts_of(using(registry({"one": runs[0]}), ask)) == texts_of(alone[0].generate(TEXTS[:1]))
    assert counting.steps[-1][1] == 1


def test_a_crash_is_told_to_those_in_it_and_to_nobody_else(
    runs: tuple[Path, Path], alone: list[Summarizer], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, using: Callable[..., Any],
):  # fmt: skip
    counting = Counting(monkeypatch)
    secret = "zanzibar"

    def crash() -> None:
        counting.before = lambda: None
        raise RuntimeError(secret)

    async def ask(models: Registry) -> Any:
        await loaded(models)
        counting.before = crash
        lost = asyncio.gather(
            models.summarize(ANNA, "one", TEXTS, {}), told(models.stream(BEN, "one", LONG, {})), return_exceptions=True
        )
        for error in await lost:
            if isinstance(error, BaseException):
                assert isinstance(error, ApiError)
                assert (error.status, error.code) == (500, "generation_failed")
                assert secret not in error.message
        assert any(isinstance(error, ApiError) for error in lost.result())
        return await models.summarize(ANNA, "one", TEXTS, {})

    assert texts_of(using(registry({"one": runs[0]}), ask)) == texts_of(alone[0].generate(TEXTS))
    assert "RuntimeError" in caplog.text
    assert secret not in caplog.text


def test_closing_finishes_what_was_taken_and_takes_no_more(runs: tuple[Path, Path], alone: list[Summarizer]):
    async def ask() -> Any:
        models = registry({"one": runs[0]})
        await loaded(models)
        lane = models._bases[0].lane
        held = hold(lane)
        taken = asyncio.create_task(models.summarize(ANNA, "one", [*TEXTS, LONG], {}))
        await until(lambda: lane.waiting == 1)
        closing = asyncio.create_task(models.close())
        await until(lambda: lane._is_closed)
        with pytest.raises(ApiError) as raised:
            await models.summarize(ANNA, "one", TEXTS, {})
        assert raised.value.status == 503
        held.set()
        await closing
        return await taken

    assert asyncio.run(ask()) == alone[0].generate([*TEXTS, LONG])


def test_what_is_not_done_in_time_is_given_up_at_the_end(runs: tuple[Path, Path]):
    async def ask() -> None:
        models = registry({"one": runs[0]}, stop_seconds=0.2)
        await loaded(models)
        lane = models._bases[0].lane
        held = hold(lane)
        taken = asyncio.create_task(models.summarize(ANNA, "one", TEXTS, {}))
        await until(lambda: lane.waiting == 1)
        await models.close()
        held.set()
        with pytest.raises(ApiError) as raised:
            await taken
        assert raised.value.status == 503
        await until(lambda: not lane._thread.is_alive())

    asyncio.run(ask())


# -- turns


def voices(base: Path, count: int) -> list[Voice]:
    """Summarizers over one network, told apart by their engines' names."""
    model = load_base(ModelSettings(name=str(base)), PromptSettings())
    return [Voice(Summarizer(TorchEngine(model, name=f"voice-{number}"), Decoding(40), 64)) for number in range(count)]


def work(voice: Voice, texts: Sequence[str], is_background: bool = False) -> Work:
    return Work(voice, [voice.summarizer.reading(text) for text in texts], is_background)


def test_summarizers_over_one_base_take_turns(base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tomtat.server.lane.TURN", 4)
    counting = Counting(monkeypatch)
    one, two, three = voices(base, 3)
    lane = Lane("turns")
    held = hold(lane)
    works = [work(one, TEXTS * 8), work(two, TEXTS), work(three, TEXTS), work(one, TEXTS[:1])]
    for each in works:
        lane.submit(each)
    held.set()
    for each in works:
        each.future.result(60)
    lane.close()
    names = [name for name, _ in counting.steps]
    turns = [len(list(group)) for _, group in itertools.groupby(names)]
    assert list(dict.fromkeys(names)) == ["voice-0", "voice-1", "voice-2"]
    first_of_each = [names.index(f"voice-{number}") for number in range(3)]
    assert first_of_each == [0, 4, 8]
    assert all(turn <= 4 for turn in turns[: len(turns) // 2])


def test_a_work_that_finds_no_room_for_its_line_is_told_and_the_lane_lives(base: Path):
    broken, sound = voices(base, 2)

    def no_flight() -> Any:
        raise MemoryError("zanzibar")

    broken.new_flight = no_flight  # type: ignore[method-assign]
    lane = Lane("room")
    lost = work(broken, TEXTS)
    lane.submit(lost)
    with pytest.raises(ApiError) as raised:
        lost.future.result(60)
    assert raised.value.code == "generation_failed"
    lane.submit(found := work(sound, TEXTS))
    assert len(found.future.result(60)) == 4
    lane.close()


def test_a_long_work_does_not_keep_out_a_short_one(base: Path):
    (voice,) = voices(base, 1)
    voice.engine.batch_tokens = 400  # type: ignore[attr-defined]
    lane = Lane("fair")
    held = hold(lane)
    long, short = work(voice, TEXTS * 20), work(voice, TEXTS[:1])
    ended: list[str] = []
    long.future.add_done_callback(lambda _: ended.append("long"))
    short.future.add_done_callback(lambda _: ended.append("short"))
    lane.submit(long)
    lane.submit(short)
    held.set()
    long.future.result(60)
    lane.close()
    assert ended == ["short", "long"]


def test_folds_stand_still_while_anybody_waits(base: Path, monkeypatch: pytest.MonkeyPatch):
    counting = Counting(monkeypatch)
    folds, asks = voices(base, 2)
    lane = Lane("folds", most_waiting=0)
    held = hold(lane)
    asked: list[Work] = []

    def ask_once() -> None:
        """In the middle of the fold."""
        if len(counting.steps) == 5:
            asked.append(work(asks, TEXTS))
            lane.submit(asked[0])

    counting.before = ask_once
    fold = work(folds, [*TEXTS, LONG], is_background=True)
    lane.submit(fold)
    assert lane.waiting == 0
    held.set()
    summaries = fold.future.result(60)
    lane.close()
    names = [name for name, _ in counting.steps]
    # The step at hand ends, the request goes through to its end, and the fold goes on where it stood.
    turns = [(name, len(list(group))) for name, group in itertools.groupby(names)]
    assert [name for name, _ in turns] == ["voice-0", "voice-1", "voice-0"]
    assert turns[0] == ("voice-0", 6)
    # One piece is read at a step.
    assert [lanes for name, lanes in counting.steps if name == "voice-0"][:3] == [1, 2, 3]
    assert summaries == folds.summarizer.generate([*TEXTS, LONG])


def test_folds_come_to_an_end_while_requests_never_do(base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tomtat.server.lane.PATIENCE", 3)
    counting = Counting(monkeypatch)
    folds, asks = voices(base, 2)
    lane = Lane("patience")
    held = hold(lane)
    fold = work(folds, TEXTS[:1], is_background=True)
    lane.submit(fold)
    asked = [work(asks, TEXTS * 4)]

    def ask_again() -> None:
        """A request is under way as long as the fold is."""
        if not fold.is_over and asked[-1].is_over:
            asked.append(work(asks, TEXTS * 4))
            lane.submit(asked[-1])

    lane.submit(asked[0])
    counting.before = ask_again
    held.set()
    fold.future.result(60)
    lane.close()
    turns = [(name, len(list(group))) for name, group in itertools.groupby(name for name, _ in counting.steps)]
    assert turns[:4] == [("voice-1", 3), ("voice-0", 1), ("voice-1", 3), ("voice-0", 1)]


def test_the_memory_folds_through_the_lane(
    runs: tuple[Path, Path], alone: list[Summarizer], tmp_path: Path, using: Callable[..., Any]
):
    chat = talk(60)

    async def ask(models: Registry) -> Any:
        with open_store(tmp_path / "store.db") as store, ChatMemory(models.folding(), store, settings=MANUAL) as memory:
            memory.append("c", chat)
            folding = asyncio.create_task(asyncio.to_thread(memory.fold, "c"))
            for _ in range(3):
                await models.summarize(ANNA, "one", TEXTS[:1], {})
            return await folding, models.folding().draw(TEXTS, 2), memory.context("c", 300)

    models = registry({"two": runs[1], "one": runs[0]}, queue=1)
    folded, drawn, context = using(models, ask)
    assert folded
    assert context
    assert texts_of(drawn[0]) == texts_of(alone[1].draw(TEXTS, 2)[0])
    assert models.folding().name == "two"
    assert models.metrics.usage("anna")["summaries"] > 0


def test_folding_can_be_ended_and_requests_go_on(
    runs: tuple[Path, Path], alone: list[Summarizer], using: Callable[..., Any]
):
    models = registry({"one": runs[0]})

    async def ask(models: Registry) -> Any:
        folding = models.folding()
        assert folding is not None
        under_way = asyncio.create_task(asyncio.to_thread(folding.draw, TEXTS * 200, 2))
        await asyncio.sleep(0.2)
        models.end_folding()
        with pytest.raises(asyncio.CancelledError):  # which asyncio makes of the other one
            await under_way
        with pytest.raises(asyncio.CancelledError):
            await asyncio.to_thread(folding.generate, TEXTS)
        return await models.summarize(ANNA, "one", TEXTS, {})

    assert texts_of(using(models, ask)) == texts_of(alone[0].generate(TEXTS))


def test_a_server_without_models_starts_without_torch_and_loads_one_when_told(runs: tuple[Path, Path], tmp_path: Path):
    program = "import sys; import tomtat.server.app; from tomtat.cli.serve import serve_command; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )

    models = Unloaded(ServerSettings(device="cpu", summarizers=False), Metrics(), Progress())
    assert (models.ids("anna"), models.cards("anna"), models.folding(), models.waits_for) == ([], [], None, None)
    with pytest.raises(ApiError, match="one"):
        models.unload("one")

    async def ask() -> Any:
        with pytest.raises(ApiError, match="one"):
            await models.summarize(ANNA, "one", TEXTS, {})
        await asyncio.to_thread(models.load, "one", str(runs[0]), None)
        found = await models.summarize(ANNA, "one", TEXTS, {})
        ids = models.ids("anna")
        await models.close()
        return found, ids

    found, ids = asyncio.run(ask())
    assert ids == ["one"]
    assert texts_of(found) == texts_of(Summarizer.load(runs[0], device="cpu").generate(TEXTS))


# -- engines and models of other kinds


@pytest.mark.parametrize("engine", ["torch-int8", "ctranslate2"])
def test_other_engines_have_a_lane_each(
    runs: tuple[Path, Path], engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, using: Callable[..., Any]
):
    if engine == "ctranslate2":
        pytest.importorskip("ctranslate2")
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    settings = ServerSettings(
        runs={name: RunSettings(run=str(run)) for name, run in zip(("one", "two"), runs, strict=True)},
        engine=engine, device="cpu",
    )  # fmt: skip

    async def ask(models: Registry) -> Any:
        found = await asyncio.gather(*(models.summarize(ANNA, name, [*TEXTS, LONG], {}) for name in ("one", "two")))
        pieces, whole = await told(models.stream(ANNA, "one", LONG, {}))
        assert "".join(pieces) == whole.text
        await asyncio.to_thread(models.load, "two", str(runs[0]), None)
        again = await models.summarize(ANNA, "two", [*TEXTS, LONG], {})
        assert len(models._bases) == 2
        return [*found, again]

    one, two, again = using(Registry(settings, Metrics(), Progress()), ask)
    assert texts_of(one) == texts_of(again)
    assert all(len(each) == 5 for each in (one, two))
    assert one[-1].pieces > 1


def test_encoder_decoders_take_turns_too(tiny_t5: Path, tmp_path: Path, using: Callable[..., Any]):
    base = save_lively(tiny_t5, tmp_path / "base")
    folders = [save_random_adapter(base, tmp_path / f"t5-{seed}", seed) for seed in (1, 2)]

    async def ask(models: Registry) -> Any:
        return await asyncio.gather(*(models.summarize(ANNA, name, [*TEXTS, LONG], {}) for name in ("a", "b") * 2))

    models = registry({"a": folders[0], "b": folders[1]})
    found = using(models, ask)
    expected = [texts_of(Summarizer.load(folder, device="cpu").generate([*TEXTS, LONG])) for folder in folders]
    assert [texts_of(each) for each in found] == expected * 2
    assert len(models._bases) == 1


@pytest.mark.slow
def test_with_no_runs_the_embedded_model_is_served(using: Callable[..., Any]):
    async def ask(models: Registry) -> Any:
        assert models.ids("anyone") == [EMBEDDED]
        await loaded(models)
        (summary,) = await models.summarize(ANNA, EMBEDDED, ["Nina is ill, so the meeting moves to Friday."], {})
        pieces, whole = await told(models.stream(ANNA, EMBEDDED, "Room four is painted.", {"max_new_tokens": 12}))
        return summary, pieces, whole, models.cards("anyone")[0]

    summary, pieces, whole, card = using(Registry(ServerSettings(device="cpu"), Metrics(), Progress()), ask)
    assert "Friday" in summary.text
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1
    assert (card.base, card.weights) == (EMBEDDED, None)
