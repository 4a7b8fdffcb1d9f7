"""The page without a browser: its door, its sessions, and what the tabs put together."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'tomtat[ui]'")

from starlette.testclient import TestClient

from memory_fakes import MANUAL, FakeSummarizer, assistant, user
from server_fakes import FakeModels
from tomtat.errors import DataError
from tomtat.memory import ChatMemory
from tomtat.server.app import create_app
from tomtat.server.keys import Keys, add_key, remove_key
from tomtat.server.services import ModelCard
from tomtat.server.settings import load_settings
from tomtat.store import open_store
from tomtat.talking import Cost, keep, say, sayings
from tomtat.ui.chat_views import bar_html, sayings_html
from tomtat.ui.chatroom import _until
from tomtat.ui.marks import facts, facts_html, marked
from tomtat.ui.sessions import SECONDS, TRIES, Sessions
from tomtat.ui.sources import from_file, long_example, short_example, topics
from tomtat.ui.summarize import NOBODY, usual_pair

PAGE = {"accept": "text/html"}


@contextmanager
def client(tmp_path: Path, *, page: bool = True, **settings: Any) -> Iterator[TestClient]:
    values = {"store": str(tmp_path / "chats.db"), **settings}
    app = create_app(load_settings(overrides=values), models=FakeModels(), page=page)
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as found:
        if page:
            wait_for(lambda: bool(app.state.page.is_there))
        yield found


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[TestClient, str, Path]]:
    """A server with a key of the tenant acme: client, key, file of keys."""
    path = tmp_path / "keys.json"
    _, key = add_key(path, "acme")
    with client(tmp_path, keys=str(path)) as found:
        yield found, key, path


def sign_in(found: TestClient, key: str) -> Any:
    return found.post("/ui/sign-in", data={"key": key})


# -- the door


def test_without_keys_the_page_is_open_and_everything_leads_to_it(tmp_path: Path):
    with client(tmp_path) as found:
        assert found.get("/").headers["location"] == found.get("/ui").headers["location"] == "/ui/"
        assert "gradio_config" in found.get("/ui/").text
        assert found.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
        assert found.get("/ui/", headers={"host": "evil.example"}).status_code == 421


def test_without_the_page_there_is_none(tmp_path: Path):
    with client(tmp_path, page=False) as found:
        assert found.get("/").status_code == found.get("/ui/").status_code == 404


def test_the_server_answers_before_the_page_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tomtat.ui import app as page

    may_go, make = threading.Event(), page.make
    monkeypatch.setattr(page, "make", lambda *parts: may_go.wait(60) and make(*parts))
    app = create_app(load_settings(overrides={"store": str(tmp_path / "a.db")}), models=FakeModels(), page=True)
    with TestClient(app, base_url="http://localhost") as found:
        try:
            assert found.get("/readyz").status_code == 200
            early = found.get("/ui/", headers=PAGE)
            assert (early.status_code, early.headers["retry-after"]) == (503, "1")
            assert 'http-equiv="refresh"' in early.text
            assert found.get("/ui/config").json()["error"]["code"] == "page_not_loaded"
        finally:
            may_go.set()
        wait_for(lambda: bool(app.state.page.is_there))
        assert "gradio_config" in found.get("/ui/", headers=PAGE).text


def test_a_page_that_cannot_be_loaded_says_so_and_the_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object) -> None:
        raise ImportError("libfoo is missing")

    monkeypatch.setattr("tomtat.ui.app.make", fail)
    app = create_app(load_settings(overrides={"store": str(tmp_path / "a.db")}), models=FakeModels(), page=True)
    with TestClient(app, base_url="http://localhost") as found:
        wait_for(lambda: "libfoo is missing" in caplog.text)
        told = found.get("/ui/", headers=PAGE)
        assert (told.status_code, "retry-after" in told.headers) == (503, False)
        assert "the server's log says why" in told.text
        assert "refresh" not in told.text
        assert found.get("/v1/models").status_code == 200


def test_the_page_s_place_is_made_without_gradio():
    code = "import sys, tomtat.server.app, tomtat.ui.opening; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_is_asked_for_and_let_in_and_out(keyed: tuple[TestClient, str, Path]):
    found, key, _ = keyed
    assert found.get("/ui/", headers=PAGE).headers["location"] == "/ui/sign-in"
    assert found.get("/ui/config").json()["error"]["code"] == "not_signed_in"
    assert found.post("/ui/gradio_api/queue/join", json={}).status_code == 401

    wrong = sign_in(found, "tt-wrong")
    assert wrong.status_code == 401
    assert 'role="alert">This key is not known here' in wrong.text

    let_in = sign_in(found, f" {key}\n")
    assert let_in.headers["location"] == "/ui/"
    cookie = let_in.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/ui"))
    assert key not in cookie
    assert found.get("/ui/").status_code == 200
    assert found.get("/v1/models").status_code == 401, "the page's cookie opens the page only"

    assert "signed out" in found.post("/ui/sign-out").text
    assert found.get("/ui/config").status_code == 401


def test_a_key_that_is_removed_is_signed_out_at_once(keyed: tuple[TestClient, str, Path]):
    found, key, path = keyed
    sign_in(found, key)
    assert found.get("/ui/config").status_code == 200
    remove_key(path, "acme")
    assert found.get("/ui/config").status_code == 401
    add_key(path, "acme")
    assert found.get("/ui/config").status_code == 401, "a new key of that name is another one"


def test_wrong_keys_are_counted(keyed: tuple[TestClient, str, Path]):
    found, key, _ = keyed
    codes = [sign_in(found, f"tt-{number}").status_code for number in range(TRIES + 1)]
    assert codes == [401] * TRIES + [429]
    refused = sign_in(found, key)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) <= 6


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_another_site_may_ask_nothing(tmp_path: Path, headers: dict[str, str]):
    with client(tmp_path) as found:
        answer = found.post("/ui/gradio_api/queue/join", json={}, headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_link_from_elsewhere_leads_here_and_the_page_loads_nothing_from_there(tmp_path: Path):
    with client(tmp_path) as found:
        answer = found.get("/ui/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        for address in ("/ui/", "/ui/theme.css"):
            assert not re.search(
                r"""(?:src|href)=["']?https?://(?!localhost)|@import|url\(["']?http""", found.get(address).text
            )


