import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import rows, write_jsonl
from tomtat.data import DataOptions, load, load_examples
from tomtat.data.slices import parse_spec
from tomtat.errors import DataError
from tomtat.types import Message, ToolCall


@pytest.mark.parametrize(
    ("row", "source", "references"),
    [
        ({"article": "A long text.", "highlights": "One.\nTwo."}, "A long text.", ("One.\nTwo.",)),
        ({"dialogue": "#Person1#: hi", "summary": "A greeting."}, "#Person1#: hi", ("A greeting.",)),
        ({"document": "Text.", "summary": ["a", "b"]}, "Text.", ("a", "b")),
        ({"text": "Text.", "summary": "a", "references": ["x", "y", "z"]}, "Text.", ("x", "y", "z")),
        ({"messages": [{"role": "user", "content": "hi"}], "summary": "s"}, (Message("user", "hi"),), ("s",)),
    ],
)
def test_usual_columns_are_known(tmp_path: Path, row: dict[str, Any], source: object, references: tuple[str, ...]):
    [example] = load_examples(str(write_jsonl(tmp_path / "a.jsonl", [row])))

    assert (example.source, example.references, example.id) == (source, references, "line-1")


def test_messages_keep_names_tool_calls_and_content_parts(tmp_path: Path):
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "user", "name": "Ines", "content": [{"type": "text", "text": "look"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    [example] = load_examples(str(write_jsonl(tmp_path / "a.jsonl", [{"messages": messages, "summary": "s"}])))

    assert example.source == (
        Message("user", "look\n[image_url]", "Ines"),
        Message("assistant", "", tool_calls=(ToolCall("find", '{"x": 1}', "c1"),)),
    )


def test_fields_can_be_named(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"body": "Text.", "abstract": "Short."}])

    [example] = load(str(path), DataOptions("body", "abstract")).examples

    assert (example.source, example.references) == ("Text.", ("Short.",))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[:3]", [0, 1, 2]),
        ("[9:]", [9]),
        ("[-2:]", [8, 9]),
        ("[2:4]", [2, 3]),
        ("[:50%]", [0, 1, 2, 3, 4]),
        ("[:1_0]", list(range(10))),
        ("@train[90%:]", [9]),
        ("@train", list(range(10))),
    ],
)
def test_slices_work_on_files(tmp_path: Path, text: str, numbers: list[int]):
    path = write_jsonl(tmp_path / "a.jsonl", rows(10))

    assert [example.id for example in load_examples(f"{path}{text}")] == [f"row-{n}" for n in numbers]


def test_half_a_percent_of_cnn_dailymail_is_1435_rows():
    # The course notebook takes this slice and then row 10,000 of it.
    assert len(parse_spec("cnn_dailymail:3.0.0@train[:0.5%]").rows(287_113, "x")) == 1435


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[:11]", "only 10 rows"),
        ("[:0.5%]", "takes no row at all"),
        ("[:x]", "neither a row number nor a percentage"),
        ("[:150%]", "more than all"),
        ("@test", "a file is a single split"),
    ],
)
def test_impossible_slices_say_why(tmp_path: Path, text: str, message: str):
    path = write_jsonl(tmp_path / "a.jsonl", rows(10))
    with pytest.raises(DataError, match=message):
        load_examples(f"{path}{text}")


