"""Trainings and scorings that the page starts: processes of their own, which a server started anew finds again.

RUNS/.jobs/NAME/job.json   the process, when it began (a number alone is given to others later), whether it was asked to
                           stop, whether it scores
RUNS/.jobs/NAME/log.txt    what it said
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout

from tomtat.errors import RunError
from tomtat.files import write_json
from tomtat.run_folder import RunFolder
from tomtat.ui.run_shelf import RunShelf, is_plain, read_info, require_name

LOG_BYTES = 16_384
"""Of a log's end, what is read."""
CLOCK_SECONDS = 5.0
"""By so much may the time at which a process began differ between two looks: a clock that is set moves it."""

Kind = Literal["starting", "running", "stopping", "stopped", "finished", "failed", "unfinished"]
GOING: tuple[Kind, ...] = ("starting", "running", "stopping")


@dataclass(frozen=True)
class State:
    kind: Kind
    about: str
    """A sentence for people."""
    is_ours: bool = False
    """Started from a page, so it can be stopped here."""
    can_resume: bool = False
    can_score: bool = False

    @property
    def is_going(self) -> bool:
        return self.kind in GOING


@dataclass(frozen=True)
class Job:
    pid: int
    began: float
    """Seconds since 1970, as the system says of the process."""
    asked_to_stop: bool = False
    is_scoring: bool = False


