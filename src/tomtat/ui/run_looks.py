"""What the page shows of runs: the list, one of them as it is now, its scores and report, two compared."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from tomtat.errors import ConfigError
from tomtat.evaluation.compare import compare
from tomtat.ui import curves, run_views
from tomtat.ui.recipes import Recipes, setting_lines
from tomtat.ui.run_jobs import RunJobs, State
from tomtat.ui.run_shelf import RunShelf, read_config, read_info, read_scores
from tomtat.ui.run_views import ListedRun
from tomtat.ui.tables import note_html


@dataclass(frozen=True)
class Look:
    """One run, as the page shows it now."""

    state: State
    html: str
    log: str


class Runs:
    def __init__(self, shelf: RunShelf, recipes: Recipes) -> None:
        self.shelf = shelf
        self.recipes = recipes
        self.jobs = RunJobs(shelf)
        self._known: dict[str, tuple[str, ListedRun | None]] = {}

    def names(self) -> list[str]:
        """Runs, and trainings that have no folder yet or never got one."""
        there = self.shelf.names()
        without = [name for name in self.jobs.names() if name not in there]
        return [*without, *there]

    def listing(self) -> str:
        names = self.names()
        if not names:
            return note_html(f"No runs in {self.shelf.path} yet. Start one under “Start”, or with tomtat train.")
        there = set(self.shelf.names())
        return run_views.list_html([self._listed(name, name in there) for name in names])

    def _listed(self, name: str, has_folder: bool) -> ListedRun:
        """Read anew only when something was written: a long run's losses are megabytes, and a page asks often."""
        state = self.jobs.state(name).kind
        stamp = f"{state} {self._stamp(name)}"
        before, listed = self._known.get(name, ("", None))
        if listed is None or stamp != before:
            listed = self._read(name, state) if has_folder else ListedRun(name, state, "", "", "", {})
            self._known[name] = (stamp, listed)
        return listed

    def _read(self, name: str, state: str) -> ListedRun:
        folder = self.shelf.run(name)
        config = read_config(folder)
        epochs = [row for row in folder.metrics() if row.get("kind") == "epoch"]
        losses = [row["validation_loss"] for row in epochs if row.get("validation_loss") is not None]
        scores: dict[str, float] = {}
        for found in self.shelf.evaluations(name)[:1]:
            judged = read_scores(found)["systems"][found.systems[0]]["scores"]
            scores = {metric: score["value"] for metric, score in judged.items()}
        return ListedRun(
            name,
            state,
            Path(config.model.name).name if config else "",
            f"{len(epochs)} of {config.train.epochs}" if config else str(len(epochs)),
            f"{min(losses):.3f}" if losses else "",
            scores,
        )

    def mark(self, name: str | None) -> str:
        """Another one whenever there is something new to show of a run; cheap."""
        names = self.names()
        if name is None or name not in names:
            return "|".join(names)
        return "|".join([name, self.jobs.state(name).kind, self._stamp(name), *names])

    def _stamp(self, name: str) -> str:
        folder = self.shelf.path / name
        written = [self.jobs.log_path(name), folder / "metrics.jsonl", folder / "scores.json"]
        return " ".join(map(_stamp, [*written, *sorted(folder.glob("evaluations/*/scores.json"))]))

    def look(self, name: str) -> Look:
        """Raises: RunError."""
        state = self.jobs.state(name)
        said = f'<p class="tt-state" role="status"><b>{escape(name)}</b>: {escape(state.about)}</p>'
        log = curves.log_html(self.jobs.log(name))
        if name not in self.shelf.names():
            return Look(state, said, log)
        folder = self.shelf.run(name)
        metrics = folder.metrics()
        config = read_config(folder)
        place = curves.place_of(metrics, config, read_info(folder)) if config else None
        # Of a run that stopped early, half a bar would say that something is missing.
        progress = curves.place_html(place, state.is_going) if place and state.kind != "finished" else ""
        if (scored := self.jobs.scored_so_far(name)) is not None:
            progress = note_html(scored) if scored else ""
        beside = f'<div class="tt-side">{curves.curves_html(metrics)}{curves.epochs_html(metrics)}</div>'
        return Look(state, said + progress + beside, log)

    def labels(self, run: str | None = None) -> list[str]:
        return [found.label for found in self.shelf.evaluations(run)]

    def scores(self, label: str) -> str:
        return run_views.scores_html(read_scores(self.shelf.evaluation(label)))

    def report(self, label: str) -> str:
        return run_views.report_html(self.shelf.report(label), label)

    def sides(self) -> list[str]:
        """What can be compared: each evaluation's judged system by its label, others as `label: system`."""
        return [
            found.label if number == 0 else f"{found.label}: {system}"
            for found in self.shelf.evaluations()
            for number, system in enumerate(found.systems)
        ]

    def comparison(self, one: str | None, other: str | None, across_limits: bool) -> str:
        """Raises: ConfigError, RunError."""
        if not one or not other:
            raise ConfigError("Choose two to compare.")
        return run_views.comparison_html(compare([self._side(one), self._side(other)], None, across_limits))

    def _side(self, side: str) -> str:
        """As `compare` names it."""
        label, colon, system = side.partition(": ")
        path = self.shelf.evaluation(label).path
        return f"{path}:{system}" if colon else str(path)

    def start(self, recipe: str | None, name: str, settings: str, evaluate: bool) -> None:
        """Raises: ConfigError, RunError."""
        if not recipe:
            raise ConfigError("Choose a recipe to start from.")
        lines = setting_lines(settings)
        self.recipes.require_good(recipe, lines, evaluate)
        self.jobs.start(name.strip(), self.recipes.path(recipe), lines, evaluate)


def _stamp(path: Path) -> str:
    """Another one after each change."""
    try:
        found = path.stat()
    except OSError:
        return "-"
    return f"{found.st_size}:{found.st_mtime_ns}"
