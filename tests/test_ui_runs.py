"""The page's runs without a browser: which folders are shown, what a training's state is said to be, what is drawn."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import as_flags, rows, small_settings, write_jsonl
from tomtat.config import RunConfig
from tomtat.errors import ConfigError, RunError
from tomtat.run_folder import RunFolder
from tomtat.ui.curves import curves_html, epochs_html, place_of, thinned
from tomtat.ui.readable import Readable
from tomtat.ui.recipes import Recipes
from tomtat.ui.run_jobs import RunJobs
from tomtat.ui.run_shelf import RunShelf

STEP = {"kind": "step", "epoch": 1, "learning_rate": 0.1, "grad_norm": 1.0, "seconds": 2.0}
EPOCH = {"kind": "epoch", "train_loss": 2.0, "validation_loss": 2.5, "seconds": 4.0, "examples_per_second": 2.0}


def make_run(shelf: Path, name: str, finished: bool = False, scores: dict[str, Any] | None = None) -> RunFolder:
    folder = RunFolder.create(shelf / name, RunConfig(), {"finished": finished, "data": {"train_rows": 20}})
    if scores is not None:
        (folder.path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


@pytest.fixture
def sleeper() -> Iterator[Callable[[], psutil.Process]]:
    """Processes that do nothing until the test ends."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> psutil.Process:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.wait()


def write_job(
    shelf: Path, name: str, pid: int, began: float, said: str = "", asked_to_stop: bool = False, is_scoring: bool = False
) -> None:  # fmt: skip
    folder = shelf / ".jobs" / name
    folder.mkdir(parents=True)
    job = {"pid": pid, "began": began, "asked_to_stop": asked_to_stop, "is_scoring": is_scoring}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (folder / "log.txt").write_text(f"\n$ tomtat train\n{said}", encoding="utf-8")


def gone() -> tuple[int, float]:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid, time.time()


def test_only_run_folders_directly_below_are_shown(tmp_path: Path) -> None:
    shelf = tmp_path / "runs"
    make_run(shelf, "mine")
    (shelf / "no-run").mkdir()
    make_run(tmp_path, "outside")
    (shelf / "link").symlink_to(tmp_path / "outside")

    assert RunShelf(shelf).names() == ["mine"]
    for name in ("../outside", "link", "no-run", "", ".", "mine/../mine", str(tmp_path / "outside")):
        with pytest.raises(RunError, match="There is no run"):
            RunShelf(shelf).run(name)
        with pytest.raises(RunError, match="There are no scores"):
            RunShelf(shelf).report(name)


def test_a_report_that_leads_out_of_the_folder_is_not_shown(tmp_path: Path) -> None:
    scores = {"judged": ["tuned"], "systems": {"untuned": {}, "tuned": {}}}
    run = make_run(tmp_path / "runs", "mine", scores=scores)
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (run.path / "report.html").symlink_to(tmp_path / "secret")
    shelf = RunShelf(tmp_path / "runs")

    with pytest.raises(RunError, match="leads out"):
        shelf.report("mine")

    (run.path / "report.html").unlink()
    (run.path / "report.html").write_text("<p>scores", encoding="utf-8")
    assert shelf.report("mine") == "<p>scores"
    assert shelf.evaluation("mine").systems == ("tuned", "untuned")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-flag", "x" * 101, "nina's"])
def test_a_new_run_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="can't be called"):
        RunShelf(tmp_path).place_for(name)


