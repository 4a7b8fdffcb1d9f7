"""Everything people bring: each format gives the same rows, damage costs only the row it is in, speakers keep names."""

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from conftest import rows, write_jsonl
from malformed import write_damaged
from tomtat.bulk import look_over, open_documents
from tomtat.data import DataOptions, Reject, load, load_examples, scan, scan_rows
from tomtat.errors import DataError, TomtatError
from tomtat.prompts import source_text
from tomtat.types import Example, Message

SKIP = DataOptions(on_bad_row="skip")
TRICKY = [
    {"id": "a", "dialogue": 'Ann: hi, "you"; there|\nBob: ngày mai\t4 → 🎉', "summary": "They, greet."},
    {"id": "b", "dialogue": "C: one\n\nD: it's two", "summary": 'A "second"\none;'},
    {"id": "c", "dialogue": "plain", "summary": "short"},
]


def found(source: object, options: DataOptions | None = None) -> list[tuple[Any, tuple[str, ...]]]:
    return [(example.source, example.references) for example in load(str(source), options or DataOptions()).examples]


def ids(source: object, **options: Any) -> list[Any]:
    return [example.id for example in load(str(source), DataOptions(**options)).examples]


WANTED = [(row["dialogue"], (row["summary"],)) for row in TRICKY]


def table(delimiter: str = ",", rows: list[dict[str, str]] = TRICKY, **how: Any) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, **how)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def parquet(rows: list[dict[str, str]] = TRICKY) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def lines(rows: list[dict[str, str]] = TRICKY) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


FILES: dict[str, bytes] = {
    "a.json": json.dumps(TRICKY).encode(),
    "pretty.json": json.dumps(TRICKY, indent=2, ensure_ascii=False).encode(),
    "wrapped.json": json.dumps({"version": 1, "data": TRICKY, "end": [1]}).encode(),
    "lines.json": lines(),
    "a.csv": table(),
    "all-quoted.csv": table(quoting=csv.QUOTE_ALL),
    "semicolons.csv": table(";"),
    "pipes.csv": table("|"),
    "mark.csv": b"\xef\xbb\xbf" + table(),
    "unix.csv": table(lineterminator="\n"),
    "backslash.csv": table(doublequote=False, escapechar="\\", quoting=csv.QUOTE_ALL),
    "a.tsv": table("\t"),
    "utf16.csv": table().decode().encode("utf-16"),
    "utf16-without-mark.tsv": table("\t").decode().encode("utf-16-le"),
    "utf16.jsonl": lines().decode().encode("utf-16"),
    "a.parquet": parquet(),
    "a.csv.gz": gzip.compress(table()),
    "a.jsonl.bz2": bz2.compress(lines()),
    "a.json.xz": lzma.compress(json.dumps(TRICKY).encode()),
    "a.tsv.zst": zstandard.compress(table("\t")),
    "a.parquet.gz": gzip.compress(parquet()),
    "two-archives.csv.gz": gzip.compress(table()[:50]) + gzip.compress(table()[50:]) + b"\0\0",
    "wrongly-named.csv": gzip.compress(table()),
    "without_an_ending": table(),
    "lines_without_an_ending": lines(),
}


@pytest.mark.parametrize("name", FILES)
def test_each_format_gives_the_same_rows(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(FILES[name])

    assert found(tmp_path / name) == WANTED
    assert ids(tmp_path / name) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.csv.gz", "lines_without_an_ending"])
def test_standard_input_is_known_by_how_it_begins(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILES[name])))

    assert found("-") == WANTED


def test_latin1_is_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "a.csv").write_bytes("text,summary\ncafé,“naïve”\n".encode("cp1252"))

    assert found(tmp_path / "a.csv") == [("café", ("“naïve”",))]
    assert "a.csv is not UTF-8: it is read as Latin-1" in caplog.text


