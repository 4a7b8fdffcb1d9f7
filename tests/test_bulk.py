"""Many documents: each exactly once and in order, however often the work is stopped."""

import io
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import rows, write_jsonl
from tomtat.bulk import Cluster, SummarizerSettings, look_over, open_documents, summarize_file
from tomtat.bulk import documents as documents_module
from tomtat.data import DataOptions
from tomtat.errors import ConfigError, DataError, Interrupted, RunError
from tomtat.types import Summary

SKIP = DataOptions(needs_summary=False, on_bad_row="skip", or_usual=True)


@dataclass(frozen=True)
class FirstWords(SummarizerSettings):
    """Settings of a summarizer for tests: it takes a text's beginning, and can wait or stop."""

    model: str = "first-words"
    seconds_per_window: float = 0.0
    stops_at: str = "never"
    words: int = 3

    def load(self, progress: Any = None) -> Any:
        return SimpleNamespace(generate=self._generate)

    def identity(self) -> dict[str, Any]:
        return {"model": self.model, "words": self.words}

    def _generate(self, sources: list[str], progress: Any = None) -> list[Summary]:
        time.sleep(self.seconds_per_window)
        if any(self.stops_at in source for source in sources):
            raise KeyboardInterrupt
        SEEN.extend(sources)
        return [Summary(" ".join(source.split()[: self.words]), 5, 3, "stop") for source in sources]


SEEN: list[str] = []
"""What was summarized in this process."""


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents_module, "WINDOW_ROWS", 10)
    SEEN.clear()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "big.jsonl", texts(95))


def texts(count: int) -> list[dict[str, Any]]:
    return [{"id": f"row-{n}", "text": f"number {n} of many\u2028words"} for n in range(count)]


def ids(path: Path) -> list[Any]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").split("\n") if line]


def beside(out: Path) -> list[str]:
    return sorted(path.name.removeprefix(out.name) for path in out.parent.glob(f"{out.name}*"))


def test_each_document_gets_one_row_in_order(big: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    report = summarize_file(FirstWords(), big, out)

    assert (report.rows, report.rows_before, report.near_ties) == (95, 0, None)
    assert ids(out) == [f"row-{n}" for n in range(95)]
    assert json.loads(out.read_text(encoding="utf-8").split("\n")[7]) == {
        "id": "row-7", "summary": "number 7 of", "prompt_tokens": 5, "new_tokens": 3, "finish_reason": "stop",
        "near_ties": None, "pieces": 1, "share_read": 1.0,
    }  # fmt: skip
    assert beside(out) == ["", ".info.json"]


@pytest.mark.parametrize("size", [0, 5, 0.05, 0.3, 0.5, 0.77, -1, -3], ids=str)
def test_a_file_torn_anywhere_is_completed_to_the_same_bytes(big: Path, tmp_path: Path, size: float):
    out = tmp_path / "out.jsonl"
    summarize_file(FirstWords(), big, out)
    whole = out.read_bytes()
    torn = whole[: int(size * len(whole)) if 0 < size < 1 else int(size)]
    out.write_bytes(torn)
    SEEN.clear()

    report = summarize_file(FirstWords(), big, out)

    assert out.read_bytes() == whole
    assert report.rows_before == torn.count(b"\n") // 10 * 10
    assert len(SEEN) == 95 - report.rows_before


def test_ctrl_c_keeps_what_is_done_and_the_same_call_goes_on(big: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(Interrupted, match=r"30 of 95 summaries are in .*out\.jsonl\. To go on, repeat the command"):
        summarize_file(FirstWords(stops_at="number 33 "), big, out)
    assert ids(out) == [f"row-{n}" for n in range(30)]

    assert summarize_file(FirstWords(), big, out).rows_before == 30
    assert len(SEEN) == len(set(SEEN)) == 95


def test_killed_at_any_moment_no_row_is_lost_or_doubled(tmp_path: Path):
    big, out, expected = write_jsonl(tmp_path / "big.jsonl", texts(400)), tmp_path / "out.jsonl", tmp_path / "expected"
    summarize_file(FirstWords(), big, expected)
    settings = FirstWords(seconds_per_window=0.02)
    fork = multiprocessing.get_context("fork")
    rng, kills = random.Random(0), 0
    while kills < 50:
        child = fork.Process(target=summarize_file, args=(settings, big, out))
        child.start()
        child.join(rng.uniform(0.05, 0.4))
        if not child.is_alive():
            break
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        kills += 1
    assert kills >= 2
    assert child.exitcode == 0
    assert out.read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_a_real_summarizer_killed_several_times_writes_what_it_would_have_written(tiny_t5: Path, tmp_path: Path):
    big = write_jsonl(tmp_path / "big.jsonl", rows(700))
    command = [sys.executable, "-m", "tomtat.cli", "summarize", tiny_t5, big, "--max-new-tokens", "24", "--out"]
    subprocess.run([*command, tmp_path / "expected.jsonl"], check=True, capture_output=True)
    out = tmp_path / "out.jsonl"
    for written in (1, 300):  # rows that lie in the file when the kill comes
        process = subprocess.Popen([*command, out], stderr=subprocess.DEVNULL)
        while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < written):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, out], check=True, capture_output=True)
    assert out.read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_memory_stays_flat(tmp_path: Path):
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps({"id": n, "text": f"{n} " + "word " * 500}) + "\n" for n in range(count))
        SEEN.clear()
        tracemalloc.start()
        summarize_file(Forgetful(), path, tmp_path / f"{count}.out.jsonl")
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    small, large = peak(200), peak(8_000)  # half a megabyte and twenty
    assert large < small + 8_000 * 30
    assert large < 1_500_000