def test_a_job_is_known_by_its_process_and_when_that_began(
    tmp_path: Path, sleeper: Callable[[], psutil.Process]
) -> None:
    process = sleeper()
    make_run(tmp_path, "going")
    make_run(tmp_path, "reused")
    write_job(tmp_path, "going", process.pid, process.create_time())
    write_job(tmp_path, "reused", process.pid, process.create_time() - 3600)
    write_job(tmp_path, "loading", process.pid, process.create_time())
    jobs = RunJobs(RunShelf(tmp_path))

    assert [jobs.state(name).kind for name in ("going", "reused", "loading")] == ["running", "failed", "starting"]
    for name in ("going", "loading"):
        with pytest.raises(RunError, match="is being trained already"):
            jobs.start(name, None)
    with pytest.raises(RunError, match="is being trained already"):
        jobs.resume("going")
    RunFolder(tmp_path / "going").write_info({"finished": True})
    assert "being scored" in jobs.state("going").about


def test_stop_is_asked_once(tmp_path: Path, sleeper: Callable[[], psutil.Process]) -> None:
    """A second signal would end a training without a checkpoint."""
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True)); print('ready', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code + "; time.sleep(600)"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        make_run(tmp_path, "going")
        write_job(tmp_path, "going", process.pid, psutil.Process(process.pid).create_time())
        jobs = RunJobs(RunShelf(tmp_path))

        jobs.stop("going")

        assert process.stdout.readline() == "asked\n"
        assert RunJobs(RunShelf(tmp_path)).state("going").kind == "stopping"
        with pytest.raises(RunError, match="asked to stop already"):
            jobs.stop("going")
    finally:
        process.kill()
        process.wait()
    assert jobs.state("going").kind == "stopped"


@pytest.mark.parametrize(
    ("said", "kind", "about"),
    [
        ("loading\ntomtat: There is no data set nope.\n", "failed", "There is no data set nope."),
        ("Traceback (most recent call last)\nKeyError: 3\n", "failed", "report it: KeyError: 3"),
        ("training: 8/20 examples\n", "failed", "ended without a word"),
        ("Stopped at step 3 of 9, checkpoint written.\n", "stopped", "Resume goes on"),
    ],
)
def test_the_end_of_a_process_is_told_from_what_it_said(tmp_path: Path, said: str, kind: str, about: str) -> None:
    make_run(tmp_path, "mine")
    write_job(tmp_path, "mine", *gone(), said=said)

    state = RunJobs(RunShelf(tmp_path)).state("mine")

    assert state.kind == kind
    assert about in state.about


def test_an_earlier_process_s_failure_is_not_the_newest_one_s(tmp_path: Path) -> None:
    make_run(tmp_path, "mine", finished=True)
    write_job(tmp_path, "mine", *gone(), said="tomtat: Full disk.\n\n$ tomtat train --resume mine\nRun folder: mine\n")

    assert RunJobs(RunShelf(tmp_path)).state("mine").about == "Finished."


def test_a_scoring_says_how_far_it_is_and_keeps_everybody_else_out(
    tmp_path: Path, sleeper: Callable[[], psutil.Process]
) -> None:
    process = sleeper()
    make_run(tmp_path, "mine", finished=True)
    said = "untuned model: 17/40 examples, 1.68 examples/s, 0:14 left\n"
    write_job(tmp_path, "mine", process.pid, process.create_time(), said, is_scoring=True)
    jobs = RunJobs(RunShelf(tmp_path))

    assert jobs.state("mine").about == "Its test data are being scored."
    assert jobs.scored_so_far("mine") == said.strip()
    for work in (jobs.score, jobs.resume):
        with pytest.raises(RunError, match="is being scored already"):
            work("mine")


@pytest.mark.parametrize(
    ("said", "asked_to_stop", "about"),
    [
        ("Scores with their recipes: scores.json\n", False, "Finished."),
        ("tomtat: There is no file test.jsonl.\n", False, "Trained to its end. Its scoring failed: There is no file"),
        ("untuned model: 1/9 examples, 0:14 left\n", True, "Trained to its end. Its scoring was stopped on request"),
        ("untuned model: 1/9 examples, 0:14 left\n", False, "Trained to its end. Its scoring ended without a word."),
    ],
)
def test_how_a_scoring_ended_is_told(tmp_path: Path, said: str, asked_to_stop: bool, about: str) -> None:
    folder = make_run(tmp_path, "mine", finished=True)
    process, began = gone()
    write_job(tmp_path, "mine", process, began, said, asked_to_stop, is_scoring=True)
    if about == "Finished.":
        (folder.path / "scores.json").write_text("{}", encoding="utf-8")
    else:  # of an earlier scoring
        (folder.path / "scores.json").write_text("{}", encoding="utf-8")
        os.utime(folder.path / "scores.json", (began - 60, began - 60))

    state = RunJobs(RunShelf(tmp_path)).state("mine")

    assert state.about.startswith(about)
    assert state.kind == "finished"


def test_what_is_not_trained_or_has_no_test_data_is_not_scored(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "mine", finished=True)
    jobs = RunJobs(RunShelf(tmp_path))
    assert not jobs.state("mine").can_score
    with pytest.raises(RunError, match="has no trained adapter yet"):
        jobs.score("mine")
    folder.adapter_path.mkdir()
    assert jobs.state("mine").can_score
    with pytest.raises(RunError, match=r"has no test data of its own. Name some: tomtat evaluate .*mine --data FILE"):
        jobs.score("mine")
    assert not (tmp_path / ".jobs" / "mine").exists()


def test_a_training_elsewhere_is_seen_by_its_lock(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "mine")
    jobs = RunJobs(RunShelf(tmp_path))
    with folder.training_lock():
        assert jobs.state("mine").kind == "running"
        assert not jobs.state("mine").is_ours
        with pytest.raises(RunError, match="is being trained already"):
            jobs.resume("mine")
    assert jobs.state("mine").kind == "unfinished"


def test_names_of_jobs_lead_nowhere_else(tmp_path: Path) -> None:
    write_job(tmp_path / "other", "secret", *gone(), said="secret")
    jobs = RunJobs(RunShelf(tmp_path / "runs"))
    assert jobs.log("../../other/.jobs/secret") == ""
    with pytest.raises(RunError):
        jobs.stop("../../other/.jobs/secret")


def test_a_run_s_place_is_counted_from_what_was_logged() -> None:
    logged = [STEP | {"step": step, "loss": 3.0} for step in (1, 2)]

    place = place_of(logged, RunConfig(), {"data": {"train_rows": 20}})

    assert place is not None
    assert (place.step, place.steps, place.epoch, place.epochs, place.seconds_left) == (2, 9, 1, 3, 14.0)
    assert place_of([], RunConfig(), {"data": {"train_rows": 20}}) is None
    assert place_of(logged, RunConfig(), {}) is None


def test_curves_of_a_long_run_stay_light_and_keep_the_newest_step() -> None:
    logged = [STEP | {"step": step, "loss": 1 / step} for step in range(1, 10_002)] + [EPOCH | {"epoch": 1}]

    drawn = thinned(logged)

    assert len(drawn) < 2100
    assert drawn[-2]["step"] == 10_001
    assert drawn[-1]["kind"] == "epoch"
    assert 'aria-label="Loss over' in curves_html(logged)
    assert "begins with the second step" in curves_html(logged[:1])


def test_the_kept_epoch_is_said_not_only_shown() -> None:
    epochs = [EPOCH | {"epoch": 1, "is_best": True}, EPOCH | {"epoch": 2, "is_best": False}]
    assert "1 (kept)" in epochs_html(epochs)
    assert "2 (kept)" not in epochs_html(epochs)
    assert "ROUGE" not in epochs_html(epochs)


def test_only_what_lies_below_the_folders_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        write_jsonl(folder / "data.jsonl", rows(2))
    (inside / "link.jsonl").symlink_to(outside / "data.jsonl")
    monkeypatch.chdir(inside)
    readable = Readable([inside])

    for good in (
        "data.jsonl",
        "data.jsonl[:1]",
        "train=data.jsonl",
        "chats@train",
        "someone/set:config@test",
        "*.jsonl[:9]",
    ):
        (inside / "link.jsonl").unlink(missing_ok=True)
        readable.require_source(good)
    (inside / "link.jsonl").symlink_to(outside / "data.jsonl")
    for bad in (
        "../outside/data.jsonl", "../outside/data.jsonl@train[:1]", "x=../outside/data.jsonl", "link.jsonl", "*.jsonl",
        f"{outside}/*.jsonl", "../outside", f"{outside}:config", "data.jsonl+../outside/data.jsonl", "~root", "-", "a\0b",
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            readable.require_source(bad)
    with pytest.raises(ConfigError, match="lies outside"):
        readable.require_settings(["lora.rank=8", f'lora.target=["attention", "{outside}"]'])
    readable.require_settings(["lora.rank=8", "model.name=google/flan-t5-small", "data.train=data.jsonl[:1]"])


def test_a_recipe_is_one_of_the_folder_or_a_run_s_settings(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "mine.toml").write_text("[train]\nepochs = 7\n", encoding="utf-8")
    (tmp_path / "secret.toml").write_text("[train]\nepochs = 7\n", encoding="utf-8")
    shelf = RunShelf(tmp_path / "runs")
    make_run(shelf.path, "earlier")
    found = Recipes(recipes, shelf, Readable([tmp_path]))

    assert found.names() == ["mine.toml", "the defaults", "as run earlier"]
    assert found.path("as run earlier") == shelf.path / "earlier" / "config.toml"
    for name in ("../secret.toml", "as run ../earlier", "secret.toml"):
        with pytest.raises(ConfigError, match="There is no recipe"):
            found.path(name)
    with pytest.raises(ConfigError, match="did you mean"):
        found.require_good("mine.toml", ["train.epoch=3"], evaluate=False)
    with pytest.raises(ConfigError, match="needs test data"):
        found.require_good("mine.toml", [], evaluate=True)


def wait_for(what: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_a_training_outlives_its_server_and_is_stopped_and_resumed(tmp_path: Path, tiny_llama: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", rows(12))
    settings = [text for text in as_flags(small_settings(tiny_llama, data)) if text != "--set"]
    shelf = RunShelf(tmp_path / "runs")
    jobs = RunJobs(shelf)
    jobs.start("mine", None, [*settings, "train.epochs=400"])
    wait_for(lambda: jobs.state("mine").kind == "running" and len(RunFolder(shelf.path / "mine").metrics()) > 5)

    later = RunJobs(shelf)  # as a server does that was started anew
    assert later.state("mine").is_ours
    assert os.getsid(
        psutil.Process(json.loads((shelf.path / ".jobs/mine/job.json").read_text())["pid"]).pid
    ) != os.getsid(0)
    later.stop("mine")
    wait_for(lambda: not later.state("mine").is_going)
    assert later.state("mine").kind == "stopped"
    assert "checkpoint written" in later.log("mine")
    before = len(shelf.run("mine").metrics())

    later.resume("mine")
    wait_for(lambda: len(shelf.run("mine").metrics()) > before + 5)
    jobs.stop("mine")
    wait_for(lambda: not jobs.state("mine").is_going)
    steps = [row["step"] for row in shelf.run("mine").metrics() if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))

    jobs.start("whole", None, [*settings, f"data.test={data}", 'evaluate.metrics=["rouge"]', "train.epochs=1"])
    wait_for(lambda: not jobs.state("whole").is_going)
    jobs.score("whole")
    assert not later.state("whole").can_score
    wait_for(lambda: not later.state("whole").is_going)
    assert later.state("whole").about == "Finished."
    assert [found.label for found in shelf.evaluations("whole")] == ["whole"]

    jobs.start("broken", None, [*settings, f"model.name={tmp_path / 'nowhere'}"])
    wait_for(lambda: not jobs.state("broken").is_going)
    assert jobs.state("broken").kind == "failed"
    assert "nowhere" in jobs.state("broken").about