BAD_ROWS: list[tuple[bytes, str]] = [
    (b'{"article": "a", "highlights": "b"', "not valid JSON"),
    (b'{"article": "\xff", "highlights": "b"}', "not UTF-8"),
    (b'["a", "b"]', "must be an object"),
    (b'{"article": "a"}', "no field with the summary"),
    (b'{"highlights": "b"}', "no field with the text"),
    (b'{"article": 5, "highlights": "b"}', "'article' must be a text"),
    (b'{"article": " ", "highlights": "b"}', "'article' is empty"),
    (b'{"article": "a", "highlights": ""}', "'highlights' is empty"),
    (b'{"article": "a", "highlights": null}', "null"),
    (b'{"article": "a", "summaries": []}', "empty list"),
    (b'{"article": "a", "summaries": ["b", 5]}', "must be a text"),
    (b'{"messages": [], "summary": "b"}', "empty list of messages"),
    (b'{"messages": [{"content": "x"}], "summary": "b"}', "message 1 needs a 'role'"),
    (b'{"messages": [{"role": "user", "content": 5}], "summary": "b"}', "'content' must be"),
    (b'{"id": "good", "article": "a", "highlights": "b"}', "stands in line 1 already"),
    (b'{"id": [], "article": "a", "highlights": "b"}', "'id' must be"),
    (b'{"text": "cut emoji \\ud83d", "summary": "b"}', "surrogate"),
    (b'{"text": "a", "n": ' + b"1" * 5000 + b', "summary": "b"}', "too long"),
    (b'{"messages": [{"role": "user", "content": "x", "tool_calls": 5}], "summary": "b"}', "must be a list"),
    (b"[" * 100_000, "nested too deeply|not valid JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_ROWS)
def test_a_bad_row_stops_with_its_line_and_can_be_skipped(tmp_path: Path, line: bytes, message: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": "good", "article": "a", "highlights": "b"}\n' + line + b"\n\n" + b'{"article": "c", "highlights": "d"}'
    )

    with pytest.raises(DataError, match=message) as error:
        load_examples(str(path))
    assert f"{path}, line 2" in str(error.value)
    loaded = load(str(path), DataOptions(on_bad_row="skip"))
    assert [example.id for example in loaded.examples] == ["good", "line-4"]
    [reject] = loaded.rejects
    assert reject.where.endswith("line 2")


def test_line_separators_inside_a_text_end_no_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one\u2028two\x85three", "summary": "s"}, ensure_ascii=False), encoding="utf-8")

    assert load_examples(str(path))[0].source == "one\u2028two\x85three"


def test_windows_files_with_a_byte_order_mark_are_read(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "summary": "s"}\r\n{"text": "b", "summary": "s"}\r\n')

    assert len(load_examples(str(path))) == 2


def test_a_file_with_brackets_in_its_name_is_that_file(tmp_path: Path):
    path = write_jsonl(tmp_path / "a@b[1:2].jsonl", rows(2))

    assert len(load_examples(str(path))) == 2


def test_a_hub_data_set_is_read_by_name_config_split_and_slice(monkeypatch: pytest.MonkeyPatch):
    import datasets
    from huggingface_hub import HfApi

    asked: list[Any] = []

    def load_dataset(*names: Any, split: str) -> Any:
        asked.append((*names, split))
        return datasets.Dataset.from_list(
            [{"article": f"text {n}", "highlights": "s", "id": str(n)} for n in range(200)]
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: None)

    examples = load_examples("cnn_dailymail:3.0.0@validation[:0.5%]")

    assert asked == [("cnn_dailymail", "3.0.0", "validation")]
    assert [example.id for example in examples] == ["0"]


def test_an_unreachable_hub_says_so_and_names_the_way_out(monkeypatch: pytest.MonkeyPatch):
    import datasets
    from huggingface_hub import HfApi

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"hub can't be reached.*\.jsonl file, or `chats`"):
        load_examples("cnn_dailymail:3.0.0@train")
    assert datasets.config.HF_HUB_OFFLINE is False


def test_bundled_splits_are_told_when_a_wrong_one_is_asked_for():
    with pytest.raises(DataError, match="train, validation, test"):
        load_examples("chats@dev")


def test_ids_stay_as_given_and_null_means_none(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": n, "text": "t", "summary": "s"} for n in (7, "7", None)])

    assert [example.id for example in load_examples(str(path))] == [7, "7", "line-3"]


def test_a_runs_own_field_names_do_not_forbid_the_usual_ones(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "usual", "summary": "s"}, {"body": "own", "summary": "s"}])

    assert [e.source for e in load(str(path), DataOptions("body", or_usual=True)).examples] == ["usual", "own"]
    with pytest.raises(DataError, match="'body'"):
        load(str(path), DataOptions("body"))


def test_data_show_tells_lengths_and_shows_a_row(tomtat: Callable[..., Any], tmp_path: Path):
    shown = tomtat("data", "show", "chats@test", "--row", "chat-003")
    assert shown.code == 0
    assert "30 rows" in shown.out
    assert "turns" in shown.out
    assert "Fact: " in shown.out
    assert "chat-003" in tomtat("data", "show", "chats@test", "--row", 1).out
    assert "long-01" in tomtat("data", "show", "chats:long").out
    wrong = tomtat("data", "show", "chats@test", "--row", "chat-999")
    assert (wrong.code, "no row 'chat-999'" in wrong.err) == (2, True)
    texts = write_jsonl(tmp_path / "a.jsonl", [{"text": "Nothing but a text."}])
    assert "Nothing but a text." in tomtat("data", "show", texts).out