class Forgetful(FirstWords):
    def _generate(self, sources: list[str], progress: Any = None) -> list[Summary]:
        return [Summary("short", 5, 3, "stop") for _ in sources]


def test_long_documents_make_small_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents_module, "WINDOW_BYTES", 1000)
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * size} for size in (10, 2000, 10, 400, 400, 400, 10)])
    with open_documents(path) as file:
        windows = list(look_over(file, str(path), SKIP).windows())
        assert [[example.id for example in window.examples] for window in windows] == [
            ["line-1", "line-2"], ["line-3", "line-4", "line-5", "line-6"], ["line-7"],
        ]  # fmt: skip
        content = path.read_bytes()
        assert b"".join(content[window.start : window.end] for window in windows) == content


def test_a_finished_file_is_left_alone_and_no_model_loaded(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out.jsonl"
    summarize_file(FirstWords(), big, out)
    monkeypatch.setattr(FirstWords, "load", None)
    report = summarize_file(FirstWords(), big, out, overwrite=True)
    assert (report.rows, report.rows_before) == (95, 95)


def test_what_another_model_or_input_made_is_only_replaced_when_asked(big: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(Interrupted):
        summarize_file(FirstWords(stops_at="number 33 "), big, out)
    before = out.read_bytes()
    with pytest.raises(RunError, match=r"was made with words 3, not 4\. Name another --out, or .* --overwrite"):
        summarize_file(FirstWords(words=4), big, out)
    other = write_jsonl(tmp_path / "other.jsonl", texts(3))
    with pytest.raises(RunError, match="was made with another input"):
        summarize_file(FirstWords(), other, out)
    with pytest.raises(Interrupted):
        summarize_file(FirstWords(stops_at="number 2 "), other, out, overwrite=True)
    assert out.read_bytes() == before, "replaced before there is anything to replace it with"

    assert summarize_file(FirstWords(), other, out, overwrite=True).rows == 3
    assert len(ids(out)) == 3


def test_a_file_that_something_else_wrote_is_not_touched(big: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    out.write_text("my thesis")
    with pytest.raises(RunError, match="exists, and nothing tells how it was made"):
        summarize_file(FirstWords(), big, out)
    assert (out.read_text(), beside(out)) == ("my thesis", [""])
    with pytest.raises(RunError, match="is the file that is read"):
        summarize_file(FirstWords(), big, big, overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[1], lines[0], *lines[2:]], "not hold the summaries in the input's order"),
        (lambda lines: [*lines[:13], b"oops\n", *lines[14:]], "has a damaged line after row 10"),
        (lambda lines: [*lines, lines[0]], "has more rows than the input"),
    ],
)
def test_a_file_that_was_changed_is_told_not_repaired(
    big: Path, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], message: str
):
    out = tmp_path / "out.jsonl"
    summarize_file(FirstWords(), big, out)
    changed = b"".join(change(out.read_bytes().splitlines(keepends=True)))
    out.write_bytes(changed)
    with pytest.raises(RunError, match=message):
        summarize_file(FirstWords(), big, out)
    assert out.read_bytes() == changed


