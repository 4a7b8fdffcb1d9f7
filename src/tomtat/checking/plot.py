"""How long sources and summaries are, and where the limits cut, as a picture to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tomtat.checking.report import Cut, Report, SplitReport
from tomtat.checking.suggest import percent, training_split
from tomtat.errors import ConfigError

FORMATS = (".png", ".svg", ".pdf")
_COLOURS = ("#2563a8", "#d9822b", "#3f8f5b", "#8a5fa8", "#777777")
_INK, _LINE, _LIMIT = "#333333", "#dddddd", "#b03030"
_BINS = 30
_SHOWN = 0.995
"""Of the rows; the longest few would press all others into a corner."""


def require_plottable(path: Path) -> None:
    """ConfigError where a picture can't be written to this path, before minutes are spent."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot {path}: end it in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}. Make it first.")


def write_plot(report: Report, path: Path) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        length_plot(report).savefig(new, format=path.suffix[1:].lower(), dpi=130)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def length_plot(report: Report) -> Any:
    """A Matplotlib figure: histograms of all splits over each other, sources to the left, summaries to the right."""
    # Not pyplot: it keeps figures alive and picks a backend by the environment.
    from matplotlib.figure import Figure

    unit = "tokens" if report.model else "words"
    whose = f"{unit} of {_plain(report.model)}" if report.model else unit
    splits = [split for split in report.splits if split.rows]
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _panel(left, "source", unit, whose, splits, lambda split: split.source_cut)
    _panel(right, "summary", unit, whose, splits, lambda split: split.summary_cut)
    if len(splits) > 1:
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=5, frameon=False, labelcolor=_INK, fontsize=9)
    figure.suptitle(
        f"Lengths of {sum(split.rows for split in splits):,} rows", x=0.01, ha="left", color=_INK, fontweight="bold"
    )
    return figure


def _panel(axes: Any, part: str, unit: str, whose: str, splits: Sequence[SplitReport], cut_of: Any) -> None:
    values = [np.asarray(split.values[f"{part} {unit}"]) for split in splits]
    cut: Cut | None = cut_of(training_split(splits))
    end = max(float(np.quantile(found, _SHOWN)) for found in values)
    end = max(end, 1.08 * cut.limit if cut and cut.limit < 2 * end else end, 1)
    edges = np.linspace(0, end, _BINS + 1)
    for number, (split, found) in enumerate(zip(splits, values, strict=True)):
        shares = 100 * np.histogram(found, edges)[0] / len(found)
        colour = _COLOURS[number % len(_COLOURS)]
        if number == 0:
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.18)
        axes.stairs(shares, edges, color=colour, linewidth=1.6, label=_plain(f"{split.label}, {split.rows:,} rows"))
    _frame(axes, f"{part}, {whose}")
    if cut and cut.limit <= end:
        axes.axvline(cut.limit, color=_LIMIT, linewidth=1.4, linestyle="--")
        is_right = cut.limit > 0.55 * end
        axes.annotate(
            f"limit {cut.limit:,}: {percent(cut.row_share)} of {_plain(training_split(splits).label)} longer",
            (cut.limit, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if is_right else 5, 0),
            textcoords="offset points",
            ha="right" if is_right else "left",
            va="top",
            color=_LIMIT,
            fontsize=9,
        )
    elif cut:
        axes.set_title(f"all shorter than the limit of {cut.limit:,}", loc="right", fontsize=9, color=_LIMIT)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])


def _frame(axes: Any, label: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, length=0, labelsize=9)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, color=_INK)
    axes.set_ylabel("% of rows", color=_INK)


def _plain(text: str) -> str:
    """A file's name may have dollar signs, which Matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
