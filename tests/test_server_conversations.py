"""Conversations over HTTP: OpenAI's client, names of any kind, pages, exports, receipts, other tenants."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import openai
import pytest

from memory_fakes import talk, user
from server_subjects import MODEL, anyio_backend, ask, served, serving, settings, settings_for, upstream  # noqa: F401
from test_server_responses import CALL, OUTPUT, REASONING, message
from tomtat.memory import ChatMemory
from tomtat.server import ServerSettings
from tomtat.server.keys import add_key
from upstream_fake import FakeUpstream

pytestmark = pytest.mark.anyio
# ruff: noqa: F811

NAMES = ["chat-1", "a/b", "a/b/messages", "50% off?#", "Đơn hàng 12", "a%2Fb", ".", "~x", "import", "🙂"]


LINES = {"content-type": "application/jsonl"}


def path(name: str, *more: str) -> str:
    # A client would take a lone dot for the folder itself.
    return "/".join(["/v1/conversations", quote(name, safe="").replace(".", "%2E"), *more])


async def append(client: httpx2.AsyncClient, name: str, messages: list[dict[str, Any]], **body: Any) -> httpx2.Response:
    return await client.post(path(name, "messages"), json={"messages": messages, **body})


def theirs(client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=client)


async def test_openai_python_begins_fills_reads_and_deletes_one(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        conversations = theirs(client).conversations
        begun = await conversations.create(items=[message("user", "Hello")], metadata={"topic": "demo"})  # type: ignore[list-item]
        await conversations.items.create(
            begun.id, items=[{"role": "assistant", "content": "Hi!"}, REASONING, CALL, OUTPUT]
        )  # type: ignore[list-item]
        items = [item async for item in conversations.items.list(begun.id, order="asc", limit=2)]
        newest = [item async for item in conversations.items.list(begun.id)]
        one = await conversations.items.retrieve(items[1].id, conversation_id=begun.id)
        changed = await conversations.update(begun.id, metadata={"topic": "other"})
        deleted = await conversations.delete(begun.id)
        with pytest.raises(openai.NotFoundError):
            await conversations.retrieve(begun.id)

    assert begun.metadata == {"topic": "demo"}
    assert changed.metadata == {"topic": "other"}
    assert [item.type for item in items] == ["message", "message", "reasoning", "function_call", "function_call_output"]
    assert newest == items[::-1]
    assert one == items[1]
    assert one.content[0].text == "Hi!"  # type: ignore[union-attr]
    assert deleted.deleted is True
    assert deleted.turns == 4  # type: ignore[attr-defined]


async def test_items_sent_twice_by_a_client_that_says_so_are_kept_once(settings: ServerSettings) -> None:
    body = {"items": [message("user", "ok")]}
    async with serving(settings) as client:
        begun = (await client.post("/v1/conversations", json={})).json()
        first = await client.post(path(begun["id"], "items"), json=body)
        again = await client.post(path(begun["id"], "items"), json=body, headers={"x-stainless-retry-count": "1"})
        meant = await client.post(path(begun["id"], "items"), json=body)

    assert first.json() == again.json()
    assert meant.json()["first_id"] != first.json()["first_id"]


async def test_metadata_needs_no_item_and_outlives_a_restart_and_a_new_beginning(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        begun = await theirs(client).conversations.create(metadata={"topic": "demo"})
        bare = await theirs(client).conversations.create()
        changed = await theirs(client).conversations.update(bare.id, metadata={"late": "yes"})
    async with serving(settings) as client:
        again = await theirs(client).conversations.retrieve(begun.id)
        await append(client, begun.id, [user("Hi")], after=0)
        await append(client, begun.id, [user("Hello")], after=0, fork=True)
        filled = (await client.get(path(begun.id))).json()
        exported = await client.get(path(begun.id, "export"))
        await client.delete(path(begun.id))
        await client.post("/v1/conversations/import", content=exported.content, headers=LINES)
        imported = (await client.get(path(begun.id))).json()
        await client.delete(path(begun.id))
        await append(client, begun.id, [user("Hi")])
        anew = (await client.get(path(begun.id))).json()

    assert (begun.metadata, bare.metadata, changed.metadata) == ({"topic": "demo"}, {}, {"late": "yes"})
    assert again.metadata == {"topic": "demo"}
    assert (filled["metadata"], filled["branch"]) == ({"topic": "demo"}, 1)
    assert (imported["metadata"], imported["branch"]) == ({"topic": "demo"}, 1)
    assert anew["metadata"] == {}


async def texts(client: httpx2.AsyncClient, name: str) -> list[str]:
    items = (await client.get(path(name, "items"), params={"order": "asc"})).json()["data"]
    return [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in items]


async def delete_newest(client: httpx2.AsyncClient, name: str) -> httpx2.Response:
    [item] = (await client.get(path(name, "items"), params={"limit": 1})).json()["data"]
    return await client.delete(path(name, "items", item["id"]))


async def test_the_agents_sdk_takes_back_its_newest_item_and_says_the_same_again(settings: ServerSettings) -> None:
    agents = pytest.importorskip("agents")
    async with serving(settings) as client:
        session = agents.OpenAIConversationsSession(openai_client=theirs(client))
        await session.add_items([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}])
        for _ in range(3):
            assert (await session.pop_item())["content"][0]["text"] == "two"
            assert await texts(client, session.session_id) == ["one"]
            await session.add_items([{"role": "assistant", "content": "two"}])
            assert await texts(client, session.session_id) == ["one", "two"]
        await session.pop_item()
        await session.pop_item()
        assert await session.pop_item() is None
        await session.add_items([{"role": "user", "content": "one"}])
        assert await texts(client, session.session_id) == ["one"]
        assert [one["role"] for one in await session.get_items()] == ["user"]


async def test_what_was_deleted_is_not_sent_nor_found_and_kept_until_the_end(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        await append(client, "chat-1", [user("Where is the kettle?"), user("The code is 9321.")])
        deleted = await delete_newest(client, "chat-1")
        again = await client.delete(path("chat-1", "items", "msg_2_0"))
        read = (await client.get(path("chat-1", "messages"))).json()["data"]
        found = (await client.get(path("chat-1", "search"), params={"query": "code 9321"})).json()["data"]
        context = (await client.get(path("chat-1", "context"))).json()
        body = {"model": MODEL, "input": "And now?", "conversation": "chat-1"}
        await client.post("/v1/responses", json=body)
        await append(client, "chat-1", [user("Bye.")])
        later = await texts(client, "chat-1")
        erased = await client.delete(path("chat-1"))

    assert (deleted.status_code, deleted.json()["id"]) == (200, "chat-1")
    assert again.status_code == 404
    assert [one["is_deleted"] for one in read] == [False, True]
    assert found == []
    assert [one["content"] for one in context["messages"]] == ["Where is the kettle?"]
    assert "9321" not in json.dumps(upstream.last.body)
    assert "session" not in json.dumps(upstream.last.body)
    assert later == ["Where is the kettle?", "And now?", "You said: And now?", "Bye."]
    assert erased.json()["turns"] == 5


async def test_an_item_sent_again_after_a_deletion_is_kept_once(settings: ServerSettings) -> None:
    body, again = {"items": [message("user", "ok")]}, {"x-stainless-retry-count": "1"}
    async with serving(settings) as client:
        await append(client, "chat-1", [user("Hi"), user("ok")])
        await delete_newest(client, "chat-1")
        await client.post(path("chat-1", "items"), json=body)
        await client.post(path("chat-1", "items"), json=body, headers=again)
        assert await texts(client, "chat-1") == ["Hi", "ok"]


async def test_of_calls_made_at_once_the_last_goes_first(settings: ServerSettings) -> None:
    other = {**CALL, "call_id": "call_other"}
    async with serving(settings) as client:
        begun = (await client.post("/v1/conversations", json={"items": [message("user", "Hi")]})).json()
        await client.post(path(begun["id"], "items"), json={"items": [REASONING, CALL, other]})
        told = [await texts(client, begun["id"])]
        for _ in range(2):
            await delete_newest(client, begun["id"])
            told.append(await texts(client, begun["id"]))

    assert told == [
        ["Hi", "reasoning", "function_call", "function_call"], ["Hi", "reasoning", "function_call"], ["Hi"],
    ]  # fmt: skip


async def test_older_items_stay(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        await append(client, "chat-1", [user("Hi"), user("there")])
        older = await client.delete(path("chat-1", "items", "msg_1_0"))
        nobodys = [await client.delete(path("chat-1", "items", id_)) for id_ in ("msg_3_0", "msg_0_0", "x", "fc_2_0")]

    assert older.status_code == 409
    assert older.json()["error"]["code"] == "not_the_newest"
    assert {one.status_code for one in nobodys} == {404}


@pytest.mark.parametrize("name", NAMES)
async def test_a_conversation_may_have_any_name(settings: ServerSettings, name: str) -> None:
    async with serving(settings) as client:
        appended = await append(client, name, [user("The code is 9321.")])
        read = await client.get(path(name, "messages"))
        whole = await client.get(path(name))
        found = await client.get(path(name, "search"), params={"query": "which code?"})
        listed = await client.get("/v1/conversations")
        erased = await client.delete(path(name))
        gone = await client.get(path(name))

    assert appended.json() == {"conversation": name, "branch": 0, "first": 1, "last": 1, "new": 1}
    assert read.json()["data"][0]["message"] == user("The code is 9321.")
    assert whole.json()["id"] == name
    assert found.json()["data"][0]["turn"] == 1
    assert [one["id"] for one in listed.json()["data"]] == [name]
    assert erased.json()["turns"] == 1
    assert gone.status_code == 404


async def test_messages_with_ids_are_kept_once_and_conflicts_told(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        first = await append(client, "chat-1", [user("Hi", id="m1"), user("there", id="m2")])
        again = await append(client, "chat-1", [user("Hi", id="m1"), user("there", id="m2"), user("!", id="m3")])
        other = await append(client, "chat-1", [user("Something else", id="m1")])
        late = await append(client, "chat-1", [user("x")], after=1)
        forked = await append(client, "chat-1", [user("x")], after=1, fork=True)

    assert (first.json()["new"], again.json()["new"]) == (2, 1)
    assert other.status_code == late.status_code == 409
    assert other.json()["error"]["code"] == "conflict"
    assert forked.json()["branch"] == 1


async def test_messages_come_in_pages(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        await append(client, "chat-1", talk(25))
        pages = [
            (await client.get(path("chat-1", "messages"), params={"after": after, "limit": 10})).json()
            for after in (0, 10, 20)
        ]

    assert [page["has_more"] for page in pages] == [True, True, False]
    assert [one["message"] for page in pages for one in page["data"]] == talk(25)


async def test_a_context_says_what_it_is_made_of(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        await append(client, "chat-1", [*talk(80), user("Where is the kettle?")])
        client.app.state.services.memories.of("default").fold("chat-1")  # type: ignore[attr-defined]
        context = (await client.get(path("chat-1", "context"), params={"budget": 400})).json()
        small = await client.get(path("chat-1", "context"), params={"budget": 1})
        folds = (await client.get(path("chat-1", "folds"), params={"limit": 3})).json()

    assert context["tokens"] <= 400
    assert context["turns"] == 81
    assert context["newest"][-1] == 81
    assert sum(context["shares"].values()) <= 400
    assert small.status_code == 400
    assert "context_length_exceeded" in small.json()["error"]["message"]
    assert len(folds["data"]) == 3
    assert folds["data"][0]["first"] == 1
    assert folds["has_more"]


async def test_what_is_exported_can_be_imported(
    settings: ServerSettings, tmp_path: Path, served: tuple[FakeUpstream, str]
) -> None:
    async with serving(settings) as client:
        await append(client, "a/b", talk(700), user="ann")
        exported = await client.get(path("a/b", "export"))
        nothing = await client.get(path("nobody", "export"))
    other = settings.model_copy(update={"store": str(tmp_path / "o.db")})
    async with serving(other) as client:
        imported = await client.post("/v1/conversations/import", content=exported.content, headers=LINES)
        again = await client.post("/v1/conversations/import", content=exported.content, headers=LINES)
        bad = await client.post("/v1/conversations/import", content=b'{"tomtat_store": 1}\nnot json', headers=LINES)
        read = await client.get(path("a/b", "messages"), params={"limit": 1000})

    assert exported.headers["content-type"] == "application/jsonl"
    assert len([json.loads(line) for line in exported.text.splitlines()]) >= 702
    assert nothing.status_code == 404
    assert imported.json()["turns"] == 700
    assert again.json()["known"] == 700
    assert bad.status_code == 400
    assert "Line 2" in bad.json()["error"]["message"]
    assert [one["message"] for one in read.json()["data"]] == talk(700)


async def test_a_users_conversations_are_listed_and_erased_together(settings: ServerSettings) -> None:
    async with serving(settings) as client:
        for number in range(3):
            await append(client, f"ann-{number}", [user("Hi")], user="ann")
        await append(client, "ben", [user("Hi")], user="ben")
        first = (await client.get("/v1/conversations", params={"user": "ann", "limit": 2})).json()
        second = (await client.get("/v1/conversations", params={"user": "ann", "after": first["last_id"]})).json()
        receipt = (await client.delete("/v1/conversations", params={"user": "ann"})).json()
        left = (await client.get("/v1/conversations")).json()

    assert [one["id"] for one in first["data"] + second["data"]] == ["ann-0", "ann-1", "ann-2"]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (receipt["conversations"], receipt["turns"], receipt["deleted"]) == (3, 3, True)
    assert [one["id"] for one in left["data"]] == ["ben"]


ADDRESSES = [
    ("GET", ()), ("DELETE", ()), ("GET", ("items",)), ("GET", ("items", "msg_1_0")),
    ("DELETE", ("items", "msg_1_0")), ("GET", ("messages",)), ("GET", ("context",)),
    ("GET", ("folds",)), ("GET", ("export",)), ("GET", ("search?query=code",)), ("POST", ("items",)), ("POST", ()),
]  # fmt: skip


async def test_another_tenants_conversation_is_as_unknown_as_any(
    served: tuple[FakeUpstream, str], tmp_path: Path
) -> None:
    ann, ben = (add_key(tmp_path / "keys.json", tenant)[1] for tenant in ("ann", "ben"))
    settings = settings_for(served[1], tmp_path, keys=str(tmp_path / "keys.json"))
    bodies = {("items",): {"items": [message("user", "x")]}, (): {"metadata": {"a": "b"}}}
    async with serving(settings) as client:
        client.headers["authorization"] = f"Bearer {ann}"
        await append(client, "secret-1", [user("The code is 9321.")])
        client.headers["authorization"] = f"Bearer {ben}"
        for method, more in ADDRESSES:
            body = {"json": bodies[more]} if method == "POST" else {}
            theirs = await client.request(method, path("secret-1", *more), **body)
            nobodys = await client.request(method, path("secret-2", *more), **body)
            assert theirs.status_code == nobodys.status_code == 404, (method, more)
            assert theirs.text.replace("secret-1", "secret-2") == nobodys.text
        own = await append(client, "secret-1", [user("Mine")])
        client.headers["authorization"] = f"Bearer {ann}"
        read = await client.get(path("secret-1", "messages"))

    assert own.json()["first"] == 1
    assert [one["message"]["content"] for one in read.json()["data"]] == ["The code is 9321."]


async def test_a_chat_and_its_conversation_are_the_same(settings: ServerSettings, upstream: FakeUpstream) -> None:
    headers = {"X-Conversation-Id": "chat-1", "X-Conversation-Turns": "new"}
    async with serving(settings) as client:
        await append(
            client, "chat-1", [user("The code is 9321."), {"role": "system", "content": "Speak Dutch.", "pinned": True}]
        )
        await ask(client, [user("Which code?")], headers=headers)
        read = await client.get(path("chat-1", "messages"))

    assert [one["content"] for one in upstream.last.messages] == ["The code is 9321.", "Speak Dutch.", "Which code?"]
    assert "pinned" not in str(upstream.last.messages)
    assert [one["message"]["role"] for one in read.json()["data"]] == ["user", "system", "user", "assistant"]


@pytest.mark.parametrize(
    ("method", "address", "body"),
    [
        ("POST", path("chat-1", "messages"), {"messages": [{"role": "nobody", "content": "x"}]}),
        ("POST", path("chat-1", "messages"), {"messages": [{"content": "x"}]}),
        ("POST", path("chat-1", "messages"), {}),
        ("POST", path("chat-1", "items"), {"items": []}),
        ("POST", path("x" * 600, "messages"), {"messages": [user("x")]}),
        ("POST", "/v1/conversations", {"metadata": {"a": 1}}),
        ("POST", "/v1/conversations", {"items": [{"type": "item_reference", "id": "x"}]}),
        ("POST", "/v1/conversations", {"id": "a\nb"}),
        ("GET", path("chat-1", "messages") + "?limit=0", None),
        ("GET", path("chat-1", "search"), None),
        ("DELETE", "/v1/conversations", None),
    ],
)  # fmt: skip
async def test_what_cant_be_is_a_400_that_says_why(
    settings: ServerSettings, method: str, address: str, body: Any
) -> None:
    async with serving(settings) as client:
        await append(client, "chat-1", [user("Hi")])
        answer = await client.request(method, address, json=body)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


async def test_items_of_a_request_that_was_given_up_and_its_retry_are_kept_once(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChatMemory.append

    def append(self: ChatMemory, *given: Any, **named: Any) -> Any:
        monkeypatch.setattr(ChatMemory, "append", real)
        real(self, "chat-1", [user("Hi")])  # the first one's, late
        return real(self, *given, **named)

    items = {"items": [{"type": "message", "role": "user", "content": "Hi"}]}
    async with serving(settings) as client:
        await client.post("/v1/conversations", json={"id": "chat-1"})
        monkeypatch.setattr(ChatMemory, "append", append)
        answer = await client.post("/v1/conversations/chat-1/items", json=items)
        listed = (await client.get("/v1/conversations/chat-1/items")).json()["data"]

    assert answer.status_code == 200
    assert [one["id"] for one in answer.json()["data"]] == [one["id"] for one in listed] == ["msg_1_0"]


async def test_of_two_that_begin_one_at_once_only_one_does(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomtat.server.conversations._is_there", lambda memory, name: False)  # as both saw it
    async with serving(settings) as client:
        answers = [
            await client.post("/v1/conversations", json={"id": "chat-1", "metadata": {"of": who}}) for who in ("a", "b")
        ]
        kept = (await client.get("/v1/conversations/chat-1")).json()

    assert [answer.status_code for answer in answers] == [200, 409]
    assert kept["metadata"] == {"of": "a"}


async def test_a_conversation_begun_anew_while_a_user_is_erased_stays(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChatMemory.forget

    def forget(self: ChatMemory, conversation: str) -> None:
        self.append(conversation, [user("anew")])
        real(self, conversation)

    async with serving(settings) as client:
        await client.post("/v1/conversations", json={"id": "chat-1", "user": "ann"})
        monkeypatch.setattr(ChatMemory, "forget", forget)
        await client.delete("/v1/conversations?user=ann")
        assert await texts(client, "chat-1") == ["anew"]
