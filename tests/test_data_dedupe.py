"""`tomtat data dedupe`: what data check tells is left out, and nothing else is touched."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from tomtat.checking.unique import write_unique
from tomtat.data import DataOptions
from tomtat.errors import ConfigError, DataError
from tomtat.progress import Advance, Progress

LONG = "anna and omar talk about the trip to the sea on sunday and who brings the tent and the stove and the map"


@pytest.fixture
def repeats(tmp_path: Path) -> Path:
    """Seven rows: the third says what the first says, the fifth what the second does, nearly."""
    lines = [
        '{"dialogue": "See you at  nine.", "summary": "At nine.", "score": 1.50}',
        json.dumps({"dialogue": LONG, "summary": "A trip."}),
        '{"summary": "Another one.", "dialogue": "see you, at nine!"}',
        '{"dialogue": "Caf\\u00e9 at ten.", "summary": "At ten."}',
        json.dumps({"dialogue": f"well {LONG}", "summary": "A trip."}),
        '{"dialogue": "Nobody wrote a summary of this."}',
        json.dumps({"dialogue": f"{LONG} then", "summary": "A trip."}),
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_first_of_each_group_stays_to_the_letter(tomtat: Callable[..., Any], repeats: Path, tmp_path: Path):
    before, out = repeats.read_bytes(), tmp_path / "unique.jsonl"
    result = tomtat("data", "dedupe", repeats, "--out", out)

    assert result.code == 0, result.err
    assert f"{out}: 4 of 7 rows." in result.out
    assert (
        "Left out: 1 that repeat an earlier row word for word, 1 of them with another summary; 2 nearly." in result.out
    )
    assert repeats.read_bytes() == before
    lines = before.split(b"\n")
    assert out.read_bytes() == b"".join(lines[number] + b"\n" for number in (0, 1, 3, 5))
    assert write_unique(str(out), tmp_path / "again.jsonl").duplicates.superfluous == 0
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()


def test_other_formats_become_json_lines_with_all_their_columns(tmp_path: Path):
    table = tmp_path / "data.csv"
    table.write_text('mail,gist,from\n"See you\nat nine.",At nine.,Anna\nsee you at nine,At nine.,Omar\n')
    array = tmp_path / "data.json"
    array.write_text(json.dumps([{"text": "a b"}, {"text": "A, b"}, {"text": "c", "tags": ["é"]}], indent=2))

    found = write_unique(str(table), tmp_path / "table.jsonl", DataOptions("mail", "gist", needs_summary=False))
    assert (found.kept, found.duplicates.conflicting) == (1, 0)
    assert json.loads((tmp_path / "table.jsonl").read_text()) == {
        "mail": "See you\nat nine.",
        "gist": "At nine.",
        "from": "Anna",
    }
    write_unique(str(array), tmp_path / "array.jsonl")
    assert (tmp_path / "array.jsonl").read_text(encoding="utf-8") == '{"text": "a b"}\n{"text": "c", "tags": ["é"]}\n'


def test_slices_the_bundled_set_and_standard_input_are_taken(
    tmp_path: Path, repeats: Path, monkeypatch: pytest.MonkeyPatch
):
    assert write_unique(f"{repeats}[:3]", tmp_path / "slice.jsonl").kept == 2
    assert write_unique("chats@test", tmp_path / "chats.jsonl").kept == len(
        (tmp_path / "chats.jsonl").read_text(encoding="utf-8").splitlines()
    )
    with repeats.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert write_unique("-", tmp_path / "input.jsonl").kept == 4


def test_a_bad_row_stops_or_goes_with_its_reason_to_a_file(tomtat: Callable[..., Any], repeats: Path, tmp_path: Path):
    with repeats.open("a") as file:
        file.write('\n{"dialogue": 7}\n')
    out = tmp_path / "unique.jsonl"
    result = tomtat("data", "dedupe", repeats, "--out", out)
    assert (result.code, out.exists()) == (2, False)
    assert "line 8: 'dialogue' must be a text" in result.err

    result = tomtat("data", "dedupe", repeats, "--out", out, "--on-bad-row", "skip")
    assert result.code == 0
    assert "4 of 8 rows" in result.out
    assert "Bad rows left out: 1;" in result.out
    [reject] = (tmp_path / "unique.jsonl.rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["row"] == '{"dialogue": 7}'


def test_a_source_that_changes_meanwhile_is_told(repeats: Path, tmp_path: Path):
    class Changing(Progress):
        @contextmanager
        def task(self, *arguments: Any, **named: Any) -> Iterator[Advance]:
            yield lambda *_: None
            write_jsonl(repeats, [{"text": f"row {number}"} for number in range(7)])

    with pytest.raises(DataError, match="changed while it was read"):
        write_unique(str(repeats), tmp_path / "out.jsonl", progress=Changing())
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_nothing_is_replaced_and_an_empty_source_is_told(repeats: Path, tmp_path: Path):
    before = repeats.read_bytes()
    with pytest.raises(ConfigError, match="is there already, and nothing is replaced"):
        write_unique(str(repeats), repeats)
    with pytest.raises(ConfigError, match="which is no folder"):
        write_unique(str(repeats), tmp_path / "none" / "out.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="has no rows"):
        write_unique(str(tmp_path / "empty.jsonl"), tmp_path / "out.jsonl")
    assert repeats.read_bytes() == before
    assert not (tmp_path / "out.jsonl").exists()


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path):
    write_jsonl(
        tmp_path / "big.jsonl", [{"text": " ".join(f"{number}-{word}" for word in "abcdefgh")} for number in range(200)]
    )
    out = tmp_path / "unique.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tomtat.cli", "data", "dedupe", str(tmp_path / "big.jsonl"), "--out", str(out)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"tomtat: {out} can't be written: File too large.")
    assert [path.name for path in tmp_path.iterdir()] == ["big.jsonl"]
