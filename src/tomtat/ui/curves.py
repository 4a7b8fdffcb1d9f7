"""How a run goes, as HTML: where it stands, its losses as a picture, its epochs as a table."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tomtat.config import RunConfig
from tomtat.evaluation.plots import loss_plot
from tomtat.ui.tables import note_html, table

NEWEST_STEPS = 20
"""Whose mean time says how long the rest will take."""
DRAWN_STEPS = 2000
"""More points than a screen has columns only make the page heavy."""
PICTURE_INCHES = (3.9, 2.5)
"""A phone's width; a wide screen stretches it."""

drawing = threading.Lock()
"""Matplotlib's settings belong to the process: two pictures at once would spoil each other's."""


@dataclass(frozen=True)
class Place:
    """Where a run stands."""

    step: int
    steps: int
    """Of the whole run, should it not stop early."""
    epoch: int
    epochs: int
    seconds_left: float

    @property
    def share(self) -> float:
        return self.step / self.steps


def place_of(metrics: Sequence[dict[str, Any]], config: RunConfig, info: dict[str, Any]) -> Place | None:
    """From what was logged and the size of the data; None before the first step."""
    steps = [row for row in metrics if row.get("kind") == "step"]
    rows = info.get("data", {}).get("train_rows")
    if not steps or not rows:
        return None
    epochs = config.train.epochs
    total = math.ceil(rows / config.train.batch_size) * epochs
    newest = [row["seconds"] for row in steps[-NEWEST_STEPS:]]
    step = min(steps[-1]["step"], total)
    return Place(step, total, steps[-1]["epoch"], epochs, (total - step) * sum(newest) / len(newest))


def place_html(place: Place, is_going: bool) -> str:
    percent = 100 * place.share
    left = f", about {duration(place.seconds_left)} left" if is_going and place.step < place.steps else ""
    words = f"Step {place.step:,} of {place.steps:,}, epoch {place.epoch} of {place.epochs}{left}"
    return (
        f'<p class="tt-place">{words}</p><div class="tt-bar" role="progressbar" aria-label="Training" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:.0f}" aria-valuetext="{words}">'
        f'<div style="width: {percent:.1f}%"></div></div>'
    )


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"


def curves_html(metrics: Sequence[dict[str, Any]]) -> str:
    """The losses; a sentence where there are none to draw yet."""
    with drawing:
        picture = loss_plot(thinned(metrics), *PICTURE_INCHES)
    if picture is None:
        return note_html("No curve yet: it begins with the second step.")
    return f'<div class="tt-plot">{picture}</div>'


def thinned(metrics: Sequence[dict[str, Any]], most: int = DRAWN_STEPS) -> list[dict[str, Any]]:
    """Every n-th step and the newest, so that no more than about `most` are drawn; of epochs all."""
    count = sum(row.get("kind") == "step" for row in metrics)
    every = math.ceil(count / most)
    if every <= 1:
        return list(metrics)
    kept = []
    for row in metrics:
        if row.get("kind") != "step" or row["step"] % every == 0 or row["step"] == count:
            kept.append(row)
    return kept


EPOCH_COLUMNS = {
    "training loss": ("train_loss", ".3f"),
    "validation loss": ("validation_loss", ".3f"),
    "validation ROUGE": ("validation_rouge", ".2f"),
    "seconds": ("seconds", ".1f"),
    "examples/s": ("examples_per_second", ".2f"),
}


def epochs_html(metrics: Sequence[dict[str, Any]]) -> str:
    """Nothing before the end of the first epoch. The kept one is bold, and says so."""
    epochs = [row for row in metrics if row.get("kind") in ("start", "epoch")]
    if not epochs:
        return ""
    kept = max((int(row["epoch"]) for row in epochs if row.get("is_best")), default=0)
    columns = {
        title: entry for title, entry in EPOCH_COLUMNS.items() if any(row.get(entry[0]) is not None for row in epochs)
    }
    rows, marked = [], []
    for number, row in enumerate(epochs):
        epoch = int(row.get("epoch", 0))
        if epoch == kept:
            marked.append(number)
        name = f"{epoch}" if epoch else "start"
        cells = ["" if row.get(field) is None else f"{row[field]:{form}}" for field, form in columns.values()]
        rows.append([f"{name} (kept)" if epoch == kept else name, *cells])
    return table("Epochs", ["epoch", *columns], rows, marked)


def log_html(text: str) -> str:
    if not text.strip():
        return note_html("It has said nothing yet.")
    return f'<pre class="tt-log" tabindex="0" role="region" aria-label="End of the log">{escape(text.strip())}</pre>'