def test_one_damaged_line_does_not_make_a_file_latin1(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("text,summary\ncafé,good\n".encode() + "café,bad\n".encode("latin-1"))

    assert found(tmp_path / "a.csv", SKIP) == [("café", ("good",))]
    with pytest.raises(DataError, match=r"a\.csv, line 3: not UTF-8"):
        load_examples(str(tmp_path / "a.csv"))


def test_a_table_of_pairs_needs_no_header(tmp_path: Path):
    (tmp_path / "a.tsv").write_text('"Hi," she said, and left.\tShe left.\nHe stayed. "Why?"\tHe stayed.\n')

    assert found(tmp_path / "a.tsv") == [
        ('"Hi," she said, and left.', ("She left.",)),
        ('He stayed. "Why?"', ("He stayed.",)),
    ]


def test_columns_are_known_by_usual_names_in_any_case_or_asked_for(tmp_path: Path):
    (tmp_path / "a.csv").write_text("Nr, Body ,TLDR\n1,text,short\n")
    assert found(tmp_path / "a.csv") == [("text", ("short",))]

    (tmp_path / "b.csv").write_text("mail;gist;other\ntext, with a comma;short;x\n")
    assert found(tmp_path / "b.csv", DataOptions("mail", "gist")) == [("text, with a comma", ("short",))]
    with pytest.raises(DataError, match=r"line 2: no field with the text .*found mail, gist, other.*source_field"):
        load_examples(str(tmp_path / "b.csv"))


def test_a_table_of_one_column_may_have_commas(tmp_path: Path):
    (tmp_path / "a.csv").write_text('text\nfirst, second\n"of two\nlines"\n')

    loaded = load(str(tmp_path / "a.csv"), DataOptions(needs_summary=False))
    assert [example.source for example in loaded.examples] == ["first, second", "of two\nlines"]


def test_messages_in_a_cell_are_messages(tmp_path: Path):
    (tmp_path / "a.csv").write_text('messages,summary\n"[{""role"": ""user"", ""content"": ""hi""}]",s\n"[{]",s\n')

    assert found(tmp_path / "a.csv") == [((Message("user", "hi"),), ("s",)), ("[{]", ("s",))]


def test_an_empty_cell_is_no_id_and_no_reason_against_summarizing(tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,text,summary\n,one,s\n7,two,\n")

    assert ids(tmp_path / "a.csv", needs_summary=False) == ["line-2", "7"]
    with pytest.raises(DataError, match="line 3: 'summary' is empty"):
        load_examples(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (("one", '"one'), [2]),
        (('"two\n', "two\n"), [3]),
        (("three,3", "three,3,4"), [6]),
        (("three,3", "thr\0ee,3"), [6]),
    ],
)
def test_a_damaged_row_of_a_table_costs_itself_only(tmp_path: Path, damage: tuple[str, str], lost: list[int]):
    whole = 'text,summary\none,1\n"two\nlines, and\nmore",2\nthree,3\n"four ""quoted""",4\n'
    (tmp_path / "a.csv").write_text(whole.replace(*damage))

    places = [place for place, row in scan_rows(str(tmp_path / "a.csv")) if isinstance(row, Reject)]

    assert places == [f"{tmp_path / 'a.csv'}, line {line}" for line in lost]
    assert len(found(tmp_path / "a.csv", SKIP)) == 3


def test_folders_and_patterns_are_read_together(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    write_jsonl(folder / "a.jsonl", [{"text": "one", "summary": "s"}])
    (folder / "deep" / "b.csv").write_text("text,summary\ntwo,s\n")
    (folder / "deep" / "c.txt.gz").write_bytes(gzip.compress(b"three"))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("no")

    assert ids(f"{folder}/", needs_summary=False) == ["a.jsonl:line-1", "deep/b.csv:line-2", "deep/c"]
    assert "1 files of other kinds are left out (endings: .png)" in caplog.text
    assert ids(f"{folder}/**/*.csv") == ["deep/b.csv:line-2"]
    assert ids(f"{folder}/**/*.*[1:2]", needs_summary=False) == ["deep/b.csv:line-2"]
    with pytest.raises(DataError, match="No file is called like"):
        load_examples(f"{folder}/*.tsv")


def test_ids_of_several_files_do_not_collide_in_silence(tmp_path: Path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": name, "text": "t", "summary": "s"}, {"id": 1, "text": "t", "summary": "s"}])  # fmt: skip

    with pytest.raises(DataError, match=r"b\.jsonl, line 2: the id 1 stands in .*a\.jsonl, line 2 already"):
        load_examples(f"{tmp_path}/*.jsonl")
    assert ids(f"{tmp_path}/*.jsonl", on_bad_row="skip") == ["a", 1, "b"]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.txt.gz+summaries.txt"])
def test_a_row_that_a_cut_archive_cut_is_no_row(tmp_path: Path, name: str):
    texts = [f"text {number} {random.Random(number).randbytes(40).hex()}" for number in range(3000)]
    content = {
        "a.csv.gz": "text,summary\n" + "".join(f"{text},s\n" for text in texts),
        "a.jsonl.gz": "".join(json.dumps({"text": text, "summary": "s"}) + "\n" for text in texts),
        "a.txt.gz+summaries.txt": "".join(f"{text}\n" for text in texts),
    }[name]
    packed = gzip.compress(content.encode())
    (tmp_path / "summaries.txt").write_text("s\n" * 3000)
    path, _, summaries = name.partition("+")
    source = f"{tmp_path / path}+{tmp_path / summaries}" if summaries else str(tmp_path / path)
    for size in range(len(packed) // 2, len(packed) // 2 + 20):
        (tmp_path / path).write_bytes(packed[:size])

        there = [example.source for example in load(source, SKIP).examples]
        assert there == texts[: len(there)]
        assert len(there) > 1000
        told = [found.reason for found in scan(source) if isinstance(found, Reject)]
        assert "the gzip data is cut off here" in told[-1]


def test_an_unreadable_file_among_others_is_one_bad_row(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(parquet()[:-5])
    (tmp_path / "b.csv").write_bytes(table())

    assert found(tmp_path, SKIP) == WANTED
    with pytest.raises(DataError, match=r"a\.parquet can't be read as Parquet"):
        load_examples(str(tmp_path / "a.parquet"))


def test_parallel_files_are_pairs(tmp_path: Path):
    (tmp_path / "articles.txt").write_text("one\ntwo\n")
    (tmp_path / "summaries.txt").write_text("1\n2\n")
    source = f"{tmp_path}/articles.txt+{tmp_path}/summaries.txt"

    assert found(source) == [("one", ("1",)), ("two", ("2",))]
    (tmp_path / "summaries.txt").write_text("1\n")
    with pytest.raises(DataError, match=r"line 2: .*summaries\.txt has only 1 lines"):
        load_examples(source)


# Conversations


def said(source: object) -> list[tuple[str, str | None, str]]:
    [example] = load_examples(str(source), needs_summary=False)
    assert not isinstance(example.source, str), example.source
    return [(message.role, message.name, message.content) for message in example.source]


TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
NODES = {
    "root": {"message": None, "parent": None},
    "s": {"message": {"author": {"role": "system"}, "content": {"content_type": "text", "parts": [""]}}, "parent": "root"},
    "a": {"message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["hi"]}}, "parent": "s"},
    "b": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Other."]}}, "parent": "a"},
    "c": {"message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Hello."]}}, "parent": "a"},
}  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        {"messages": TALK},
        TALK,
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "Hello."}]},
        {"request": {"model": "m", "messages": TALK[:1]}, "response": {"choices": [{"message": TALK[1]}]}},
        {"method": "POST", "body": {"messages": TALK}},
        {"request": {"input": TALK[:1]}, "response": {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}]}},
        {"title": "t", "mapping": NODES, "current_node": "c"},
    ],
    ids=["messages", "list", "sharegpt", "log", "batch", "responses", "chatgpt"],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_each_shape_of_a_conversation_gives_the_same_messages(tmp_path: Path, value: Any, ending: str):
    path = tmp_path / f"a{ending}"
    path.write_text(json.dumps(value))
    assert said(path) == [("user", None, "hi"), ("assistant", None, "Hello.")]
    if ending == ".json":
        path.write_text(json.dumps([value, value] if isinstance(value, dict) else {"data": [value, value]}))
        assert len(load_examples(str(path), needs_summary=False)) == 2