class RunJobs:
    """Of one folder of runs. Several servers may look at the same folder."""

    def __init__(self, shelf: RunShelf) -> None:
        self.shelf = shelf
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def names(self) -> list[str]:
        """Those with a job, whether or not their folder was made."""
        return sorted(path.parent.name for path in self._folder.glob("*/job.json"))

    def start(self, name: str, recipe: Path | None, settings: Sequence[str] = (), evaluate: bool = False) -> None:
        """Train a recipe into a new folder `name`. The caller has looked at the settings.

        Raises: ConfigError, RunError.
        """
        with self._alone():
            require_name(name)
            self._require_idle(name)
            folder = self.shelf.place_for(name)
            arguments = ["train", *([str(recipe)] if recipe else []), "--out", str(folder)]
            arguments += [part for setting in settings for part in ("--set", setting)]
            self._launch(name, [*arguments, *(["--evaluate"] if evaluate else [])], is_new=True)

    def resume(self, name: str) -> None:
        """Go on from the newest checkpoint.

        Raises: RunError.
        """
        with self._alone():
            folder = self.shelf.run(name)
            self._require_idle(name)
            if read_info(folder).get("finished"):
                raise RunError(f"{name} is finished: there is nothing to resume.")
            self._launch(name, ["train", "--resume", str(folder.path)], is_new=False)

    def score(self, name: str) -> None:
        """`tomtat evaluate`, on the run's own test data.

        Raises: RunError, ConfigError.
        """
        with self._alone():
            folder = self.shelf.run(name)
            self._require_idle(name)
            folder.trained_path  # noqa: B018
            if not folder.config.data.test:
                raise RunError(
                    f"{name} has no test data of its own. Name some: tomtat evaluate {folder.path} --data FILE."
                )
            self._launch(name, ["evaluate", str(folder.path)], is_new=False, is_scoring=True)

    def stop(self, name: str) -> None:
        """Ask for a checkpoint and the end. Asked a second time a training would end without one, so it is not.

        Raises: RunError.
        """
        with self._alone():
            job = self._job(name)
            if job is None or not self._is_alive(job):
                raise RunError(f"{name} was not started here, or goes on no more.")
            if job.asked_to_stop:
                raise RunError(f"{name} was asked to stop already; it ends after the step in hand.")
            write_json(self._folder / name / "job.json", asdict(replace(job, asked_to_stop=True)))
            # What Ctrl-C would send, but for servers started in a shell's background: what they start is deaf to SIGINT
            # until training begins. Training takes both alike.
            os.kill(job.pid, signal.SIGTERM)

    def state(self, name: str) -> State:
        job = self._job(name)
        folder = RunFolder(self.shelf.path / name)
        has_folder = folder.config_path.is_file()
        if job and self._is_alive(job):
            return _going(job, folder)
        if has_folder and is_locked(folder):
            return State("running", "Training; it was not started from this page, so stop it where it was started.")
        found = self._rests(name, job, folder, has_folder)
        return replace(found, can_score=has_folder and is_trained(folder))

    def _rests(self, name: str, job: Job | None, folder: RunFolder, has_folder: bool) -> State:
        """Nobody works on it."""
        problem = self.problem(name) if job else None
        scoring = self._of_scoring(job, folder, problem) if job and job.is_scoring else ""
        if read_info(folder).get("finished"):
            after = scoring or (f"Afterwards: {problem}" if problem else "")
            return State("finished", f"Trained to its end. {after}" if after else "Finished.")
        go_on = " Resume goes on with it." if has_folder else ""
        if job and job.is_scoring:
            return State("unfinished", f"Its training is not finished.{go_on} {scoring}".rstrip(), can_resume=True)
        if job and (job.asked_to_stop or self._last_line(name).startswith("Stopped")):
            what = "Stopped on request." if has_folder else "Stopped before training began; nothing was written."
            return State("stopped", what + go_on, can_resume=has_folder)
        if job:
            said = problem or f"The process ended without a word. Was it killed, or is the memory too small?{go_on}"
            return State("failed", said, can_resume=has_folder)
        return State("unfinished", f"Not finished, and nobody trains it now.{go_on}", can_resume=has_folder)

    def _of_scoring(self, job: Job, folder: RunFolder, problem: str | None) -> str:
        """How it ended; empty where it did what it should."""
        if job.asked_to_stop:
            return "Its scoring was stopped on request; earlier scores are kept."
        if problem:
            return f"Its scoring failed: {problem}"
        scores = folder.path / "scores.json"
        if scores.is_file() and scores.stat().st_mtime > job.began - CLOCK_SECONDS:
            return ""
        return "Its scoring ended without a word. Was it killed, or is the memory too small?"

    def log_path(self, name: str) -> Path:
        return self._folder / name / "log.txt"

    def log(self, name: str) -> str:
        """The end of what it said; empty where there is no log."""
        if self._job(name) is None:
            return ""
        try:
            with self.log_path(name).open("rb") as file:
                file.seek(0, os.SEEK_END)
                begins_at = max(0, file.tell() - LOG_BYTES)
                file.seek(begins_at)
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return text.partition("\n")[2] if begins_at else text

    def scored_so_far(self, name: str) -> str | None:
        """Where a scoring is that goes on, in its own words; None where there is none."""
        job = self._job(name)
        if job is None or not (job.is_scoring and self._is_alive(job)):
            return None
        last = self._last_line(name)
        return last if last.endswith(" left") else ""

    def problem(self, name: str) -> str | None:
        """The line by which the last process told that it failed; of a traceback, its last line."""
        last = self._last_line(name)
        if last.startswith("tomtat: "):
            return last.removeprefix("tomtat: ")
        if "\nTraceback (most recent call last)" in self._last_words(name):
            return f"A bug of tomtat's, please report it: {last}"
        return None

    def _last_words(self, name: str) -> str:
        """What the newest of its processes said."""
        return self.log(name).rpartition("\n$ ")[2]

    def _last_line(self, name: str) -> str:
        return (self._last_words(name).strip().splitlines() or [""])[-1]

    @property
    def _folder(self) -> Path:
        return self.shelf.path / ".jobs"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of several pages and servers, one at a time starts and stops."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock", timeout=10):
                yield
        except Timeout:
            raise RunError(f"{self._folder} is in use by another server. Try again.") from None
        except OSError as error:
            raise RunError(f"{error.filename or self._folder} can't be written: {error.strerror}.") from None

    def _require_idle(self, name: str) -> None:
        if self.state(name).is_going:
            job = self._job(name)
            what = "scored" if job and job.is_scoring else "trained"
            raise RunError(f"{name} is being {what} already. Stop it first, or choose another name.")

    def _launch(self, name: str, arguments: Sequence[str], is_new: bool, is_scoring: bool = False) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tomtat.cli", *arguments]
        with (folder / "log.txt").open("wb" if is_new else "ab") as log:
            log.write(f"\n$ tomtat {shlex.join(arguments)}\n".encode())
            log.flush()
            # A session of its own: neither the server's Ctrl-C nor its end is meant for a training.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._children[child.pid] = child
        job = Job(child.pid, psutil.Process(child.pid).create_time(), is_scoring=is_scoring)
        try:
            write_json(folder / "job.json", asdict(job))
        except OSError:
            child.terminate()  # nobody would know of it
            raise

    def _job(self, name: str) -> Job | None:
        if not is_plain(name):
            return None
        try:
            return Job(**json.loads((self._folder / name / "job.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _is_alive(self, job: Job) -> bool:
        if (child := self._children.get(job.pid)) is not None and child.poll() is not None:
            del self._children[job.pid]
        try:
            process = psutil.Process(job.pid)
            is_same = abs(process.create_time() - job.began) < CLOCK_SECONDS
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _going(job: Job, folder: RunFolder) -> State:
    if job.asked_to_stop and job.is_scoring:
        return State("stopping", "Its scoring is being stopped.", True)
    if job.is_scoring:
        return State("running", "Its test data are being scored.", True)
    if job.asked_to_stop:
        return State("stopping", "Stopping: it ends after the step in hand, with a checkpoint.", True)
    if not folder.config_path.is_file():
        return State("starting", "Starting: loads the model and the data.", True)
    if read_info(folder).get("finished"):
        return State("running", "Trained; its test data are being scored.", True)
    return State("running", "Training.", True)


def is_trained(folder: RunFolder) -> bool:
    """Whether there are weights to score; of a run that goes on, those of its best epoch so far."""
    try:
        return folder.trained_path.is_dir()
    except RunError:
        return False


def is_locked(folder: RunFolder) -> bool:
    """Whether some process trains there. Linux is asked who holds the lock: to try it could refuse one that starts."""
    lock, listed = folder.path / ".lock", Path("/proc/locks")
    try:
        inode = str(lock.stat().st_ino)
        if listed.exists():
            fields = [line.split() for line in listed.read_text(encoding="ascii").splitlines()]
            return any(each[1] == "FLOCK" and each[-3].endswith(f":{inode}") for each in fields)
        with folder.training_lock():
            return False
    except RunError:
        return True
    except OSError:
        return False