def test_two_processes_do_not_write_one_file(big: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    first = multiprocessing.get_context("fork").Process(
        target=summarize_file, args=(FirstWords(seconds_per_window=0.1), big, out)
    )
    first.start()
    while not out.exists():
        time.sleep(0.01)
    with pytest.raises(RunError, match="Another process is writing"):
        summarize_file(FirstWords(), big, out)
    first.join()
    assert ids(out) == [f"row-{n}" for n in range(95)]


def test_bad_rows_are_found_before_any_work(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [*texts(50), {"txt": "no text"}])
    with pytest.raises(DataError, match="line 51: no field with the text"):
        summarize_file(FirstWords(), path, tmp_path / "out.jsonl")
    assert not SEEN
    assert beside(tmp_path / "out.jsonl") == []


def test_skipped_rows_lie_with_their_reasons_beside_the_summaries_once(tmp_path: Path):
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    write_jsonl(path, [*texts(20), {"txt": "no text"}, *texts(35)])
    with path.open("ab") as file:
        file.write(b"\n \ncut {\n")
    with pytest.raises(Interrupted):
        summarize_file(FirstWords(stops_at="number 25 "), path, out, options=SKIP)
    report = summarize_file(FirstWords(), path, out, options=SKIP)

    assert (report.rows, report.rows_before, report.bad_rows) == (35, 20, 22)
    assert ids(out) == [f"row-{n}" for n in range(35)]
    rejects = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").open(encoding="utf-8")]
    assert [reject["where"].split()[-1] for reject in rejects] == ["21", *map(str, range(22, 42)), "59"]
    assert rejects[1]["reason"] == "the id 'row-0' stands in line 1 already. Ids must differ"


def test_doubled_ids_are_told_exactly_even_where_keys_coincide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents_module, "_key", lambda identifier: len(repr(identifier)))
    path = write_jsonl(tmp_path / "a.jsonl", [*texts(30), {"id": 1, "text": "a"}, {"id": "1", "text": "b"}])
    assert summarize_file(FirstWords(), path, tmp_path / "out.jsonl").rows == 32
    write_jsonl(path, [*texts(30), texts(10)[9]])
    with pytest.raises(DataError, match=r"line 31: the id 'row-9' stands in line 10 already\. Ids must differ"):
        summarize_file(FirstWords(), path, tmp_path / "other.jsonl")


def test_a_full_disk_leaves_whole_windows(big: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5500, 5500))
        try:
            summarize_file(FirstWords(), big, out)
        except RunError as error:
            assert "can't be written: File too large. The 30 summaries in it are kept: make room" in str(error)  # noqa: PT017
            os._exit(7)

    child = multiprocessing.get_context("fork").Process(target=fill)
    child.start()
    child.join()
    assert child.exitcode == 7
    assert ids(out) == [f"row-{n}" for n in range(30)]
    assert summarize_file(FirstWords(), big, out).rows_before == 30


def test_an_input_that_changes_meanwhile_is_told(big: Path, tmp_path: Path):
    class Appending(FirstWords):
        def load(self, progress: Any = None) -> Any:
            with big.open("a") as file:
                file.write('{"text": "one more"}\n')
            return super().load()

    with pytest.raises(RunError, match="changed while it was read"):
        summarize_file(Appending(), big, tmp_path / "out.jsonl")


def test_pipes_are_read_like_files(big: Path, tmp_path: Path):
    pipe, out = tmp_path / "pipe", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(big.read_bytes()))
    writer.start()
    assert summarize_file(FirstWords(), pipe, out).rows == 95
    writer.join()


