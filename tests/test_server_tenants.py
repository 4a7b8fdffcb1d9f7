"""Two tenants: one tries to reach what is the other's, by every address and every field that takes an id."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import httpx2
from starlette.testclient import TestClient

from memory_fakes import FakeSummarizer, talk
from server_fakes import FakeModels
from tomtat.server import ServerSettings, create_app
from tomtat.server.keys import add_key
from tomtat.store import Store, open_store
from upstream_fake import FakeUpstream, running

CANARY = "kumquat"
"""Said by the victim only: wherever the attacker reads it, something leaked."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")
THEIRS, NOBODYS = "alpha-model", "ghost-model"
ANN = "ann-kumquat"


@dataclass
class House:
    """A server with two tenants, from inside and from outside."""

    client: TestClient
    store: Store
    upstream: FakeUpstream
    models: FakeModels
    keys: dict[str, str]

    def ask(self, tenant: str, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        given = {"authorization": f"Bearer {self.keys[tenant]}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.client.request(method, path, json=body, headers=given)

    def victim(self, name: str) -> None:
        """A conversation of the victim's."""
        self.store.for_tenant("alpha").append(
            name, [{**turn, "content": f"{turn['content']} {CANARY} {name}."} for turn in talk(6)], user=ANN
        )

    def everything_of(self, tenant: str) -> list[dict[str, Any]]:
        return list(self.store.for_tenant(tenant).export())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    keys = tmp_path / "keys.json"
    made = {tenant: add_key(keys, tenant)[1] for tenant in ("alpha", "beta")}
    upstream = FakeUpstream()
    models = FakeModels({THEIRS: ("alpha",), "everyones": None})
    models.folder = FakeSummarizer(max_source_tokens=120)
    with open_store(tmp_path / "chats.db") as store, running(upstream) as address:
        settings = ServerSettings(
            keys=str(keys), budget_tokens=300, upstreams={"fake": {"url": f"{address}/v1"}}, runs_folder=str(tmp_path)
        )  # fmt: skip
        app = create_app(settings, store=store, models=models)
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
            yield House(client, store, upstream, models, made)


def shape(answer: httpx2.Response, name: str) -> tuple[int, str, dict[str, str]]:
    """What can be learned from an answer, but for ids that were given or are drawn, and the time."""

    def plain(text: str) -> str:
        text = text.replace(name, "NAME")
        text = re.sub(r"\b(req|resp|conv|chatcmpl|msg|cmp|fc|summ|item)[_-][0-9a-f]{8,}", r"\1_ID", text)
        return re.sub(r'("(?:at|created|created_at|updated)": ?)[0-9.]+', r"\1TIME", text)

    # An estimate of tokens has learned from the answer before; a time may have a digit fewer.
    headers = {
        key: plain(value)
        for key, value in answer.headers.items()
        if key not in ("x-request-id", "date", "content-length")
        and not key.startswith(("x-memory-tokens", "x-memory-counter"))
    }
    return answer.status_code, plain(answer.text), headers


def addresses(house: House) -> list[str]:
    """Of the document, those with a conversation's id in them."""
    paths = house.client.get("/openapi.json").json()["paths"]
    found = [path for path in paths if "{conversation_id}" in path]
    assert len(found) >= 8, found
    return found


def bodies(path: str) -> list[Any]:
    said = {"role": "user", "content": "What do you know?"}
    if path.endswith("/items"):
        return [None, {"items": [said]}]
    if path.endswith("/messages"):
        return [None, {"messages": [said]}, {"messages": [said], "after": 0}, {"messages": [said], "branch": 0}]
    return [None, {"metadata": {"note": "mine"}}]


def queries(path: str) -> list[str]:
    if path.endswith("/search"):
        return ["?query=kettle", "?query=kettle&branch=0"]
    if path.endswith("/context"):
        return ["", "?budget=50&query=kettle", "?branch=0"]
    return ["", "?limit=5"]


def attacks(house: House) -> Iterator[tuple[str, str, Any]]:
    for path in addresses(house):
        address = path.replace("{item_id}", "msg_1_0")
        for method in METHODS:
            for query in queries(path) if method in ("GET", "HEAD") else [""]:
                for body in bodies(path) if method in ("POST", "PUT", "PATCH") else [None]:
                    yield method, address + query, body


def test_another_tenants_conversation_is_as_good_as_none(house: House) -> None:
    """Each attack twice: at a name that is the victim's, and at one that is nobody's. The answers are the same."""
    tried = list(attacks(house))
    for number in range(len(tried)):
        house.victim(f"plan-{number:04}")
    before = house.everything_of("alpha")
    for number, (method, path, body) in enumerate(tried):
        learned = []
        for name in (f"plan-{number:04}", f"none-{number:04}"):
            answer = house.ask("beta", method, path.replace("{conversation_id}", name), body)
            learned.append(shape(answer, name))
            assert CANARY not in answer.text + str(answer.headers), (method, path)
            assert answer.status_code < 500, (method, path, answer.text)
            # Messages may begin a conversation of one's own; nothing else is there.
            own = method == "POST" and path.endswith("/messages") and body is not None
            assert own or answer.status_code in (400, 404, 405), (method, path, answer.status_code)
        assert learned[0] == learned[1], (method, path)
    assert len(tried) >= 100
    assert house.everything_of("alpha") == before
    assert CANARY not in json.dumps(house.everything_of("beta"))


def ways(name: str) -> list[tuple[str, str, Any, dict[str, str]]]:
    """Requests that name a conversation elsewhere than in their address."""
    said = [{"role": "user", "content": "What do you know?"}]
    model = {"model": "any"}
    found: list[tuple[str, str, Any, dict[str, str]]] = []
    for stream in (False, True):
        chat = {**model, "messages": said, "stream": stream}
        respond = {**model, "input": "What do you know?", "stream": stream}
        found += [
            ("POST", "/v1/chat/completions", chat, {"x_conversation_id": name}),
            ("POST", "/v1/chat/completions", chat, {"x_conversation_id": name, "x_conversation_turns": "new"}),
            ("POST", "/v1/chat/completions", {**chat, "metadata": {"conversation_id": name}}, {}),
            ("POST", "/v1/responses", {**respond, "conversation": name}, {}),
            ("POST", "/v1/responses", {**respond, "conversation": {"id": name}}, {}),
            ("POST", "/v1/responses", {**respond, "previous_response_id": name}, {}),
            ("POST", "/v1/responses", respond, {"x_conversation_id": name}),
        ]
    return [
        *found,
        ("POST", "/v1/responses/compact", {**model, "input": said}, {"x_conversation_id": name}),
        ("POST", "/v1/responses/compact", {**model, "previous_response_id": name}, {}),
        ("POST", "/v1/conversations", {"id": name}, {}),
        ("POST", "/v1/conversations", {"id": name, "items": said, "metadata": {"note": "mine"}}, {}),
    ]


def test_naming_another_tenants_conversation_leads_to_one_of_ones_own(house: House) -> None:
    count = len(ways("x"))
    names = [(f"plan-{number:04}", f"none-{number:04}") for number in range(count)]
    for theirs, _ in names:
        house.victim(theirs)
    before = house.everything_of("alpha")
    for number, (theirs, nobodys) in enumerate(names):
        learned = []
        for name in (theirs, nobodys):
            sent = len(house.upstream.asked)
            method, path, body, headers = ways(name)[number]
            answer = house.ask("beta", method, path, body, **headers)
            passed = [json.dumps(asked.body, sort_keys=True) for asked in house.upstream.asked[sent:]]
            learned.append((*shape(answer, name), [one.replace(name, "NAME") for one in passed]))
            assert CANARY not in answer.text + str(answer.headers) + "".join(passed), (path, body, headers)
            assert answer.status_code < 500, (path, answer.text)
        assert learned[0] == learned[1], (path, body, headers)
    assert house.everything_of("alpha") == before
    assert CANARY not in json.dumps(house.everything_of("beta"))


def test_lists_searches_and_erasures_stay_at_home(house: House) -> None:
    house.victim("plan-0000")
    before = house.everything_of("alpha")
    listed = house.ask("beta", "GET", "/v1/conversations")
    assert listed.json()["data"] == []
    assert house.ask("beta", "GET", f"/v1/conversations?user={ANN}").json()["data"] == []
    erased = house.ask("beta", "DELETE", f"/v1/conversations?user={ANN}")
    nobody = house.ask("beta", "DELETE", "/v1/conversations?user=bob-kumquat")
    assert shape(erased, ANN) == shape(nobody, "bob-kumquat")
    rows = "\n".join(json.dumps(row) for row in before)
    # What one has exported oneself may be taken in; then it is a copy, and the other's stays its own.
    taken = house.client.post(
        "/v1/conversations/import", content=rows,
        headers={"authorization": f"Bearer {house.keys['beta']}", "content-type": "application/jsonl"},
    )  # fmt: skip
    assert taken.status_code == 200, taken.text
    assert house.ask("beta", "DELETE", "/v1/conversations/plan-0000").status_code == 200
    assert house.everything_of("alpha") == before
    assert house.ask("alpha", "GET", "/v1/conversations/plan-0000").status_code == 200


def test_another_tenants_summarizer_is_as_good_as_none(house: House) -> None:
    said = [{"role": "user", "content": "The meeting moves to Friday."}]
    tried: list[tuple[str, str, Any]] = [(method, "/v1/models/{}", None) for method in METHODS]
    tried += [
        ("POST", "/v1/summaries", {"model": "{}", "input": "The meeting moves to Friday."}),
        ("POST", "/v1/summaries", {"model": "{}", "input": "The meeting moves to Friday.", "stream": True}),
        ("POST", "/v1/chat/completions", {"model": "{}", "messages": said}),
        ("POST", "/v1/chat/completions", {"model": "{}", "messages": said, "stream": True}),
        ("POST", "/v1/responses", {"model": "{}", "input": "The meeting moves to Friday."}),
        ("POST", "/v1/responses/compact", {"model": "{}", "input": said}),
        ("POST", "/v1/models", {"id": "{}", "run": "run"}),
    ]
    for method, path, body in tried:
        learned = []
        for model in (THEIRS, NOBODYS):
            sent = json.loads(json.dumps(body).replace("{}", model))
            learned.append(shape(house.ask("beta", method, path.replace("{}", model), sent), model))
        assert learned[0] == learned[1], (method, path)
    assert THEIRS not in house.ask("beta", "GET", "/v1/models").text
    assert THEIRS in house.ask("alpha", "GET", "/v1/models").text
    assert not [asked for asked in house.models.asked if asked[0] == "beta"]


def test_the_same_history_without_an_id_finds_only_ones_own(house: House) -> None:
    """The attacker knows what the victim said first, word for word; not what came after, nor what was made of it."""
    known = [{**turn, "content": f"{turn['content']} It was said on a Monday in the old house."} for turn in talk(30)]
    whole = [*known, *({**turn, "content": f"{turn['content']} {CANARY}"} for turn in talk(20, seed=1))]

    def send(tenant: str, messages: list[Any]) -> httpx2.Response:
        answer = house.ask(tenant, "POST", "/v1/chat/completions", {"model": "any", "messages": messages})
        assert answer.status_code == 200, answer.text
        memory = house.client.app.state.services.memories.of(tenant)  # type: ignore[attr-defined]
        assert memory.wait(30)
        return answer

    for turns in (10, 30, 50):
        theirs = send("alpha", whole[:turns])
    read = set(house.models.folder.read)
    assert read, "the victim's conversation was folded"
    house.models.folder.read.clear()
    first = send("beta", known)
    assert set(house.models.folder.read) & read, "what is folded for one is not taken from the other's"
    second = send("beta", known)
    for answer in (first, second):
        assert answer.headers["x-conversation-id"] != theirs.headers["x-conversation-id"]
    assert second.headers["x-conversation-id"] == first.headers["x-conversation-id"]
    sent = [asked.body for asked in house.upstream.asked[-2:]]
    assert CANARY not in json.dumps(sent)
    theirs_by_id = house.ask(
        "beta", "POST", "/v1/chat/completions", {"model": "any", "messages": known[:1]},
        x_conversation_id=theirs.headers["x-conversation-id"],
    )  # fmt: skip
    assert CANARY not in theirs_by_id.text + json.dumps(house.upstream.last.body)
    assert CANARY not in json.dumps(house.everything_of("beta"))


def test_a_stolen_compaction_item_says_no_more_than_is_written_in_it(house: House) -> None:
    turns = [{**turn, "content": f"{turn['content']} It was said on a Monday."} for turn in talk(40)]
    turns[3]["content"] = f"The code is {CANARY}."
    items = [{"type": "message", **turn} for turn in turns]
    compacted = house.ask("alpha", "POST", "/v1/responses/compact", {"model": "any", "input": items})
    assert compacted.status_code == 200, compacted.text
    stolen = [item for item in compacted.json()["output"] if item["type"].startswith("compaction")]
    assert stolen
    for question in ("What is the code?", f"Where is the {CANARY}?"):
        asked = [*stolen, {"type": "message", "role": "user", "content": question}]
        answer = house.ask("beta", "POST", "/v1/responses", {"model": "any", "input": asked})
        assert answer.status_code == 200, answer.text
        sent = json.dumps(house.upstream.last.body["input"][:-1])
        for turn in turns:
            assert str(turn["content"]) not in sent, "a turn came back word for word"


def test_usage_and_metrics_are_told_apart(house: House) -> None:
    house.victim("plan-0000")
    house.ask("beta", "GET", "/v1/usage")
    before = house.ask("beta", "GET", "/v1/usage").json()
    for _ in range(3):
        answer = house.ask(
            "alpha", "POST", "/v1/chat/completions",
            {"model": "any", "messages": [{"role": "user", "content": f"Hello {CANARY}"}]}, x_conversation_id="mine",
        )  # fmt: skip
        assert answer.status_code == 200
    after = house.ask("beta", "GET", "/v1/usage").json()
    assert after == {**before, "requests": before["requests"] + 1}
    metrics = house.client.get("/metrics").text
    for word in ("alpha", "beta", CANARY, "plan-0000", "mine", THEIRS):
        assert word not in metrics


def test_what_an_estimate_learned_from_one_is_not_seen_by_the_other(house: House) -> None:
    asked = {"model": "any", "messages": [{"role": "user", "content": "Hello there, how is the weather today?"}]}
    counters = [house.ask("alpha", "POST", "/v1/chat/completions", asked).headers["x-memory-counter"] for _ in "ab"]
    assert counters[0] != counters[1]
    assert house.ask("beta", "POST", "/v1/chat/completions", asked).headers["x-memory-counter"] == counters[0]
