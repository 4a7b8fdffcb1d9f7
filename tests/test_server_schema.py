"""The OpenAPI document keeps its word: requests made from it by the thousand, good and bad, alone and in chains."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from schemathesis.python.asgi import HOST, shutdown_lifespans

from memory_fakes import FakeSummarizer, talk
from server_fakes import MODEL, FakeModels
from tomtat.memory import ChatMemory
from tomtat.server import ServerSettings, create_app
from tomtat.store import open_store
from upstream_fake import FakeUpstream, running

HERE = "chat-1"
THERE = {
    "path.conversation_id": [HERE], "path.item_id": ["msg_1_0", "msg_2_0"], "path.model": [MODEL, "gone"],
}  # fmt: skip
"""What is there to be asked for. Half of the requests ask for what Schemathesis makes up."""
SETTINGS: dict[str, Any] = {
    "seed": 20,
    "dictionaries": {name.partition(".")[2]: {"values": values} for name, values in THERE.items()},
    "parameters": {name: {"dictionary": name.partition(".")[2], "probability": 0.5} for name in THERE},
    # A message without a role, a budget that nothing fits in: a request may be wrong in ways that no schema tells.
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "401", "403", "404", "409", "429"]}},
}


@schemathesis.serializer("application/jsonl")
def json_lines(ctx: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@dataclass
class Tried:
    cases: Counter[str] = field(default_factory=Counter)
    """By operation."""
    statuses: Counter[int] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    """What a check had against an answer, with the request as a line of curl."""


def attempt(app: Any, examples: int, phases: Sequence[str]) -> Tried:
    """All checks of Schemathesis; so many examples of each operation, good and bad."""
    config = SchemathesisConfig.from_dict({
        **SETTINGS,
        "generation": {"max-examples": examples, "deterministic": True, "no-shrink": True, "database": "none"},
        "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
    })  # fmt: skip
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    tried = Tried()
    for event in from_schema(schema.exclude(method="DELETE") if "stateful" not in phases else schema).execute():
        match event:
            case events.FatalError():
                raise event.exception
            case events.NonFatalError():
                tried.complaints.append(f"{event.label}: {event.value!r}")
            case events.ScenarioFinished() | events.FuzzScenarioFinished():
                note(event.recorder, tried)
    return tried


def note(recorder: Any, tried: Tried) -> None:
    for case_id, exchange in recorder.interactions.items():
        tried.cases[recorder.cases[case_id].value.operation.label] += 1
        tried.statuses[exchange.response.status_code if exchange.response else 0] += 1
    for checks in recorder.checks.values():
        for check in checks:
            if check.status == Status.FAILURE:
                failure = check.failure_info
                tried.complaints.append(f"{recorder.label}, {check.name}: {failure.failure}\n{failure.code_sample}")


@pytest.mark.parametrize(
    ("examples", "phases", "at_least"),
    [
        (12, ["fuzzing"], 200),
        pytest.param(20, ["coverage", "fuzzing"], 1000, marks=pytest.mark.slow),
        pytest.param(40, ["examples", "coverage", "fuzzing", "stateful"], 2000, marks=pytest.mark.slow),
    ],
)
def test_answers_are_as_documented(
    examples: int, phases: list[str], at_least: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Conversations are erased only where others are begun, with stateful chains."""
    with running(FakeUpstream()) as upstream, open_store(tmp_path / "chats.db") as store:
        with ChatMemory(FakeSummarizer(), store) as memory:
            memory.append(HERE, talk(40), user="ann")
            memory.wait(60)
        settings = ServerSettings(hosts=(HOST,), upstreams={"fake": {"url": f"{upstream}/v1"}})
        try:
            tried = attempt(create_app(settings, store=store, models=FakeModels()), examples, phases)
        finally:
            shutdown_lifespans()
    # A message that no store can keep goes on to the upstream, which says what is wrong with it.
    told = {getattr(record, "fields", {}).get("kind") for record in caplog.records if record.levelname == "ERROR"}
    assert told <= {"StoreError"}, told
    count = tried.cases.total()
    kinds = sorted({complaint.partition("\n")[0] for complaint in tried.complaints})
    assert not tried.complaints, f"{len(tried.complaints)} of {count}: {kinds}\n" + "\n\n".join(tried.complaints[:20])
    assert not [status for status in tried.statuses if status >= 500 or status == 0], tried.statuses
    assert tried.statuses[200] > count / 20, f"most were refused: {tried.statuses}"
    assert count >= at_least, f"only {count} cases: {tried.cases}"
