"""Places, rates and days: who is let in, when to come again, and that every place is freed."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tomtat.server.admission import DayTokens, Gate
from tomtat.server.errors import ApiError
from tomtat.server.keys import Keys, add_key
from tomtat.server.metrics import Metrics
from tomtat.server.services import Caller
from tomtat.server.settings import LimitSettings

ANN = Caller("acme", "acme", "r-1")
BO = Caller("bolt", "bolt", "r-2")


class Time:
    """A clock and a calendar that go when they are told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.day = datetime(2030, 5, 1, 23, 59, 0, tzinfo=UTC)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.day += timedelta(seconds=seconds)


def gate_of(limits: dict[str, Any], keys: Keys | None = None, time: Time | None = None) -> Gate:
    time = time or Time()
    return Gate(LimitSettings(**limits), keys or Keys(None), Metrics(), clock=lambda: time.now, today=lambda: time.day)


async def enter(gate: Gate, caller: Caller = ANN) -> None:
    async with gate.request(caller):
        pass


def refusal(gate: Gate, caller: Caller = ANN) -> ApiError:
    with pytest.raises(ApiError) as refused:
        asyncio.run(enter(gate, caller))
    assert refused.value.status == 429
    return refused.value


# -- places


def test_when_all_places_are_taken_the_next_is_told_to_come_again():
    async def fill() -> None:
        gate = gate_of({"requests": 2})
        release = asyncio.Event()

        async def stay() -> None:
            async with gate.request(ANN):
                await release.wait()

        tasks = [asyncio.create_task(stay()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="places are taken") as refused:
            await enter(gate, BO)
        assert refused.value.headers["retry-after"] == "1"
        assert refused.value.code == "overloaded"
        release.set()
        await asyncio.gather(*tasks)
        await enter(gate, BO)
        assert gate.under_way == 0

    asyncio.run(fill())


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, ApiError])
def test_a_place_is_free_however_a_request_ends(error: type[BaseException]):
    async def end_badly() -> int:
        gate = gate_of({"requests": 1})
        for _ in range(3):
            with pytest.raises(error):
                async with gate.request(ANN):
                    raise error(400, "x") if error is ApiError else error()
        return gate.under_way

    assert asyncio.run(end_badly()) == 0


def test_a_task_begun_inside_a_request_is_a_request_of_its_own():
    """As a server does that begins a connection's next request while it sends the answer before."""

    async def from_inside() -> None:
        gate = gate_of({"requests": 1})
        async with gate.request(ANN):
            next_one = asyncio.create_task(enter(gate))
            with pytest.raises(ApiError, match="places are taken"):
                await next_one
        assert gate.under_way == 0

    asyncio.run(from_inside())


# -- rates


def test_a_rate_refills_over_the_minute_and_says_when():
    time = Time()
    gate = gate_of({"requests_per_minute": 3}, time=time)
    assert gate.headers(ANN)["x-ratelimit-remaining-requests"] == "3"
    for left in ("2", "1", "0"):
        asyncio.run(enter(gate))
        assert gate.headers(ANN)["x-ratelimit-remaining-requests"] == left
    error = refusal(gate)
    assert error.headers["retry-after"] == "20"
    assert error.headers["x-ratelimit-limit-requests"] == "3"
    time.pass_by(19.9)
    assert refusal(gate).headers["retry-after"] == "1"
    time.pass_by(0.2)
    asyncio.run(enter(gate))
    refusal(gate)
    time.pass_by(3600)
    assert gate.headers(ANN)["x-ratelimit-remaining-requests"] == "3"


def test_who_comes_when_told_is_let_in():
    time = Time()
    gate = gate_of({"requests_per_minute": 7}, time=time)
    for _ in range(30):
        try:
            asyncio.run(enter(gate))
        except ApiError as error:
            time.pass_by(float(error.headers["retry-after"]))
            asyncio.run(enter(gate))


def test_a_key_has_its_own_rate_and_others_are_not_slowed(tmp_path: Path):
    path = tmp_path / "keys.json"
    add_key(path, "acme", requests_per_minute=1)
    add_key(path, "bolt")
    gate = gate_of({"requests_per_minute": 2}, Keys.load(path))
    asyncio.run(enter(gate, ANN))
    refusal(gate, ANN)
    for _ in range(2):
        asyncio.run(enter(gate, BO))
    refusal(gate, BO)