def test_speakers_by_other_names_keep_them(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"dialogue": [{"speaker": "Ann", "text": "hi"}, {"author": "Bob", "message": "you"}]}])  # fmt: skip

    assert said(path) == [("user", "Ann", "hi"), ("user", "Bob", "you")]


WHATSAPP = {
    "Android, 12 hours": (
        "12/31/23, 9:15\u202fPM - Messages and calls are end-to-end encrypted.\n"
        "12/31/23, 9:15\u202fPM - Ann: hi\nand: more\n12/31/23, 9:16\u202fPM - Ann added Cy\n"
        "12/31/23, 9:16\u202fPM - Bob: <Media omitted>\n"
    ),
    "Android, German": "31.12.23, 21:15 - Ann: hi\nand: more\n31.12.23, 21:16 - Bob: <Medien ausgeschlossen>\n",
    "Android, India": "31/12/2023, 9:15 pm - Ann: hi\nand: more\n31/12/2023, 9:16 pm - Bob: <Media omitted>\n",
    "Android, Vietnamese": "21:15, 31/12/2023 - Ann: hi\nand: more\n21:16, 31/12/2023 - Bob: <Media omitted>\n",
    "iOS, 12 hours": "[12/31/23, 9:15:07 PM] Ann: hi\nand: more\n\u200e[12/31/23, 9:16:07 PM] Bob: \u200eimage omitted\n",
    "iOS, German": "[31.12.23, 21:15:07] Ann: hi\r\nand: more\r\n[31.12.23, 21:16:07] ~ Bob: Bild weggelassen\r\n",
    "iOS, Korean": "[2023. 12. 31. 오후 9:15:07] Ann: hi\nand: more\n[2023. 12. 31. 오후 9:16:07] Bob: \u200eimage omitted",
}


