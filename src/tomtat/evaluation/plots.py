"""The report's pictures: inline SVG whose colours are the page's own, so that they follow light and dark."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Matplotlib wants real colours; these stand for CSS variables and are replaced in the finished SVG.
INK, LINE, ACCENT, MUTED = "#010203", "#040506", "#070809", "#0a0b0c"
_VARIABLES = {INK: "--ink", LINE: "--line", ACCENT: "--accent", MUTED: "--muted"}


def intervals_plot(title: str, rows: Sequence[tuple[str, float, float, float]], judged: Sequence[str]) -> str:
    """A point with its 95 % interval for each (system, value, low, high); the judged systems stand out."""
    figure, axes = new_figure(4.2, 0.62 + 0.3 * len(rows))
    for place, (system, value, low, high) in enumerate(reversed(rows)):
        colour = ACCENT if system in judged else MUTED
        axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="round", alpha=0.55)
        axes.plot([value], [place], "o", color=colour, markersize=7)
        axes.annotate(f"{value:.1f}", (high, place), xytext=(6, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(rows)), [plain(row[0]) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.16)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.set_title(title, loc="left", color=INK, fontsize=10, fontweight="bold")
    text = "; ".join(f"{system} {value:.1f} ({low:.1f} to {high:.1f})" for system, value, low, high in rows)
    return as_svg(figure, f"{title}: {text}")


def loss_plot(metrics: Sequence[dict[str, Any]], width: float = 5.2, height: float = 2.6) -> str | None:
    """Training loss of every step, and both losses at the ends of epochs; None where nothing was logged.

    width, height: in inches; letters keep their size.
    """
    steps = [(row["step"], row["loss"]) for row in metrics if row.get("kind") == "step"]
    epochs = [row for row in metrics if row.get("kind") == "epoch"]
    if len(steps) < 2:
        return None
    figure, axes = new_figure(width, height)
    numbers, losses = zip(*steps, strict=True)
    axes.plot(numbers, losses, color=MUTED, linewidth=0.8, alpha=0.6, label="training, each step")
    ends = [_steps_before(metrics, row) for row in epochs]
    axes.plot(ends, [row["train_loss"] for row in epochs], "o-", color=INK, linewidth=1.4, label="training, epoch")
    held = [
        (end, row["validation_loss"])
        for end, row in zip(ends, epochs, strict=True)
        if row["validation_loss"] is not None
    ]
    if held:
        axes.plot(*zip(*held, strict=True), "s-", color=ACCENT, linewidth=1.8, label="validation, epoch")
    axes.set_xlabel("step", color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    # A calibration's training loss is of ranks, and has no unit.
    is_calibration = any(row.get("kind") == "start" for row in metrics)
    axes.set_ylabel("loss" if is_calibration else "loss, nats per target token", color=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    text = ", ".join(f"epoch {row['epoch']}: {row['train_loss']:.3f}" for row in epochs)
    return as_svg(figure, f"Loss over {len(steps)} steps; training {text}")


def _steps_before(metrics: Sequence[dict[str, Any]], epoch: dict[str, Any]) -> int:
    """The number of the last step of an epoch, by the order of the rows."""
    before = metrics[: next(number for number, row in enumerate(metrics) if row is epoch)]
    return max((row["step"] for row in before if row.get("kind") == "step"), default=0)


def length_plot(lengths: Sequence[int], values: Sequence[float], metric: str, system: str) -> str:
    """Each row's score against the length of its source, with means over quarters of the rows."""
    figure, axes = new_figure(5.2, 2.6)
    axes.plot(lengths, values, "o", color=MUTED, markersize=4, alpha=0.45, markeredgewidth=0)
    order = np.argsort(lengths)
    parts = [part for part in np.array_split(order, 4) if len(part)]
    x = [float(np.mean(np.asarray(lengths)[part])) for part in parts]
    y = [float(np.mean(np.asarray(values)[part])) for part in parts]
    axes.plot(x, y, "o-", color=ACCENT, linewidth=1.8, markersize=6, label="mean of a quarter of the rows")
    axes.set_xlabel("words of the source", color=INK)
    axes.set_ylabel(plain(f"{metric} of {system}"), color=INK)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    shown = ", ".join(f"{b:.1f} at {a:.0f} words" for a, b in zip(x, y, strict=True))
    return as_svg(figure, f"{metric} of {system} against the source's length: {shown}")


def plain(name: str) -> str:
    """A file's name may have dollar signs, which Matplotlib would read as mathematics."""
    return name.replace("$", r"\$")


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, in inches, in the colours above."""
    # Not pyplot: it keeps figures alive and picks a backend by the environment.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.set_axisbelow(True)
    return figure, axes


def as_svg(figure: Any, label: str) -> str:
    """An SVG element for a page that has the variables; `label` tells what it shows to who can't see it."""
    from html import escape

    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tomtat"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The page's own font, at the size that was asked for.
    text = re.sub(r"font: (?:bold |700 )?([\d.]+px)[^;\"]*", r"font-size: \1; font-family: inherit", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    width = re.search(r'<svg[^>]*?width="([\d.]+pt)"', text)
    text = re.sub(r"(?<=<svg)[^>]*", lambda match: re.sub(r' (?:height|width)="[\d.]+pt"', "", match[0]), text, count=1)
    most = f"max-width: {width[1]}; " if width else ""
    opening = f'<svg role="img" aria-label="{escape(label, quote=True)}" style="{most}width: 100%; height: auto"'
    return text.replace("<svg", opening, 1)
