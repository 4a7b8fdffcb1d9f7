"""Which conversation a request belongs to: nothing is kept twice, and nobody without an id gets what he did not send."""

import random
from typing import Any

import pytest

from memory_fakes import assistant, calls, result, talk, user
from server_subjects import MODEL, anyio_backend, ask, served, serving, settings, upstream  # noqa: F401
from tomtat.config import MemorySettings
from tomtat.memory import ChatMemory
from tomtat.server import ServerSettings
from tomtat.server.answers import Heard
from tomtat.server.errors import ApiError
from tomtat.server.through import budget_from, keep_answer
from tomtat.server.which import Place, Wanted, find_place, normal, split, wanted_from
from tomtat.store import Store, open_store
from tomtat.store.taken_back import take_back
from upstream_fake import FakeUpstream

pytestmark = pytest.mark.anyio
# ruff: noqa: F811

NAMED = {"X-Conversation-Id": "chat-1"}
ONLY_NEW = NAMED | {"X-Conversation-Turns": "new"}


@pytest.fixture
def memory(tmp_path: Any) -> Any:
    with open_store(tmp_path / "which.db") as store:
        yield ChatMemory(None, store, MemorySettings(background=False))


def kept(settings: ServerSettings, name: str | None = None) -> list[str]:
    """What stands in the only conversation, or in one by its name."""
    assert settings.store is not None
    with open_store(settings.store) as store:
        if name is None:
            [name] = [line.conversation for line in store.conversations()]
        return [str(turn.message.get("content")) for turn in store.history(name)]


def texts(*words: str) -> list[dict[str, Any]]:
    return [user(word) if place % 2 == 0 else assistant(word) for place, word in enumerate(words)]