@pytest.mark.parametrize("name", WHATSAPP)
def test_whatsapp_exports_of_many_places(tmp_path: Path, name: str):
    (tmp_path / "chat.txt").write_bytes(WHATSAPP[name].encode())

    assert said(tmp_path / "chat.txt") == [("user", "Ann", "hi\nand: more"), ("user", "Bob", "[media]")]


@pytest.mark.parametrize(
    "text",
    [
        "Ann: hi\nand more\nBob: you",
        "[10:02] Ann: hi\nand more\n[10:03] Bob: you",
        "2024-05-01 10:02:03 Ann: hi\nand more\n2024-05-01 10:03:00 Bob: you",
        "Ann (10:02): hi\nand more\nBob (10:03): you",
        "WEBVTT\n\n1\n00:01.000 --> 00:02.000\n<v Ann>hi</v>\nand more\n\n2\n00:02.000 --> 00:03.000\n<v Bob>you</v>",
    ],
)
def test_transcripts_keep_who_said_what(tmp_path: Path, text: str):
    (tmp_path / "a.txt").write_text(text)

    assert said(tmp_path / "a.txt") == [("user", "Ann", "hi\nand more"), ("user", "Bob", "you")]
    [example] = load_examples(str(tmp_path / "a.txt"), needs_summary=False)
    assert source_text(example.source) == "Ann: hi\nand more\nBob: you"


@pytest.mark.parametrize(
    "text",
    [
        "The council met. It said: no more.\nNote: a second line.\nThen they all went home, and nothing else was said.",
        "Name: x\nAge: 4\nCity: y\nPhone: z\nMail: u",
        "Subject: the meeting",
    ],
)
def test_texts_that_are_no_transcripts_stay_texts(tmp_path: Path, text: str):
    (tmp_path / "a.txt").write_text(text)

    [example] = load_examples(str(tmp_path / "a.txt"), needs_summary=False)
    assert (example.source, example.id) == (text, "a")


