import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import as_flags, rows, small_settings, write_jsonl
from tomtat.types import Summary


@pytest.fixture
def run(tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path) -> Path:
    result = tomtat("train", *as_flags(small_settings(tiny_t5, data)), "--out", tmp_path / "run")
    assert result.code == 0, result.err
    return tmp_path / "run"


def test_one_command_trains_scores_and_shows(tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path):
    out = tmp_path / "run"
    result = tomtat("train", *as_flags(small_settings(tiny_t5, data)), "--out", out, "--evaluate", "--show", 2)

    assert result.code == 0, result.err
    for expected in (
        "validation loss",
        "examples/s",
        "lead-3",
        "untuned",
        "tuned",
        "rougeLsum",
        "reference",
        "row-9",
        "Run folder:",
    ):
        assert expected in result.out
    assert f"Next: tomtat summarize {out}" in result.out
    assert "epoch 2/2" in result.err
    assert {"config.toml", "adapter", "metrics.jsonl", "predictions.jsonl", "scores.json"} <= {
        p.name for p in out.iterdir()
    }


def test_run_folders_are_numbered_when_none_is_named(
    tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 1\n[generate]\nmax_new_tokens = 4\n")
    flags = ["--model", tiny_t5, "--train", data, "--validation", data, "--test", data, "--batch-size", 6, "--rank", 2]
    for _ in range(2):
        assert (
            tomtat("train", "mine.toml", *flags, "--target", "decoder", "--learning-rate", 0.01, "--epochs", 1).code
            == 0
        )
    assert sorted(path.name for path in Path("runs").iterdir()) == ["mine", "mine-2"]


def test_of_several_processes_the_first_speaks_and_evaluates(
    tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RANK", "1")
    quick = as_flags(small_settings(tiny_t5, data))

    result = tomtat("train", *quick, "--out", tmp_path / "run", "--evaluate")

    assert (result.code, result.out, result.err) == (0, "", "")
    assert not (tmp_path / "run" / "scores.json").exists()


def test_evaluate_takes_other_data(tomtat: Callable[..., Any], run: Path, data: Path):
    result = tomtat("evaluate", run, "--data", f"{data}[:3]", "--name", "first", "--no-yardsticks", "--device", "cpu")
    assert result.code == 0, result.err
    assert (run / "evaluations" / "first" / "predictions.jsonl").exists()
    assert "lead-3" not in result.out


def test_evaluate_takes_columns_of_other_names(tomtat: Callable[..., Any], run: Path, tmp_path: Path):
    named = [
        {"id": row["id"], "mail": row["dialogue"], "gist": row["summary"], "summary": "not this"} for row in rows(3)
    ]
    mails = write_jsonl(tmp_path / "mails.jsonl", named)
    quick = ["--set", 'evaluate.metrics=["rouge"]', "--no-yardsticks", "--no-leakage", "--device", "cpu"]

    result = tomtat("evaluate", run, "--data", mails, *quick)
    assert result.code == 2
    assert "no field with the text to summarize" in result.err
    assert "Name it: --source-field, or the setting data.source_field." in result.err

    fields = ["--source-field", "mail", "--summary-field", "gist"]
    result = tomtat("evaluate", run, "--data", mails, "--name", "mails", "--show", 1, *fields, *quick)
    assert result.code == 0, result.err
    assert "They meet on monday at 0." in result.out

    # What is asked for by name must be there: no usual column takes its place.
    result = tomtat("evaluate", run, "--data", mails, "--source-field", "mail", "--summary-field", "gits", *quick)
    assert (result.code, "no field with the summary ('gits';" in result.err) == (2, True)

    said = write_jsonl(tmp_path / "said.jsonl", [{"id": row["id"], "prediction": row["summary"]} for row in rows(3)])
    result = tomtat(
        "evaluate", "--predictions", said, "--references", mails, "--out", tmp_path / "out", *fields, *quick[:3]
    )
    assert result.code == 0, result.err
    assert "100.0" in result.out


def test_summarize_takes_a_text_and_prints_only_the_summary(tomtat: Callable[..., Any], run: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("The meeting moves to friday.")
    result = tomtat("summarize", run, tmp_path / "a.txt", "--device", "cpu")
    assert result.code == 0
    assert len(result.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("summary", "of_one", "of_three"),
    [
        (Summary("They meet.", 9, 3, "stop"), [], []),
        (Summary("They meet.", 9, 3, "stop", near_ties=0), [], []),
        (Summary("They me", 9, 8, "length"), ["ended by the limit of 8 tokens"], ["3 summaries were ended by the"]),
        (Summary("They meet.", 9, 3, "stop", near_ties=2), ["2 tokens had a runner-up"], ["6 tokens had a runner-up"]),
    ],
    ids=["not-counted", "nothing", "cut", "near-ties"],
)
def test_what_the_limit_or_rounding_did_to_a_summary_is_told(
    tomtat: Callable[..., Any],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    summary: Summary,
    of_one: list[str],
    of_three: list[str],
):
    monkeypatch.setattr("tomtat.Summarizer.generate", lambda self, sources, *rest: [summary for _ in sources])
    (tmp_path / "a.txt").write_text("The meeting moves to friday.")
    one = tomtat("summarize", run, tmp_path / "a.txt", "--device", "cpu")
    three = tomtat("summarize", run, write_jsonl(tmp_path / "in.jsonl", rows(3)), "--device", "cpu")

    whole = ("--set", "generate.whole_sentences=true")
    assert "drops a half sentence" not in tomtat("summarize", run, tmp_path / "a.txt", *whole, "--device", "cpu").err
    assert "drops a half sentence" not in tomtat("summarize", run, tmp_path / "in.jsonl", *whole, "--device", "cpu").err
    assert (one.code, one.out) == (0, summary.text + "\n")
    for found, expected in (
        (one.err.splitlines(), of_one),
        ([line for line in three.err.splitlines() if "documents/s" not in line], of_three),
    ):
        assert [wanted in line for line, wanted in zip(found, expected, strict=True)] == [True] * len(expected)


def test_summarize_takes_json_lines_from_standard_input(
    tomtat: Callable[..., Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = write_jsonl(
        tmp_path / "in.jsonl", [{"id": "a", "text": "one"}, {"messages": [{"role": "user", "content": "two"}]}]
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.read_bytes())))
    result = tomtat("summarize", run, "-", "--max-new-tokens", 3, "--out", tmp_path / "out.jsonl", "--device", "cpu")

    assert result.code == 0, result.err
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == ["a", "line-2"]
    counts = {"prompt_tokens", "new_tokens", "finish_reason", "near_ties", "pieces", "share_read"}
    assert set(written[0]) == {"id", "summary"} | counts
    assert all(row["new_tokens"] <= 3 for row in written)


def test_bad_rows_can_be_left_out_of_a_summary_run(tomtat: Callable[..., Any], run: Path, tmp_path: Path):
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": "one"}, {"txt": "two"}])
    result = tomtat("summarize", run, path, "--on-bad-row", "skip", "--device", "cpu")
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    assert "left out" in result.err
    tomtat("summarize", run, path, "--on-bad-row", "skip", "--device", "cpu", "--out", tmp_path / "out.jsonl")
    [reject] = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()]
    assert (reject["where"], reject["row"]) == (f"{path}, line 2", '{"txt": "two"}')
    assert "line 2" in result.err


def test_a_cut_text_is_told(tomtat: Callable[..., Any], run: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("word " * 3000)
    assert "longer than 512 tokens" in tomtat("summarize", run, tmp_path / "a.txt", "--device", "cpu").err


def test_params_counts_a_run_and_a_recipe(tomtat: Callable[..., Any], run: Path, tiny_t5: Path, tmp_path: Path):
    size = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    of_run = tomtat("params", run)
    assert f"{size:,} bytes on disk" in of_run.out
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[model]\nname = "{tiny_t5}"\n[lora]\nrank = 4\n')
    of_recipe = tomtat("params", recipe)
    assert of_recipe.out.split("; ")[0] == of_run.out.split("; ")[0]
    assert "encoder.block.*.layer.0.SelfAttention.q" in of_recipe.out
    assert tomtat("params", recipe, "--set", "lora.target=nowhere").code == 2


def test_an_interrupted_command_ends_with_130_and_says_how_to_go_on(
    tomtat: Callable[..., Any], tiny_t5: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from test_training import StopAfter

    monkeypatch.setattr("tomtat.cli.train.progress_of_this_process", lambda: StopAfter(2))
    result = tomtat("train", *as_flags(small_settings(tiny_t5, data)), "--out", tmp_path / "run")
    assert result.code == 130
    assert f"tomtat train --resume {tmp_path / 'run'}" in result.err.replace("\n", " ")
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["a.txt", "in.jsonl"])
def test_ctrl_c_without_a_file_to_go_on_with_says_stopped(
    tomtat: Callable[..., Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tomtat.Summarizer.generate", interrupted)
    write_jsonl(tmp_path / name, rows(2))
    result = tomtat("summarize", run, tmp_path / name, "--device", "cpu")
    assert (result.code, result.out, result.err.splitlines()[-1]) == (130, "", "Stopped.")


def test_help_and_import_do_not_load_torch():
    code = "import sys, tomtat, tomtat.cli; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_exist():
    import tomtat as package

    assert 8 <= len(package.__all__) <= 12
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        _ = package.nonsense


def test_progress_is_lines_where_no_terminal_looks_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from tomtat.cli import terminal

    monkeypatch.setattr(terminal, "LOG_SECONDS", 0)
    with terminal.TerminalProgress().task("training", 10, done=4) as advance:
        advance(3, "loss 1.500")
        advance(3, "loss 1.250")
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("training: 7/10 examples, loss 1.500, ")
    assert last.startswith("training: 10/10 examples, loss 1.250, ")
    assert last.endswith("0:00 left")