def test_the_command_resumes_and_says_so(
    tomtat: Callable[..., Any], tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = write_jsonl(tmp_path / "in.jsonl", rows(25)).read_bytes()
    monkeypatch.chdir(tmp_path)
    arguments = ["summarize", tiny_t5, "-", "-o", "out.jsonl", "--max-new-tokens", 3, "--device", "cpu"]

    def run(*more: object) -> Any:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return tomtat(*arguments, *more)

    assert run().code == 0
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:-5])
    again = run()
    assert "going on after the 20 summaries that are there" in again.err
    assert "summarizing: 25/25 documents" in again.err
    assert Path("out.jsonl").read_bytes() == whole
    assert "all 25 summaries are in out.jsonl already" in run().err
    refused = run("--max-new-tokens", 4)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "was made with max_new_tokens 3, not 4" in refused.err
    assert run("--max-new-tokens", 4, "--overwrite").code == 0


def test_another_adapter_is_another_model(tiny_t5: Path, tiny_tied_t5: Path):
    assert SummarizerSettings(str(tiny_t5)).identity() != SummarizerSettings(str(tiny_tied_t5)).identity()


def test_ray_that_is_missing_or_has_no_file_is_told(
    big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tomtat: Callable[..., Any]
):
    assert "--ray needs a file" in tomtat("summarize", "x", big, "--ray").err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        summarize_file(FirstWords(), big, tmp_path / "out.jsonl", cluster=Cluster())


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:9"])
def test_a_cluster_that_is_not_there_is_told(big: Path, tmp_path: Path, address: str):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="No Ray cluster can be reached at --ray-address"):
        summarize_file(FirstWords(), big, tmp_path / "out.jsonl", cluster=Cluster(address))
    assert beside(tmp_path / "out.jsonl") == []


def test_shares_of_a_cluster():
    assert Cluster()._share({"CPU": 64.0}, "auto") == (16, {"num_cpus": 4.0})
    assert Cluster()._share({"CPU": 2.0}, "auto") == (1, {"num_cpus": 2.0})
    assert Cluster(workers=4)._share({"CPU": 2.0}, "auto") == (4, {"num_cpus": 0.5})
    gpus = {"CPU": 32.0, "GPU": 2.0}
    assert Cluster()._share(gpus, "auto") == (2, {"num_cpus": 4.0, "num_gpus": 1.0})
    assert Cluster(workers=3)._share(gpus, "cuda") == (3, {"num_cpus": 4.0, "num_gpus": 0.5})
    assert Cluster()._share(gpus, "cpu") == (8, {"num_cpus": 4.0})


@pytest.mark.slow
def test_a_cluster_writes_the_same_rows_although_a_worker_is_killed(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = write_jsonl(tmp_path / "big.jsonl", [*rows(150), {"txt": "bad"}, *rows(10), *[{"text": "a b"}] * 50])
    settings = SummarizerSettings(str(tiny_t5), "cpu", generate={"max_new_tokens": 24}, precision="fp32")
    expected, out = tmp_path / "expected.jsonl", tmp_path / "out.jsonl"
    summarize_file(settings, path, expected, options=SKIP)
    rays: list[Any] = []

    def kill_a_worker_when_some_rows_are_there() -> None:
        while not out.exists():
            time.sleep(0.05)
        rays.extend(psutil.Process().children(recursive=True))
        workers = [process for process in rays if "ray::MapWorker" in " ".join(process.cmdline())]
        assert len(workers) == 2
        workers[0].kill()

    killer = threading.Thread(target=kill_a_worker_when_some_rows_are_there)
    killer.start()
    cluster = Cluster(workers=2, cpus_per_worker=0.5)
    report = summarize_file(settings, path, out, options=SKIP, cluster=cluster)
    killer.join()

    assert len(rays) > 2
    assert report.rows == 200
    assert out.read_bytes() == expected.read_bytes()
    # Ray's workers run at low priority, and take a while to end where others keep the processors busy.
    assert psutil.wait_procs(rays, timeout=180)[1] == []