def test_a_slack_export_is_days_of_channels_with_names_and_threads(tmp_path: Path):
    channel = tmp_path / "export" / "general"
    channel.mkdir(parents=True)
    users = [{"id": "U1", "name": "ann", "profile": {"display_name": "Ann"}}, {"id": "U2", "real_name": "Bob B"}]
    (tmp_path / "export" / "users.json").write_text(json.dumps(users))
    day = [
        {"type": "message", "user": "U1", "text": "Who is in, <@U2>? &amp; see <http://x.y|this>", "ts": "1.0", "thread_ts": "1.0"},
        {"type": "message", "user": "U2", "text": "Lunch", "ts": "2.0"},
        {"type": "message", "subtype": "channel_join", "user": "U2", "text": "joined", "ts": "2.5"},
        {"type": "message", "user": "U2", "text": "Me", "ts": "3.0", "thread_ts": "1.0"},
        {"type": "message", "subtype": "bot_message", "username": "cal", "text": "", "files": [{"title": "plan.pdf"}], "ts": "4.0"},
    ]  # fmt: skip
    (channel / "2024-05-01.json").write_text(json.dumps(day))
    (channel / "2024-05-02.json").write_text(json.dumps([{"text": "no time"}]))

    with pytest.raises(DataError, match=r"2024-05-02\.json: no list of Slack's messages"):
        load_examples(f"{tmp_path}/export", needs_summary=False)
    [example] = load(f"{tmp_path}/export", DataOptions(needs_summary=False, on_bad_row="skip")).examples
    assert example.id == "general/2024-05-01"
    assert source_text(example.source) == (
        "Ann: Who is in, @Bob B? & see this\nBob B: Me\nBob B: Lunch\ncal: [plan.pdf]"
    )


# Size, damage


def big(path: Path, count: int) -> Path:
    text = "word " * 500
    match "".join(path.suffixes):
        case ".jsonl.gz":
            with gzip.open(path, "wt") as file:
                file.writelines(json.dumps({"text": f"{n} {text}"}) + "\n" for n in range(count))
        case ".json":
            path.write_text("[" + ",\n".join(json.dumps({"text": f"{n} {text}"}) for n in range(count)) + "]")
        case ".csv":
            path.write_text("text,x\n" + "".join(f'"{n} {text}",1\n' for n in range(count)))
        case ".parquet":
            schema = pa.schema([("text", pa.string())])
            with pq.ParquetWriter(path, schema) as writer:
                writer.write_table(pa.table({"text": [f"{n} {text}" for n in range(count)]}), row_group_size=500)
    return path


@pytest.mark.parametrize("ending", [".jsonl.gz", ".json", ".csv", ".parquet"])
def test_memory_stays_flat_however_many_rows(tmp_path: Path, ending: str):
    def peak(count: int) -> int:
        path = big(tmp_path / f"{count}{ending}", count)
        tracemalloc.start()
        with open_documents(path) as source:
            documents = look_over(source, str(path), DataOptions(needs_summary=False))
            assert sum(len(window.examples) for window in documents.windows()) == documents.rows == count
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    few, many = peak(1000), peak(4000)  # 2.5 megabytes and 10
    assert many < few + 1_500_000