def test_a_body_is_bounded_on_the_page_too(tmp_path: Path):
    with client(tmp_path, limits={"body_bytes": 1000}) as found:
        files = {"files": ("long.txt", b"a" * 2000)}
        assert found.post("/ui/gradio_api/upload", files=files).status_code == 413


def test_a_session_ends_by_itself(tmp_path: Path):
    _, key = add_key(tmp_path / "keys.json", "acme")
    now = [0.0]
    sessions = Sessions(Keys.load(tmp_path / "keys.json"), clock=lambda: now[0])
    token = sessions.begin(key, "here")
    assert sessions.find(token)
    now[0] = SECONDS + 1
    assert sessions.find(token) is None


# -- summaries


def test_what_a_summary_invents_is_marked_in_words_too():
    shown = marked("Nina <ill> pays 300 on Friday.", "Nina: I am <ill>. Omar: Get well! I pay 200 on Friday.")
    assert '<mark class="tt-invented" title="this number does not stand in the source">300' in shown
    assert "(this number does not stand in the source)" in shown
    assert "Friday" in re.sub(r"<mark.*?</mark>", "", shown)
    assert "<ill>" not in shown


def test_facts_are_kept_or_lost_once():
    source = "Nina: Friday is off. Omar: Friday then. We take hall 4 for 200."
    found = facts("Nina has hall 4.", source)
    assert {fact.text: fact.is_kept for fact in found} == {
        "Nina": True, "Omar": False, "Friday": False, "4": True, "200": False,
    }  # fmt: skip
    assert "Keeps 2 of the source's 5" in facts_html(found)


def test_the_untuned_base_stands_beside_the_tuned():
    def card(name: str, weights: str | None, base: str = "flan") -> ModelCard:
        return ModelCard(name, 0, base, weights, 512, 64)

    assert usual_pair([card("t5", None, "t5"), card("mine", "ab"), card("flan", None)]) == ("mine", "flan")
    assert usual_pair([card("mine", "ab")]) == ("mine", NOBODY)
    assert usual_pair([card("flan", None)]) == ("flan", NOBODY)
    assert usual_pair([]) == (None, NOBODY)


