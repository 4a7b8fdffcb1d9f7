"""What stands beside the curves: the list of runs, scores with their intervals, two systems compared, as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tomtat.evaluation.compare import Comparison
from tomtat.evaluation.names import YARDSTICKS, headline
from tomtat.evaluation.report import OTHERS
from tomtat.ui.tables import error_html, note_html, table


@dataclass(frozen=True)
class ListedRun:
    name: str
    state: str
    model: str
    epochs: str
    validation_loss: str
    scores: dict[str, float]
    """Of the run's own test data, by metric."""


def list_html(runs: Sequence[ListedRun]) -> str:
    metrics = headline({metric for run in runs for metric in run.scores})[:3]
    rows = [
        [
            run.name, run.state, run.model, run.epochs, run.validation_loss,
            *(f"{run.scores[metric]:.1f}" if metric in run.scores else "" for metric in metrics),
        ]
        for run in runs
    ]  # fmt: skip
    return table(
        "Runs, the newest first",
        ["run", "state", "base model", "epochs", "validation loss", *metrics],
        rows,
        text_columns=(1, 2),
    )


def scores_html(scores: dict[str, Any]) -> str:
    """Verdicts on the yardsticks, then each system's scores with 95 % intervals."""
    verdicts = "".join(f'<p class="tt-verdict">{escape(found["verdict"])}</p>' for found in _comparisons(scores))
    systems: dict[str, Any] = scores["systems"]
    have = {name for system in systems.values() for name in system["scores"]}
    columns = [*headline(have), *(name for name in OTHERS if name in have)]
    rows = [[name, *(_score(system["scores"].get(column)) for column in columns)] for name, system in systems.items()]
    marked = [number for number, name in enumerate(systems) if name in scores["judged"]]
    about = "".join(note_html(f"{name}: {text}.") for name, text in YARDSTICKS.items() if name in systems)
    title = f"{scores['rows']:,} rows of {scores['data']}, with 95 % intervals"
    notes = "".join(note_html(str(note)) for note in scores.get("notes") or [])
    return verdicts + table(title, ["system", *columns], rows, marked) + about + notes


def _comparisons(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return list((scores.get("comparisons") or {}).values())


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    if score.get("low") is None:
        return f"{score['value']:.1f}"
    return f"{score['value']:.1f}\n{score['low']:.1f} to {score['high']:.1f}"


def comparison_html(comparison: Comparison) -> str:
    """The verdict first: nobody should have to read p-values."""
    parts = []
    for pair in comparison.pairs:
        rows = [
            [
                found.metric, f"{found.a:.2f}", f"{found.b:.2f}", f"{found.value:+.2f}\n{found.low:+.2f} to "
                f"{found.high:+.2f}", f"{found.p_corrected:.4f}",
                "" if found.detectable is None else f"{found.detectable:.2f}",
            ]
            for found in pair.differences
        ]  # fmt: skip
        columns = ["metric", pair.a, pair.b, "difference, 95 %", "p (Holm)", "visible"]
        parts.append(f'<p class="tt-verdict">{escape(pair.verdict)}</p>')
        parts.append(table(f"{comparison.rows:,} rows of {comparison.data}", columns, rows))
    if comparison.limits_differ:
        parts.append(error_html(f"{comparison.limits_differ}; the difference may come from that."))
    parts.append(
        note_html(
            "visible: the smallest true difference that these rows would show four times out of five, with Holm's "
            "correction."
        )
    )
    return "".join(parts)


def report_html(page: str, label: str) -> str:
    """A frame without rights: no scripts, no forms, no origin of ours, nothing loaded."""
    return (
        f'<iframe class="tt-report" sandbox="" title="Report of {escape(label, quote=True)}" '
        f'srcdoc="{escape(page, quote=True)}"></iframe>'
    )