def test_a_slice_reads_no_more_than_it_names(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,summary\n" + b"t,s\n" * 50 + b'"never closed\n' + b"t,s\n" * 50)

    assert len(load_examples(f"{path}[:50]")) == 50
    assert len(load(f"{path}[-10:]", SKIP).examples) == 10
    with pytest.raises(DataError, match="line 52"):
        load_examples(str(path))


@pytest.mark.parametrize("part", range(8))
def test_malformed_files_never_give_a_traceback_and_never_lose_a_good_row(
    tmp_path: Path, part: int, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL)
    for seed in range(part * 30, part * 30 + 30):
        path, wanted, how = write_damaged(tmp_path, seed)
        rows_there, told = tried(path, SKIP)
        assert [row for row in wanted if row not in rows_there] == [], f"seed {seed}: {how}"
        assert rows_there or told.startswith(str(path)), f"seed {seed}: {how}"
        _, told = tried(path, DataOptions())
        assert told.startswith(str(path) if told else ""), f"seed {seed}: {how}"
        assert "\n" not in told, f"seed {seed}: {how}"


def tried(path: Path, options: DataOptions) -> tuple[list[Any], str]:
    """The rows, or what is told instead; whatever else is raised is a bug."""
    try:
        return found(path, options), ""
    except TomtatError as error:
        return [], str(error)


@pytest.mark.parametrize("seed", range(10))
def test_one_damaged_file_in_a_folder_costs_none_of_the_others(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    data = [{name: row[name] for name in ("dialogue", "summary")} for row in TRICKY]
    files = {
        "a.json": json.dumps(data).encode(),
        "b.csv": table(rows=data),
        "c.parquet": parquet(data),
        "d.jsonl.gz": gzip.compress(lines(data)),
        "e.tsv.xz": lzma.compress(table("\t", data)),
    }
    damaged = rng.choice(list(files))
    for name, content in files.items():
        at = rng.randrange(len(content))
        ways = [content[:at], content[:at] + rng.randbytes(20) + content[at + 20 :], b"\0" * 50]
        (tmp_path / name).write_bytes(rng.choice(ways) if name == damaged else content)

    loaded = load(str(tmp_path), SKIP)

    for name in set(files) - {damaged}:
        there = [example for example in loaded.examples if str(example.id).startswith(f"{name}:")]
        assert [(example.source, example.references) for example in there] == WANTED, (name, damaged)


def test_every_row_is_an_example_or_a_reject_with_its_place(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [*rows(2), {"text": 5}, "no row", *rows(1)])

    kinds = [(type(row), place.split()[-1]) for place, row in scan_rows(str(path))]

    assert kinds == [(Example, "1"), (Example, "2"), (Reject, "3"), (Reject, "4"), (Reject, "5")]
    assert sum(isinstance(row, Example) for row in scan(str(path))) == 2


# The command


def test_summarize_reads_a_pattern_and_goes_on(tomtat: Callable[..., Any], tiny_t5: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.csv.gz").write_bytes(gzip.compress(f"mail\nthe meeting {name}\nmoves to friday\n".encode()))
    out = tmp_path / "out.jsonl"
    arguments = ("summarize", tiny_t5, f"{folder}/*.csv.gz", "--source-field", "mail", "--max-new-tokens", 3, "--device", "cpu")  # fmt: skip

    assert tomtat(*arguments, "-o", out).code == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [
        "a.csv.gz:line-2", "a.csv.gz:line-3", "b.csv.gz:line-2", "b.csv.gz:line-3",
    ]  # fmt: skip
    assert f"all 4 summaries are in {out} already" in tomtat(*arguments, "-o", out).err
    inside = tomtat("summarize", tiny_t5, folder, "--source-field", "mail", "-o", folder / "out.jsonl")
    assert (inside.code, "lies among the files that are read" in inside.err) == (2, True)


def test_summarize_gives_a_chat_by_its_speakers(
    tomtat: Callable[..., Any], tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tomtat.summarizer import Summarizer, Summary

    seen: list[Any] = []
    monkeypatch.setattr(
        Summarizer, "generate", lambda self, sources: seen.extend(sources) or [Summary("short", 1, 1, "stop")]
    )
    (tmp_path / "chat.txt").write_text(WHATSAPP["iOS, German"])

    assert tomtat("summarize", tiny_t5, tmp_path / "chat.txt").out == "short\n"
    assert seen == [(Message("user", "hi\nand: more", "Ann"), Message("user", "[media]", "Bob"))]


def test_random_texts_are_never_a_traceback(tmp_path: Path):
    rng = random.Random(0)
    for number in range(60):
        path = tmp_path / f"{number}.{rng.choice(['csv', 'json', 'jsonl', 'txt', 'parquet', 'gz', 'tsv', 'dat'])}"
        start = rng.choice([b"", b"\x1f\x8b\x08", b"PAR1", b"\xff\xfe", b"{", b'[{"', b"BZh9", b"\x28\xb5\x2f\xfd"])
        path.write_bytes(start + rng.randbytes(rng.randint(0, 300)))
        for options in (SKIP, DataOptions(needs_summary=False)):
            rows_there, told = tried(path, options)
            assert rows_there or told.startswith(str(path))
            assert "\n" not in told
