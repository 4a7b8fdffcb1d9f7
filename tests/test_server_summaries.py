"""POST /v1/summaries and the catalog of models, over HTTP in this process."""

import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from memory_fakes import assistant, user
from server_fakes import FakeModels
from server_subjects import anyio_backend, events, serving  # noqa: F401
from tomtat.errors import RunError
from tomtat.server import ServerSettings
from tomtat.server.errors import ApiError
from tomtat.server.keys import add_key
from tomtat.server.logs import JsonLines
from tomtat.server.settings import LimitSettings

pytestmark = pytest.mark.anyio

TEXT = "The meeting moves to Friday. Nina is ill. Room four is painted."
CHAT = [user("My kettle came cracked."), assistant("I am sorry.")]


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(
        store=str(tmp_path / "store.db"), limits=LimitSettings(batch=3, messages=4), runs_folder=str(tmp_path / "runs")
    )


@pytest.fixture
def models() -> FakeModels:
    return FakeModels({"chats": None, "news": None, "of-others": ("others",)})


async def post(settings: ServerSettings, models: FakeModels, **body: Any) -> httpx2.Response:
    async with serving(settings, models=models) as client:
        return await client.post("/v1/summaries", json=body)


async def test_a_text_is_summarized(settings: ServerSettings, models: FakeModels):
    answer = await post(settings, models, input=TEXT, max_sentences=1)
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"].startswith("summ-")
    assert body["created"] > 0
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    assert {name: body[name] for name in ("object", "model", "data", "usage")} == {
        "object": "summary.list",
        "model": "chats",
        "data": [
            {
                "object": "summary", "index": 0, "summary": "The meeting moves to Friday.", "finish_reason": "stop",
                "share_read": 1.0, "pieces": 1, "usage": usage,
            }
        ],
        "usage": usage,
    }  # fmt: skip


async def test_messages_and_batches_are_told_apart(settings: ServerSettings, models: FakeModels):
    async def summaries(given: Any) -> list[str]:
        return [one["summary"] for one in (await post(settings, models, input=given)).json()["data"]]

    assert await summaries(CHAT) == ["User: My kettle came cracked. Assistant: I am sorry."]
    assert await summaries(["One.", CHAT, "Two."]) == [
        "One.", "User: My kettle came cracked. Assistant: I am sorry.", "Two.",
    ]  # fmt: skip
    assert await summaries([[user("Hi.")]]) == ["User: Hi."]