def test_without_a_rate_there_are_no_headers_of_one():
    assert gate_of({}).headers(ANN) == {}


def test_a_refused_request_costs_no_place_and_no_turn():
    async def several() -> None:
        gate = gate_of({"requests": 1, "requests_per_minute": 2})
        async with AsyncExitStack() as inside:
            await inside.enter_async_context(gate.request(ANN))
            for _ in range(5):
                with pytest.raises(ApiError, match="places"):
                    await enter(gate)
        await enter(gate)
        with pytest.raises(ApiError, match="a minute"):
            await enter(gate)

    asyncio.run(several())


# -- days


def test_a_days_tokens_are_the_tenants_and_come_back_at_midnight(tmp_path: Path):
    path = tmp_path / "keys.json"
    add_key(path, "acme", tokens_per_day=100)
    add_key(path, "acme", name="acme-2", tokens_per_day=100)
    time = Time()
    gate = gate_of({}, Keys.load(path), time)
    gate.spent(ANN, 60)
    asyncio.run(enter(gate))
    gate.spent(Caller("acme", "acme-2", "r"), 60)
    error = refusal(gate)
    assert error.code == "insufficient_quota"
    assert error.headers["retry-after"] == "60"
    asyncio.run(enter(gate, BO))
    time.pass_by(60)
    asyncio.run(enter(gate))
    assert gate.tokens_today("acme") == 0


def test_a_day_is_kept_across_restarts_and_the_file_is_private(tmp_path: Path):
    path = tmp_path / "keys.json"
    add_key(path, "acme")
    keys = Keys.load(path)

    async def serve(tokens: int) -> int:
        gate = gate_of({}, keys)
        async with gate.saving():
            gate.spent(ANN, tokens)
            return gate.tokens_today("acme")

    assert asyncio.run(serve(70)) == 70
    assert asyncio.run(serve(5)) == 75
    written = tmp_path / "keys.json.usage"
    assert json.loads(written.read_text()) == {"day": "2030-05-01", "tokens": {"acme": 75}}
    assert written.stat().st_mode & 0o077 == 0


def test_processes_with_one_file_add_up_and_none_overwrites_another(tmp_path: Path):
    path = tmp_path / "usage"
    one, other = DayTokens(path), DayTokens(path)
    for tokens in (1, 2, 3):
        one.add("2030-05-01", "acme", tokens)
        other.add("2030-05-01", "acme", 10 * tokens)
        one.save()
        other.save()
    one.save()
    assert one.of("2030-05-01", "acme") == other.of("2030-05-01", "acme") == 66


def test_a_new_day_begins_with_nothing_in_the_file_too(tmp_path: Path):
    path = tmp_path / "usage"
    days = DayTokens(path)
    days.add("2030-05-01", "acme", 7)
    days.save()
    days.add("2030-05-02", "acme", 5)
    days.save()
    assert json.loads(path.read_text()) == {"day": "2030-05-02", "tokens": {"acme": 5}}
    late = DayTokens(path)
    late.add("2030-05-01", "acme", 100)
    late.save()
    assert json.loads(path.read_text())["tokens"] == {"acme": 5}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"day": "2030-05-01", "tokens": 3}', '{"day": 1, "tokens": {"a": "b"}}']
)
def test_a_damaged_file_stops_nobody(tmp_path: Path, content: str):
    path = tmp_path / "usage"
    path.write_text(content)
    days = DayTokens(path)
    days.save()
    days.add("2030-05-01", "acme", 4)
    days.save()
    assert json.loads(path.read_text())["tokens"] == {"acme": 4}


def test_a_file_that_cant_be_written_loses_no_count(tmp_path: Path):
    path = tmp_path / "usage"
    path.mkdir()
    days = DayTokens(path)
    days.add("2030-05-01", "acme", 4)
    days.save()
    assert days.of("2030-05-01", "acme") == 4
    path.rmdir()
    days.save()
    assert json.loads(path.read_text())["tokens"] == {"acme": 4}