async def test_a_history_that_grows_is_one_conversation(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        first = await ask(client, texts("a"))
        second = await ask(client, [{"role": "system", "content": "It is noon."}, *texts("a", "b", "c")])
        third = await ask(client, [{"role": "system", "content": "It is one."}, *texts("a", "b", "c", "d", "e")])

    assert len({answer.headers["x-conversation-id"] for answer in (first, second, third)}) == 1
    assert {answer.headers["x-conversation-branch"] for answer in (first, second, third)} == {"0"}
    assert kept(settings) == ["a", "b", "c", "d", "e"]


async def test_a_history_with_an_id_keeps_our_answer_and_knows_it_again(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        answer = await ask(client, texts("a"), headers=NAMED)
        message = answer.json()["choices"][0]["message"]
        await ask(client, [user("a"), message, user("c")], headers=NAMED, stream=True)
        again = await ask(client, [user("a"), message, user("c"), assistant("You said: c"), user("e")], headers=NAMED)

    assert again.headers["x-conversation-branch"] == "0"
    assert kept(settings) == ["a", "You said: a", "c", "You said: c", "e", "You said: e"]


async def test_a_client_that_changes_answers_opens_one_branch_not_one_for_each(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    history = texts("a")
    branches = []
    async with serving(settings) as client:
        for number in range(6):
            answer = await ask(client, history, headers=NAMED)
            branches.append(answer.headers["x-conversation-branch"])
            history = [*history, assistant(f"changed {number}"), user(f"turn {number}")]

    assert branches == ["0", "1", "1", "1", "1", "1"]


async def test_an_edit_opens_a_branch_that_shares_what_is_equal(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        await ask(client, texts("a", "b", "c"), headers=NAMED)
        edited = await ask(client, texts("a", "b", "x"), headers=NAMED)
        back = await ask(client, [*texts("a", "b", "c"), assistant("You said: c"), user("e")], headers=NAMED)

    assert edited.headers["x-conversation-branch"] == "1"
    assert back.headers["x-conversation-branch"] == "0"


async def test_the_id_may_stand_in_the_metadata(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        answer = await ask(client, texts("a"), metadata={"conversation_id": "Đơn hàng/7"})

    assert answer.headers["x-conversation-id"] == "Đơn hàng/7"
    assert upstream.last.body["metadata"] == {"conversation_id": "Đơn hàng/7"}


async def test_what_a_client_sends_anew_because_no_answer_came_is_kept_once(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        failed = await ask(client, texts("a"), headers=ONLY_NEW, model=f"{MODEL}!500")
        await ask(client, texts("a"), headers=ONLY_NEW)
        lost = await ask(client, texts("a"), headers=ONLY_NEW | {"x-stainless-retry-count": "1"})
        await ask(client, texts("a"), headers=ONLY_NEW)

    assert failed.status_code == 500
    assert lost.headers["x-conversation-branch"] == "0", "the same answer again"
    assert kept(settings) == ["a", "You said: a", "a", "You said: a"], "said twice on purpose is kept twice"


async def test_two_requests_of_one_idempotency_key_are_one(settings: ServerSettings, upstream: FakeUpstream) -> None:
    async with serving(settings) as client:
        for _ in range(2):
            await ask(client, texts("a"), headers=ONLY_NEW | {"Idempotency-Key": "k-1"})

    assert [message["content"] for message in upstream.last.messages] == ["a"]
    assert kept(settings) == ["a", "You said: a"]


async def test_a_prefix_gets_nothing_that_was_said_later(settings: ServerSettings, upstream: FakeUpstream) -> None:
    late = [user("The code of my locker is K-4471."), assistant("Noted, K-4471.")]
    history = [*talk(120), *late, *talk(60, seed=1), user("Which code has my locker?")]
    budget = {"X-Memory-Budget": "400"}
    async with serving(settings) as client:
        first = await ask(client, history, headers=budget)
        memories = client.app.state.services.memories  # type: ignore[attr-defined]
        memories.of("default").fold(first.headers["x-conversation-id"])
        await ask(client, history, headers=budget)
        assert "K-4471" in str(upstream.last.messages)
        for length in (120, 101, 61, 1):
            question = user("Which code has my locker?")
            await ask(client, [*history[: length - 1], question], headers=budget)
            assert "K-4471" not in str(upstream.last.messages)
            await ask(client, history[:length], headers=budget)
            assert "K-4471" not in str(upstream.last.messages)


async def test_clients_with_random_histories_get_back_only_their_own(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    """Many clients of one tenant that begin alike, edit, regenerate and go on; each turn has a mark of its own."""
    rng = random.Random(4)
    beginnings = talk(40)
    clients: list[list[dict[str, Any]]] = [beginnings[: rng.randint(0, 40)] for _ in range(8)]
    settings = settings.model_copy(update={"memory": MemorySettings(background=False, small_share=0.15)})
    marks = 0
    async with serving(settings) as client:
        memories = client.app.state.services.memories  # type: ignore[attr-defined]
        for _ in range(120):
            who = rng.randrange(len(clients))
            history = clients[who]
            if rng.random() < 0.2:
                history = history[: rng.randint(0, len(history))]
            if len(history) % 2:
                history = [*history, assistant("Noted.")]
            if rng.random() < 0.8:
                marks += 1
                history = [*history, user(f"Note the mark zq{marks}x of the kettle in the garden, which one was it?")]
            else:
                history = [*history, user("Which mark has the kettle in the garden?")]
            clients[who] = history
            answer = await ask(client, history, headers={"X-Memory-Budget": "250"})
            sent, said = str(upstream.last.messages), str(history)
            assert answer.headers["x-memory"] in ("whole", "folded", "over-budget")
            for mark in range(1, marks + 1):
                assert f"zq{mark}x" not in sent or f"zq{mark}x" in said
            if rng.random() < 0.3:
                memories.of("default").fold(answer.headers["x-conversation-id"])


async def test_a_request_without_an_id_adds_nothing_to_a_conversation_with_one(
    settings: ServerSettings, upstream: FakeUpstream
) -> None:
    async with serving(settings) as client:
        await ask(client, texts("a", "b", "c"), headers=NAMED, model=f"{MODEL}!500")
        answer = await ask(client, texts("a", "b", "c", "d", "e"))

    assert answer.headers["x-conversation-id"] != "chat-1"
    assert kept(settings, "chat-1") == ["a", "b", "c"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Conversation-Turns": "new"},
        {"X-Conversation-Turns": "some"} | NAMED,
        {"X-Conversation-Id": "x" * 513},
        {"X-Conversation-Id": "", "X-Conversation-Turns": "new"},
        {"X-Conversation-Id": "~abc", "X-Conversation-Turns": "new"},
        {"X-Memory-Budget": "many"},
        {"X-Memory-Budget": "0"},
    ],
)
async def test_headers_that_cant_be_meant_are_told(
    settings: ServerSettings, upstream: FakeUpstream, headers: dict[str, str]
) -> None:
    async with serving(settings) as client:
        answer = await ask(client, texts("a"), headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not upstream.asked


# -- messages in one shape

SAME = [
    (assistant("Hi"), {"role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}),
    (assistant("Hi"), {"content": [{"type": "text", "text": "Hi"}], "role": "assistant"}),
    (user("Hi"), {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": None}),
    (calls("1"), {**calls("1"), "content": ""}),
    (calls("1"), {"role": "assistant", "tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"of":"1"}'}}]}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_said_in_another_shape_is_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    "message",
    [
        user(""),
        user("Hi", name="Ann"),
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        result("1", ""),
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": "Hi", "reasoning_content": "hm"},
        {**calls("1"), "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "not json"}}]},
    ],
)  # fmt: skip
def test_nothing_that_says_something_is_left_out(message: dict[str, Any]) -> None:
    assert normal(message) == message


def test_only_what_the_system_says_first_is_no_turn() -> None:
    system = {"role": "system", "content": "s"}
    head, turns = split([system, {"role": "developer", "content": "d"}, user("a"), system])

    assert [message["content"] for message in head] == ["s", "d"]
    assert turns == [user("a"), system]


def test_an_erased_conversation_is_begun_anew(memory: ChatMemory) -> None:
    first = find_place(memory, Wanted(), texts("a", "b", "c"))
    memory.erase(first.conversation)
    second = find_place(memory, Wanted(), texts("a", "b", "c", "d", "e"))

    assert first.conversation != second.conversation
    assert isinstance(second, Place)
    assert second.new == 5


def test_two_that_begin_alike_share_no_branch(memory: ChatMemory) -> None:
    store: Store = memory.store
    places = [find_place(memory, Wanted(), texts("hi")) for _ in range(2)]
    one = find_place(memory, Wanted(), texts("hi", "yes?", "one"))
    other = find_place(memory, Wanted(), texts("hi", "yes?", "other"))

    assert places[0].conversation == places[1].conversation
    assert (one.conversation, one.branch) != (other.conversation, other.branch)
    ours = store.history(other.conversation, branch=other.branch, last=other.last)
    assert [turn.message["content"] for turn in ours] == ["hi", "yes?", "other"]


def test_an_empty_header_says_nothing():
    """As from programs whose template has nothing to put in."""
    assert wanted_from({"x-conversation-id": "", "x-conversation-user": ""}, {}) == Wanted()


class Overtaken(ChatMemory):
    """Just before it appends, somebody else does what is in `first`."""

    first: Any = None

    def append(self, *given: Any, **named: Any) -> Any:
        first, self.first = self.first, None
        if first is not None:
            first()
        return super().append(*given, **named)


@pytest.fixture
def overtaken(tmp_path: Any) -> Any:
    with open_store(tmp_path / "overtaken.db") as store:
        yield Overtaken(None, store, MemorySettings(background=False))


NEW = Wanted("chat-1", only_new=True)


def contents(memory: ChatMemory) -> list[Any]:
    return [turn.message["content"] for turn in memory.store.history("chat-1")]


@pytest.mark.parametrize("before", [[], texts("a", "b")])
def test_a_request_that_was_given_up_and_its_retry_add_once(overtaken: Overtaken, before: list[Any]) -> None:
    overtaken.append("chat-1", before)
    overtaken.first = lambda: find_place(overtaken, NEW, [user("c")])

    place = find_place(overtaken, NEW, [user("c")])

    assert contents(overtaken) == [*(one["content"] for one in before), "c"]
    assert (place.last, place.new, place.fork) == (len(before) + 1, 0, False)


def test_of_two_at_once_the_second_comes_behind_the_first(overtaken: Overtaken) -> None:
    overtaken.append("chat-1", texts("a", "b"))
    overtaken.first = lambda: find_place(overtaken, NEW, [user("c")])

    place = find_place(overtaken, NEW, [user("d")])

    assert contents(overtaken) == ["a", "b", "c", "d"]
    assert (place.branch, place.last) == (0, 4)


def test_of_two_at_once_after_a_deletion_nobody_hides_the_other(overtaken: Overtaken) -> None:
    overtaken.append("chat-1", texts("a", "b"))
    take_back(overtaken.store, overtaken.store.branches("chat-1")[0], 2, 2)
    overtaken.first = lambda: find_place(overtaken, NEW, [user("c")])

    place = find_place(overtaken, NEW, [user("d")])

    assert contents(overtaken) == ["a", "c", "d"]
    assert (place.branch, place.last) == (1, 3)


@pytest.mark.parametrize("meanwhile", [user("more"), assistant("b")])
def test_an_answer_comes_behind_what_was_said_while_it_was_kept(overtaken: Overtaken, meanwhile: Any) -> None:
    place = find_place(overtaken, NEW, [user("a")])
    overtaken.first = lambda: overtaken.append("chat-1", [meanwhile])

    keep_answer(None, "t", overtaken, place, Heard([assistant("b")], is_whole=True))  # type: ignore[arg-type]

    assert contents(overtaken) == (["a", "b"] if meanwhile == assistant("b") else ["a", "more", "b"])


def test_an_answer_whose_question_was_taken_back_hides_nothing(overtaken: Overtaken) -> None:
    find_place(overtaken, NEW, texts("a", "b"))
    place = find_place(overtaken, NEW, [user("c")])
    take_back(overtaken.store, overtaken.store.branches("chat-1")[0], 3, 3)
    find_place(overtaken, NEW, [user("d")])

    keep_answer(None, "t", overtaken, place, Heard([assistant("e")], is_whole=True))  # type: ignore[arg-type]

    assert contents(overtaken) == ["a", "b", "d", "e"]


async def test_histories_are_found_beside_conversations_of_names_in_any_script(memory: ChatMemory) -> None:
    for name in ("Đặt vé", "订票", "chat-1"):
        memory.append(name, texts("a", "b", "c"))
    first = find_place(memory, Wanted(), texts("a", "b", "c"))
    second = find_place(memory, Wanted(), texts("a", "b", "c", "d", "e"))

    assert first.conversation.startswith("~")
    assert (second.conversation, second.branch, second.new) == (first.conversation, 0, 2)


def test_numbers_of_thousands_of_digits_are_told_or_taken() -> None:
    for given in ("0" * 5000, "0" * 5000 + "7", "9" * 5000):
        with pytest.raises(ApiError):
            budget_from({"x-memory-budget": given}, 100)
    assert wanted_from({"x-stainless-retry-count": "9" * 5000}, {}).is_retry
    assert not wanted_from({"x-stainless-retry-count": "0" * 5000}, {}).is_retry