async def test_usage_is_summed_and_counted_against_the_day(settings: ServerSettings, models: FakeModels):
    async with serving(settings, models=models) as client:
        answer = (await client.post("/v1/summaries", json={"input": ["One two.", "Three."]})).json()
        assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        assert (await client.get("/v1/usage")).json()["tokens_today"] == 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"unknown": 1, "user": "me"}, {}),
        ({"max_words": 7, "language": "vi", "whole_sentences": True}, {"max_words": 7, "language": "vi", "whole_sentences": True}),
        ({"language": "vi", "temperature": 0.5}, {"language": "vi", "temperature": 0.5}),
        ({"temperature": 0, "top_p": 1, "num_beams": 2}, {"decode": "beam", "num_beams": 2}),
        ({"temperature": 0}, {"decode": "greedy"}),
        ({"temperature": 0.5}, {"decode": "sample", "temperature": 0.5}),
        ({"temperature": 0.5, "candidates": 4}, {"candidates": 4, "temperature": 0.5}),
        ({"decode": "beam", "num_beams": 3, "stream": False}, {"decode": "beam", "num_beams": 3}),
        ({"max_new_tokens": 9, "long_inputs": "truncate"}, {"max_new_tokens": 9, "long_inputs": "truncate"}),
        ({"max_words": None}, {}),
    ],
)  # fmt: skip
async def test_what_is_asked_for_reaches_the_summarizer(
    settings: ServerSettings, models: FakeModels, given: dict[str, Any], expected: dict[str, Any]
):
    answer = await post(settings, models, model="news", input=TEXT, **given)
    assert answer.status_code == 200, answer.text
    assert models.asked == [("default", "news", (TEXT,), expected)]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({}, "input"),
        ({"input": 7}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["One.", " ", "Two."]}, "input.1"),
        ({"input": ["One.", []]}, "input.1"),
        ({"input": ["One.", [user("Hi."), {"role": "user", "content": ""}]]}, "input.1"),
        ({"input": ["One.", 7]}, "input.1"),
        ({"input": [user("Hi."), {"content": "no role"}]}, "input.1.role"),
        ({"input": ["a"] * 4}, "input"),
        ({"input": CHAT * 3}, "input"),
        ({"input": TEXT, "max_words": 0}, "max_words"),
        ({"input": TEXT, "max_new_tokens": 10**9}, "max_new_tokens"),
        ({"input": TEXT, "candidates": 1000}, "candidates"),
        ({"input": TEXT, "decode": "magic"}, "decode"),
        ({"input": TEXT, "language": "../x"}, "language"),
        ({"input": TEXT, "language": "fr"}, "language"),
        ({"input": ["One.", "Two."], "stream": True}, "stream"),
    ],
)
async def test_what_cannot_be_summarized_is_named_before_any_work(
    settings: ServerSettings, models: FakeModels, wrong: dict[str, Any], param: str
):
    answer = await post(settings, models, **wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not models.asked


async def test_a_model_of_others_is_as_one_that_is_not_there(settings: ServerSettings, models: FakeModels):
    others, nobodys = [await post(settings, models, input=TEXT, model=name) for name in ("of-others", "of-nobody")]
    assert others.status_code == nobodys.status_code == 404
    assert others.text.replace("of-others", "of-nobody") == nobodys.text


async def test_a_stream_ends_with_the_whole(settings: ServerSettings, models: FakeModels):
    answer = await post(settings, models, input=TEXT, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, whole, end = events(answer)
    assert end == "[DONE]"
    assert {delta["object"] for delta in deltas} == {"summary.delta"}
    assert "".join(delta["delta"] for delta in deltas) == whole["data"][0]["summary"] == TEXT
    assert whole["usage"]["total_tokens"] == 24
    assert len({one["id"] for one in (*deltas, whole)}) == 1


async def test_errors_of_a_stream_have_a_status_before_it_begins_and_an_event_after(
    settings: ServerSettings, models: FakeModels
):
    class Full(FakeModels):
        async def stream(self, *_: Any) -> Any:
            raise ApiError(429, "full", "queue_full", headers={"retry-after": "7"})
            yield ""

    answer = await post(settings, Full(), input=TEXT, stream=True)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    models.fails = ApiError(504, "too slow", "timeout")
    first, last = events(await post(settings, models, input=TEXT, stream=True))
    assert first["delta"] == "The"
    assert last["error"]["code"] == "timeout"


# -- the catalog


async def test_models_are_listed_as_openai_lists_them(settings: ServerSettings, models: FakeModels):
    async with serving(settings, models=models) as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/chats")).json()
        assert (await client.get("/v1/models/of-others")).status_code == 404
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["chats", "news"]
    assert listed["data"][0] == one
    assert one == {
        "id": "chats", "object": "model", "created": 1_700_000_000, "owned_by": "tomtat", "base": "fake-base",
        "weights": "0" * 64, "max_source_tokens": 60, "max_new_tokens": 64,
    }  # fmt: skip


def make_runs(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "runs" / "alias").symlink_to("one")
    (tmp_path / "runs" / "loop").symlink_to("loop")
    return tmp_path / "runs"


async def test_an_admin_loads_and_unloads(settings: ServerSettings, models: FakeModels, tmp_path: Path):
    runs = make_runs(tmp_path)
    loaded: list[Any] = []
    load = models.load
    models.load = lambda *what: (loaded.append(what), load(*what))[1]  # type: ignore[method-assign]
    async with serving(settings, models=models) as client:
        answer = await client.post("/v1/models", json={"id": "team/new", "run": "alias"})
        assert (answer.status_code, answer.json()["id"]) == (200, "team/new")
        assert (await client.get("/v1/models/team/new")).status_code == 200
        assert (await client.post("/v1/models", json={"id": "x", "run": "one", "tenants": ["a"]})).status_code == 200
        assert (await client.get("/v1/models/x")).status_code == 404
        gone = await client.delete("/v1/models/team/new")
        assert gone.json() == {"id": "team/new", "object": "model", "deleted": True}
        assert (await client.get("/v1/models/team/new")).status_code == 404
    assert loaded == [("team/new", str(runs / "one"), None), ("x", str(runs / "one"), ("a",))]


async def test_what_an_admin_does_is_logged_by_its_name(
    settings: ServerSettings, models: FakeModels, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_runs(tmp_path)
    caplog.set_level("INFO", "tomtat.server.catalog")
    async with serving(settings, models=models) as client:
        await client.post("/v1/models", json={"id": "new", "run": "one"})
        await client.delete("/v1/models/new")
    told = [json.loads(JsonLines().format(one)) for one in caplog.records if one.name == "tomtat.server.catalog"]
    assert [(one["message"], one["model"]) for one in told] == [
        ("loaded a summarizer", "new"), ("unloaded a summarizer", "new"),
    ]  # fmt: skip
    assert all(one["request_id"] for one in told)


async def test_what_is_unloaded_while_its_loading_is_answered_is_not_found(
    settings: ServerSettings, models: FakeModels, tmp_path: Path
):
    make_runs(tmp_path)
    models.load = lambda *_: None  # type: ignore[method-assign]
    async with serving(settings, models=models) as client:
        assert (await client.post("/v1/models", json={"id": "new", "run": "one"})).status_code == 404


@pytest.mark.parametrize(
    "run", ["../outside", "link", "loop", ".", "", "nothing", "/etc", "one/../../outside", "x" * 900, "one/\u0007"]
)
async def test_nothing_is_loaded_from_elsewhere(settings: ServerSettings, models: FakeModels, tmp_path: Path, run: str):
    make_runs(tmp_path)
    async with serving(settings, models=models) as client:
        for path in (run, f"{tmp_path}/outside"):
            answer = await client.post("/v1/models", json={"id": "new", "run": path})
            assert answer.status_code == 400
            assert str(tmp_path) not in answer.text.replace(json.dumps(path)[1:-1], "")
    assert models.ids("default") == ["chats", "news"]


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 129, "é", "a\n"])
async def test_ids_are_plain(settings: ServerSettings, models: FakeModels, tmp_path: Path, name: str):
    make_runs(tmp_path)
    async with serving(settings, models=models) as client:
        assert (await client.post("/v1/models", json={"id": name, "run": "one"})).status_code == 400


async def test_without_a_folder_of_runs_nothing_is_loaded(models: FakeModels, tmp_path: Path):
    async with serving(ServerSettings(store=str(tmp_path / "store.db")), models=models) as client:
        assert (await client.post("/v1/models", json={"id": "x", "run": os.fspath(tmp_path)})).status_code == 403


async def test_a_broken_folder_is_told_without_its_place(settings: ServerSettings, models: FakeModels, tmp_path: Path):
    runs = make_runs(tmp_path)

    def load(*_: Any) -> None:
        raise RunError(f"{runs}/one/tomtat.json is missing")

    models.load = load  # type: ignore[method-assign]
    async with serving(settings, models=models) as client:
        answer = await client.post("/v1/models", json={"id": "chats", "run": "one"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "one/tomtat.json is missing"


async def test_only_admins_load_and_unload(models: FakeModels, tmp_path: Path):
    make_runs(tmp_path)
    path = tmp_path / "keys.json"
    keys = {admin: add_key(path, "anna", admin=admin)[1] for admin in (True, False)}
    settings = ServerSettings(store=str(tmp_path / "store.db"), keys=str(path), runs_folder=str(tmp_path / "runs"))
    async with serving(settings, models=models) as client:
        for admin, key in keys.items():
            headers = {"authorization": f"Bearer {key}"}
            loaded = await client.post("/v1/models", json={"id": "new", "run": "one"}, headers=headers)
            gone = await client.delete("/v1/models/new", headers=headers)
            assert loaded.status_code == gone.status_code == (200 if admin else 403)
