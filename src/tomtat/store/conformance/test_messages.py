"""What a message may be: it comes back as it was given, or is refused whole."""

from typing import Any

import pytest

from tomtat.errors import StoreError
from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, messages, noise, says
from tomtat.store.conformance.subject import Subject
from tomtat.types import Message, ToolCall

CALL = {"id": "call-1", "type": "function", "function": {"name": "find_order", "arguments": '{"id": "LM-48213"}'}}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": says("Hello"),
    "empty": says(""),
    "blank": says(" \n\t "),
    "named": says("Hello", name="Minh Anh"),
    "system": says("Be brief.", "system"),
    "developer": says("Be brief.", "developer"),
    "with id": says("Hello", id="m-1"),
    "tool calls": says(None, "assistant", tool_calls=[CALL]),
    "text and tool calls": says("Let me look.", "assistant", tool_calls=[CALL, CALL]),
    "tool calls without content": {"role": "assistant", "tool_calls": [CALL]},
    "tool result": says('{"status": "shipped"}', "tool", tool_call_id="call-1"),
    "function call": says(None, "assistant", function_call={"name": "f", "arguments": "{}"}),
    "function result": says("42", "function", name="f"),
    "refusal": says(None, "assistant", refusal="I can't help with that."),
    "parts": says([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
    "no parts": says([]),
    "audio part": says([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    "file part": says([{"type": "file", "file": {"filename": "report.pdf", "file_data": "AAAA"}}]),
    "unknown fields": says("Hello", metadata={"a": [1, 2.5, None, True, {"b": "c"}]}, weight=0.5, nothing=None),
    "unknown part": says([{"type": "hologram", "depth": 3}]),
    "emoji": says("👩‍👩‍👧‍👦 🇻🇳 é é"),
    "not in the basic plane": says("𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎"),
    "NUL": says("a\0b"),
    "NUL in a field": says("Hello", note="a\0b", name="x\0y"),
    "control characters": says("".join(map(chr, range(1, 32))) + "\x7f\u2028\u2029\ufeff"),
    "right to left": says("שלום مرحبا"),
    "quotes": says("'\"`; DROP TABLE turns; -- \\ %s ? :x {y}"),
    "line ends": says("a\r\nb\rc\n"),
    "big number": says("Hello", seed=2**80, tiny=1e-300),
    "a key that is no word": {**says("Hello"), "": 1, "ключ": 2, "a b": 3},
    "a role in a field": says("Hello", meta={"role": "x", "content": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_a_message_comes_back_as_it_was_given(store: Store, name: str) -> None:
    store.append("chat", [SHAPES[name]])

    assert messages(store.history("chat")) == [SHAPES[name]]


def test_all_shapes_come_back_after_they_were_compressed_and_none_is_known_for_another(
    subject: Subject, place: str
) -> None:
    said = [shape for shape in SHAPES.values() for _ in range(2) if "id" not in shape] * 6
    with subject.open(place) as store:
        store.append("chat", said)
        store.tidy()

    with subject.open(place) as store:
        assert messages(store.history("chat")) == said
        assert store.append("chat", said, after=0).new == 0
        assert store.check().is_sound


def test_a_message_of_tomtats_own_type_is_stored_in_openai_s_shape(store: Store) -> None:
    store.append("chat", [
        Message("user", "Where is it?", name="Ann", id="m-1"),
        Message("assistant", "", tool_calls=(ToolCall("find_order", '{"id": 1}', "call-1"), ToolCall("stop", "{}"))),
    ])  # fmt: skip

    first, second = messages(store.history("chat"))

    assert first == {"role": "user", "content": "Where is it?", "name": "Ann", "id": "m-1"}
    assert second["tool_calls"] == [
        {"id": "call-1", "type": "function", "function": {"name": "find_order", "arguments": '{"id": 1}'}},
        {"type": "function", "function": {"name": "stop", "arguments": "{}"}},
    ]


REFUSED: dict[str, Any] = {
    "half of a surrogate pair": says("a\ud83db"),
    "half of a pair in a field": says("Hello", name="\udc00"),
    "half of a pair in a part": says([{"type": "text", "text": "\ud800"}]),
    "no role": {"content": "Hello"},
    "unknown role": says("Hello", "narrator"),
    "no content": {"role": "user"},
    "null content": says(None),
    "number as content": says(7),
    "part without a type": says([{"text": "Hello"}]),
    "text among parts": says(["Hello"]),
    "id is no text": says("Hello", id=7),
    "not JSON": says("Hello", when={1, 2}),
    "not a number in JSON": says("Hello", score=float("nan")),
    "text": "Hello",
    "None": None,
    "list": ["user", "Hello"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_message_is_refused_with_its_number_and_nothing_of_its_batch_is_stored(
    store: Store, name: str
) -> None:
    store.append("chat", chat(1))

    with pytest.raises(StoreError, match="message 2 of 3"):
        store.append("chat", [says("before"), REFUSED[name], says("after")])

    assert messages(store.history("chat")) == chat(1)


def test_a_message_of_a_megabyte_is_stored_found_again_and_known_again(store: Store) -> None:
    huge = "Đơn hàng LM-77310. " + noise(1_000_000)
    store.append("chat", [says(huge), says("short")])

    assert contents(store.history("chat")) == [huge, "short"]
    assert store.append("chat", [says(huge), says("short")], after=0).new == 0
    assert [hit.turn.seq for hit in store.search("77310", conversation="chat")][:1] == [1]


def test_a_long_chat_with_huge_messages_is_compressed_and_comes_back(store: Store) -> None:
    said = chat(200)
    for n in (10, 70, 130):
        said[n] = says(noise(300_000, seed=n))
    store.append("chat", said)
    store.tidy()

    assert messages(store.history("chat")) == said
    assert store.check().is_sound


def test_thousands_of_messages_in_one_append_are_one_append(store: Store) -> None:
    done = store.append("chat", chat(5000))

    assert (done.first, done.last, done.new) == (1, 5000, 5000)
    assert messages(store.history("chat")) == chat(5000)


def test_what_the_caller_changes_afterwards_does_not_change_what_is_stored(store: Store) -> None:
    message = says("Hello", tags=["a"])
    store.append("chat", [message])

    message["tags"].append("b")
    message["content"] = "Goodbye"

    assert messages(store.history("chat")) == [says("Hello", tags=["a"])]


def test_calls_of_the_older_form_are_found_by_their_name_and_arguments(store: Store) -> None:
    store.append(
        "chat", [says(None, "assistant", function_call={"name": "find_order", "arguments": '{"id": "LM-48213"}'})]
    )
    store.append("chat", chat(20))

    for indexed in (False, True):
        if indexed:
            store.tidy()
        for query in ("LM-48213", "find order"):
            assert [hit.turn.seq for hit in store.search(query, conversation="chat", limit=1)] == [1]
