"""How long sources and summaries are, as pictures in the page's colours."""

from collections.abc import Sequence

import numpy as np

from tomtat.checking.report import Cut, Report, SplitReport
from tomtat.checking.suggest import percent, training_split
from tomtat.evaluation.plots import ACCENT, INK, LINE, MUTED, as_svg, new_figure, plain
from tomtat.ui.curves import drawing

COLOURS = (ACCENT, MUTED, "#d9822b", "#8a5fa8", "#3f8f5b")
STYLES = ("-", "--", ":", "-.")
"""Splits are told apart without colours too."""
BINS = 24
SHOWN = 0.995
"""Of the rows; the longest few would press all others into a corner."""


def lengths_html(report: Report) -> str:
    """Histograms of sources and of summaries, the splits over each other."""
    splits = [split for split in report.splits if split.rows]
    if not splits:
        return ""
    unit = "tokens" if report.model else "words"
    train = training_split(splits)
    with drawing:
        pictures = [
            _histogram(f"source {unit}", splits, train.source_cut),
            _histogram(f"summary {unit}", splits, train.summary_cut),
        ]
    return '<div class="tt-side">' + "".join(f'<div class="tt-plot">{picture}</div>' for picture in pictures) + "</div>"


def _histogram(what: str, splits: Sequence[SplitReport], cut: Cut | None) -> str:
    figure, axes = new_figure(3.9, 2.6)
    values = [np.asarray(split.values[what]) for split in splits]
    end = max(1.0, *(float(np.quantile(found, SHOWN)) for found in values))
    if cut and cut.limit < 2 * end:
        end = max(end, 1.05 * cut.limit)
    edges = np.linspace(0, end, BINS + 1)
    for number, (split, found) in enumerate(zip(splits, values, strict=True)):
        shares = 100 * np.histogram(found, edges)[0] / len(found)
        axes.stairs(
            shares, edges, color=COLOURS[number % len(COLOURS)], linestyle=STYLES[number % len(STYLES)], linewidth=1.6,
            label=plain(f"{split.label}, {split.rows:,} rows"),
        )  # fmt: skip
    told = ""
    if cut and cut.limit <= end:
        told = f"limit {cut.limit:,}: {percent(cut.row_share)} longer"
        axes.axvline(cut.limit, color=INK, linewidth=1.2, linestyle=(0, (1, 1)), label=told)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.5 * axes.get_ylim()[1])
    axes.set_xlabel(what, color=INK)
    axes.set_ylabel("% of rows", color=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8.5, loc="upper right")
    medians = "; ".join(f"{split.label} {int(np.median(found)):,}" for split, found in zip(splits, values, strict=True))
    return as_svg(figure, f"Lengths in {what}. Medians: {medians}. {told}")