def test_files_and_examples_are_read(tmp_path: Path):
    chat = {"messages": [{"role": "user", "content": "Friday is off."}, {"role": "assistant", "content": "Noted."}]}
    path = tmp_path / "a@b[1].jsonl"
    path.write_text(json.dumps(chat) + "\n" + json.dumps(chat) + "\n", encoding="utf-8")
    found = from_file(path)
    assert found.text == "User: Friday is off.\nAssistant: Noted."
    assert "2 turns" in found.note
    assert "first of 2 rows" in found.note
    (tmp_path / "note.md").write_text("A note.", encoding="utf-8")
    assert from_file(tmp_path / "note.md").text == "A note."
    example = next(iter(topics("test")))
    assert short_example(example).text.startswith("User: ")
    assert {"role", "content"} <= set(long_example("long-01")[0])


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("empty.txt", b" \n", "empty.txt is empty"),
        ("latin.txt", b"caf\xe9", "not UTF-8"),
        ("broken.jsonl", b'{"text": "a"\n', "broken.jsonl"),
        ("other.jsonl", b'{"price": 3}\n', "other.jsonl"),
    ],
)
def test_a_file_that_is_none_is_told_by_its_own_name(tmp_path: Path, name: str, data: bytes, told: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        from_file(tmp_path / name)
    assert told in str(error.value)
    assert "/tmp" not in str(error.value).replace(str(tmp_path), "")


# -- the chat


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[ChatMemory]:
    with open_store(str(tmp_path / "m.db")) as store, ChatMemory(FakeSummarizer(), store, MANUAL) as found:
        yield found


def test_the_bar_is_the_budget(memory: ChatMemory):
    for number in range(60):
        memory.append(
            "c", [user(f"Question {number} about parcel {number}?"), assistant(f"Parcel {number} is on its way.")]
        )
    memory.fold("c")
    context = memory.compose("c", 400)
    shown = bar_html(context)
    parts = {name: int(size) for name, size in re.findall(r'tt-part tt-(\w+)" style="flex-grow:(\d+)"', shown)}
    assert sum(parts.values()) == 400
    assert parts["summaries"] > 0
    assert f"<b>{context.tokens}</b> of 400" in shown

    lines = sayings_html(memory, "c", context)
    first = next(sayings(context))
    turns = memory.sources("c", first.text)
    assert turns
    assert all(f"turn {turn.seq}<" in lines for turn in turns)


def test_an_answer_that_was_cut_says_so_and_a_system_message_comes_first(memory: ChatMemory):
    say(memory, "c", "Hello?", "Be brief.")
    assert keep(memory, "c", ["Hel", "lo "], "[stopped]")
    assert not keep(memory, "c", ["  "], "[stopped]")
    say(memory, "c", "Again.", "Be brief.")
    said = [(turn.message["role"], turn.message["content"]) for turn in memory.history("c")]
    assert said == [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hello [stopped]"), ("user", "Again.")]


def test_costs_add_up():
    both = Cost(100, 400) + Cost(100, 100)
    assert (both.sent, both.whole, both.saved) == (200, 500, 0.6)
    assert Cost(120, 100).saved == Cost().saved == 0


def pieces_then(pieces: Sequence[str], last: Exception | None = None) -> AsyncGenerator[str]:
    async def stream() -> AsyncGenerator[str]:
        for piece in pieces:
            yield piece
        if last:
            raise last
        await asyncio.sleep(60)

    return stream()


def test_what_came_before_a_failure_is_kept_and_a_stop_is_heard():
    async def hear(stream: AsyncGenerator[str], stop_after: float | None = None) -> str:
        stopped, heard = asyncio.Event(), ""
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stopped.set)
        try:
            async for piece in _until(stopped, stream):
                heard += piece
        except DataError as error:
            return f"{heard}|{error}"
        return heard

    assert asyncio.run(hear(pieces_then(["a", "b"], DataError("gone")))) == "ab|gone"
    assert asyncio.run(hear(pieces_then(["a", "b"]), stop_after=0.3)) == "ab"
