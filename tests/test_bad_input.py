"""What people get wrong: each ends in one clear line and exit code 2, without a traceback and with nothing half-written."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import as_flags, rows, save_t5, small_settings, write_jsonl

Prepare = Callable[[Path], list[Any]]


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


GOOD = json.dumps(rows(1)[0]).encode() + b"\n"


def train_on(content: bytes) -> Prepare:
    return lambda folder: ["train", "--train", file("bad.jsonl", content)(folder), "--out", folder / "out"]


def recipe(content: bytes) -> Prepare:
    return lambda folder: ["train", file("recipe.toml", content)(folder), "--out", folder / "out"]


CASES: dict[str, tuple[Prepare, str]] = {
    "wrong type in a row": (train_on(GOOD + b'{"dialogue": 7, "summary": "s"}'), "bad.jsonl, line 2: 'dialogue' must be a text"),
    "missing field": (train_on(b'{"dialogue": "hello"}'), "line 1: no field with the summary"),
    "empty file": (train_on(b""), "is empty"),
    "only blank lines": (train_on(b"\n\n"), "is empty"),
    "cut JSON": (train_on(GOOD + GOOD[:30]), "line 2: not valid JSON"),
    "not UTF-8": (train_on(GOOD + b'{"dialogue": "caf\xe9", "summary": "s"}'), "line 2: not UTF-8"),
    "a folder for a file": (lambda folder: ["train", "--train", folder, "--out", folder / "out"], "is a folder without files that can be read"),
    "a file that is not there": (lambda folder: ["train", "--train", folder / "no.jsonl", "--out", folder / "out"], "There is no file"),
    "a slice beyond the rows": (lambda folder: ["train", "--train", f"{file('a.jsonl', GOOD)(folder)}[:5]", "--out", folder / "out"], "there are only 1 rows"),
    "an unknown format": (lambda folder: ["train", "--train", file("a.xlsx", GOOD)(folder), "--out", folder / "out"], ".xlsx files can't be read. Save it as CSV"),
    "unknown setting": (lambda folder: ["train", "--set", "lora.rnk=8", "--out", folder / "out"], "did you mean lora.rank?"),
    "wrong type of a setting": (lambda folder: ["train", "--set", "lora.rank=high", "--out", folder / "out"], "lora.rank: input should be a valid integer"),
    "broken TOML": (recipe(b"[lora\nrank = 8"), "is not valid TOML"),
    "unknown table in a recipe": (recipe(b"[loar]\nrank = 8"), "loar is not a setting"),
    "a recipe that is no text": (recipe(b"\xff\xfe\x00"), "is not UTF-8"),
    "a recipe that is not there": (lambda folder: ["train", folder / "no.toml"], "There is no recipe"),
    "unknown model": (lambda folder: ["train", "--model", "no such model!", "--out", folder / "out"], "neither a folder nor a model's name"),
    "a model folder without weights": (lambda folder: ["train", "--model", folder, "--out", folder / "out"], "no saved model"),
    "a damaged model": (lambda folder: ["summarize", damaged_model(folder), file("a.txt", b"text")(folder)], "can't be loaded"),
    "unknown device": (lambda folder: ["train", "--device", "tpu", "--out", folder / "out"], "model.device: input should be"),
    "a run folder that is none": (lambda folder: ["evaluate", folder], "is not a run folder"),
    "a run folder that is not there": (lambda folder: ["evaluate", folder / "runs" / "x"], "There is no run folder"),
    "resuming what is no run": (lambda folder: ["train", "--resume", folder], "is not a run folder"),
    "resuming with other settings": (lambda folder: ["train", "--resume", folder, "--out", "elsewhere"], "run's own folder"),
    "an unwritable --set": (lambda folder: ["train", "--set", "lora.rank"], "write it as name=value"),
    "an empty text": (lambda folder: ["summarize", "x", file("a.txt", b" \n")(folder)], "is empty"),
    "a text that is none": (lambda folder: ["summarize", "x", file("a.txt", b"\xff\xfe\x00\xd8")(folder)], "is not UTF-8"),
    "a text with NUL bytes": (lambda folder: ["summarize", "x", file("a.txt", b"\0\0abc\0")(folder)], "NUL bytes. Is it a text?\n"),
    "a language that is not told apart": (lambda folder: ["summarize", "x", file("a.txt", b"text")(folder), "--language", "fr"], "language 'fr': summaries are told apart by their letters only. Choose en, ja,"),
    "a language without candidates": (lambda folder: ["summarize", "x", file("a.txt", b"text")(folder), "--language", "vi", "--decode", "greedy"], "Take decode mbr"),
    "a temperature of what draws nothing": (lambda folder: ["summarize", "x", file("a.txt", b"text")(folder), "--decode", "beam", "--set", "generate.temperature=0.5"], "temperature changes nothing with decode 'beam', which draws nothing"),
    "a temperature in training for greedy summaries": (lambda folder: ["train", "--set", "generate.top_p=0.5"], "top_p changes nothing with decode 'greedy'"),
    "candidates of which one is written": (lambda folder: ["summarize", "x", file("a.txt", b"text")(folder), "--candidates", 4, "--decode", "sample"], "candidates: several are drawn, and decode 'sample' writes one. Take decode mbr"),
    "an export into a file": (lambda folder: ["export", run_without_model(folder), "--to", "merged", "--out", file("a.txt", b"text")(folder) / "b" / "c"], "lies below a file, not in a folder"),
    "an unknown --format": (lambda folder: ["summarize", "x", "-", "--format", "xls"], "choose auto, text, jsonl, json, csv or parquet"),
    "a bad row to summarize": (lambda folder: ["summarize", "x", file("a.jsonl", b'{"id": "1"}')(folder)], "no field with the text"),
    "a place for summaries that is not there": (lambda folder: ["summarize", "x", file("a.txt", b"text")(folder), "--out", folder / "no" / "x"], "is no folder"),
    "a misspelt --on-bad-row": (lambda folder: ["summarize", "x", file("a.jsonl", GOOD)(folder), "--on-bad-row", "stpo"], "choose stop or skip"),
    "an unknown device to summarize on": (lambda folder: ["summarize", save_t5(folder / "tiny", untied=False), file("a.txt", b"text")(folder), "--device", "gpu"], "is no device"),
    "--evaluate without test data": (lambda folder: ["train", "--train", file("a.jsonl", GOOD)(folder), "--evaluate"], "needs test data"),
    "params of nothing": (lambda folder: ["params", folder / "no.toml"], "There is no recipe"),
}  # fmt: skip


def run_without_model(folder: Path) -> Path:
    trained = folder / "trained"
    trained.mkdir()
    (trained / "tomtat.json").write_text("{}")
    return trained


def damaged_model(folder: Path) -> Path:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "t5", "vocab_size": 10, "d_model": 8}')
    (model / "model.safetensors").write_bytes(b"not safetensors")
    return model


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_clear_line(case: str, tomtat: Callable[..., Any], tmp_path: Path):
    prepare, message = CASES[case]
    arguments = prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    result = tomtat(*arguments)

    assert result.code == 2, result.err
    assert message in result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place where not even root may write")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_an_unwritable_place_for_summaries_is_told_before_any_work(
    tomtat: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr("tomtat.Summarizer.load", lambda *_, **__: pytest.fail("a model was loaded"))
    result = tomtat("summarize", "x", file(name, GOOD)(tmp_path), "--out", f"/proc/{name}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"--out /proc/{name} can't be written: " in result.err


def test_a_standard_input_that_is_closed_is_told(tomtat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", None)
    result = tomtat("summarize", "x", "-")
    assert (result.code, result.err) == (
        2, "tomtat: Standard input is closed. Name a file, or send the rows through a pipe.\n"
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--epochs", "three"], ["summarize"]], ids=str)
def test_slips_in_the_command_line_end_with_code_2(tomtat: Callable[..., Any], arguments: list[str]):
    result = tomtat(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err


def test_a_full_disk_is_told_in_one_line_and_leaves_the_run_resumable(
    tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    save = torch.save
    calls = 0

    def save_until_full(value: Any, file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, file)

    monkeypatch.setattr(torch, "save", save_until_full)
    flags = as_flags(small_settings(tiny_t5, data))
    result = tomtat("train", *flags, "--out", tmp_path / "run")

    assert result.code == 2
    assert "No room left on the disk" in result.err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.setattr(torch, "save", save)
    assert tomtat("train", "--resume", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "as it is", "runs/mine"), "runs/mine can't be written: No space left on device. Make room"),
        (OSError(errno.EDQUOT, "as it is"), "A file can't be written: Disk quota exceeded. Make room"),
        (OSError(errno.EFBIG, "as it is"), "A file can't be written: File too large. Raise the limit on the size of files (ulimit -f)"),
        (RuntimeError("I/O error: File too large (os error 27)"), "A file can't be written: File too large. Raise the limit"),
        (OSError(errno.EFBIG, "as it is", "runs/mine", None, "exports/mine"), "exports/mine can't be written: File too large."),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "No folder for temporary files can be written. Make room, or name one"),
        (PermissionError(errno.EACCES, "as it is", "runs/mine"), "runs/mine can't be opened: Permission denied. Choose another place"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_system_refuses_is_told_in_one_line(
    tomtat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
):
    def refused(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("tomtat.training.finetune", refused)
    result = tomtat("train")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith(f"tomtat: {told}")


@pytest.mark.parametrize("size", [0, 8192])
def test_a_limit_on_file_sizes_is_no_damage_to_a_store(tmp_path: Path, size: int):
    done = subprocess.run(
        [sys.executable, "-m", "tomtat.cli", "store", "list", "--store", str(tmp_path / "chats.db")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "the disk is full: nothing of this was stored; make room" in done.stderr


def test_a_bug_of_ours_keeps_its_traceback(tomtat: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("tomtat.training.finetune", broken)
    with pytest.raises(KeyError):
        tomtat("train", "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["tomtat.json", "adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_told(tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path, name: str):
    run = tmp_path / "run"
    assert tomtat("train", *as_flags(small_settings(tiny_t5, data)), "--out", run).code == 0
    (run / "adapter" / name).write_text("{")
    result = tomtat("evaluate", run)
    assert result.code == 2, result.err
    assert len(result.err.strip().splitlines()) == 1


def test_rows_are_joined_by_ids_so_doubled_ones_are_refused(tomtat: Callable[..., Any], tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [rows(1)[0], rows(1)[0]])
    result = tomtat("train", "--train", path, "--out", tmp_path / "run")
    assert (result.code, "stands in line 1 already" in result.err) == (2, True)
