"""The evaluation as one HTML file that opens without a network: the verdict first, then what it rests on."""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np

from tomtat.evaluation.evaluate import Evaluation
from tomtat.evaluation.marks import Piece, mark
from tomtat.evaluation.names import EXACT, LEAD3, OTHER_PROTOCOLS, UNTUNED, YARDSTICKS
from tomtat.evaluation.plots import intervals_plot, length_plot, loss_plot
from tomtat.evaluation.verdict import verdict, visible
from tomtat.prompts import source_text
from tomtat.run_folder import RunFolder
from tomtat.text import stands_in, words
from tomtat.types import Example, Score

EXAMPLES_EACH = 2
PICTURED = ("rouge1", "rouge2", "rougeLsum", "bertscore")
OTHERS = (
    "source-precision", "numbers-in-source", "names-in-source", "dates-in-source", "facts-kept", "trained-faithfulness",
    "words", "compression", "coverage", "density", "novel-1", "novel-2", "novel-3", "repetition", "cut-off", "empty",
)  # fmt: skip
MOST_SOURCE = 20_000
"""Characters of a source that are shown: a report stays a page even of whole meetings."""


@dataclass(frozen=True)
class ShownExample:
    """A row side by side: what people wrote, what each system wrote, its source."""

    title: str
    id: str
    source: str
    source_is_cut: bool
    references: tuple[str, ...]
    systems: list[tuple[str, str, list[Piece]]]
    """Name, scores in words, marked text."""
    facts: list[tuple[str, str, bool]]
    """Text, question, whether the judged summary kept it."""


def render_report(evaluation: Evaluation, folder: RunFolder | None = None) -> str:
    """Everything that comes from data is escaped by the template engine."""
    from jinja2 import Environment, StrictUndefined

    template = (files("tomtat.evaluation") / "report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(**_content(evaluation, folder))


def _content(evaluation: Evaluation, folder: RunFolder | None) -> dict[str, Any]:
    rows = len(evaluation.examples)
    judged = evaluation.judged[0]
    return {
        "title": folder.path.name if folder else ", ".join(evaluation.judged),
        "version": version("tomtat"),
        "evaluation": evaluation,
        "rows": rows,
        "judged": judged,
        "verdicts": [
            (system, verdict(system, judged, found, rows)) for system, found in evaluation.comparisons.items()
        ],
        "visible": next((visible(found, rows) for found in evaluation.comparisons.values() if found), ""),
        "tables": _quality_tables(evaluation),
        "others": _score_table(evaluation, OTHERS),
        "yardsticks": {name: about for name, about in YARDSTICKS.items() if name in evaluation.systems},
        "pictures": _pictures(evaluation),
        "loss": loss_plot(folder.metrics()) if folder else None,
        "by_length": _by_length(evaluation, judged),
        "slices": _slice_rows(evaluation),
        "examples": [_shown(evaluation, number, title) for number, title in _picked(evaluation)],
        "parameters": _parameters(folder),
        "settings": {**evaluation.settings, "sources cut at the limit": f"{evaluation.sources_cut:,} of {rows:,}"}
        if evaluation.settings
        else {},
        "recipes": [(system, scores) for system, scores in evaluation.scores.items()],
    }


POLICIES = {
    "": "mean of each row's references",
    "-best": "best of each row's references",
    "-jackknife": "jackknife: each reference left out in turn, best of the others (the fair line beside humans)",
}


def _quality_tables(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One table for each policy over several references; one in all where rows have one."""
    most = max(len(example.references) for example in evaluation.examples)
    # Of two references, the best of the others is the other: the jackknife is the mean again.
    shown = {suffix: about for suffix, about in POLICIES.items() if suffix != "-jackknife" or most > 2}
    tables = []
    for suffix, about in shown.items() if most > 1 else [("", "")]:
        table = _score_table(evaluation, [name + suffix for name in evaluation.headline])
        table["columns"] = [name.removesuffix(suffix) for name in table["columns"]]
        tables.append(table | {"policy": about and f"the {about}"})
    protocols = _score_table(evaluation, OTHER_PROTOCOLS)
    return [*tables, protocols | {"policy": "other protocols: ROUGE-1.5.5, and the course notebook's BLEU"}]


def _score_table(evaluation: Evaluation, names: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Columns that any system has, and for each system its scores in them or None."""
    by_system = {system: {score.name: score for score in scores} for system, scores in evaluation.scores.items()}
    columns = [name for name in names if any(name in scores for scores in by_system.values())]
    rows: list[tuple[str, list[Score | None]]] = [
        (system, [scores.get(name) for name in columns])
        for system, scores in by_system.items()
        if any(name in scores for name in columns)
    ]
    return {"columns": columns, "rows": rows}


def _pictures(evaluation: Evaluation) -> list[str]:
    pictures = []
    for name in PICTURED:
        rows = [
            (system, score.value, score.low, score.high)
            for system, scores in evaluation.scores.items()
            for score in scores
            if score.name == name
        ]
        if rows:
            pictures.append(intervals_plot(name, rows, evaluation.judged))
    return pictures


def _by_length(evaluation: Evaluation, judged: str) -> str | None:
    if len(evaluation.examples) < 4 or not evaluation.headline:
        return None
    metric = evaluation.headline[0]
    lengths = [len(words(source_text(example.source))) for example in evaluation.examples]
    values = evaluation.systems[judged].row_values(metric).per_row
    return length_plot(lengths, list(map(float, np.nan_to_num(values))), metric, judged)


def _slice_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    if not evaluation.headline:
        return []
    metric = evaluation.headline[0]
    return [
        {
            "by": part.by,
            "label": part.label,
            "rows": len(part.rows),
            "metric": metric,
            "scores": {
                system: next((score for score in scores if score.name == metric), None)
                for system, scores in part.scores.items()
            },
        }
        for part in evaluation.slices
    ]


def _picked(evaluation: Evaluation) -> list[tuple[int, str]]:
    """Row numbers of the best, the middling and the worst by the decisive metric; all rows where there are few."""
    rows = len(evaluation.examples)
    if not evaluation.headline:
        return [(number, "") for number in range(min(rows, 3 * EXAMPLES_EACH))]
    values = evaluation.systems[evaluation.judged[0]].row_values(evaluation.headline[0]).per_row
    order = [int(number) for number in np.argsort(-np.nan_to_num(values), kind="stable")]
    middle = (rows - EXAMPLES_EACH) // 2
    groups = [
        ("among the best", order[:EXAMPLES_EACH]),
        ("middling", order[middle : middle + EXAMPLES_EACH]),
        ("among the worst", order[-EXAMPLES_EACH:]),
    ]
    if rows < 3 * EXAMPLES_EACH:
        return [(number, "") for number in order]
    return [(number, title) for title, numbers in groups for number in numbers]


def _shown(evaluation: Evaluation, number: int, title: str) -> ShownExample:
    example: Example = evaluation.examples[number]
    source = source_text(example.source)
    judged = evaluation.judged[0]
    systems = []
    for system in (*evaluation.judged, UNTUNED, EXACT, LEAD3):
        if system in evaluation.predictions:
            text = evaluation.predictions[system][number]
            systems.append((system, _row_scores(evaluation, system, number), mark(text, source)))
    summary = evaluation.predictions[judged][number]
    facts = [(fact.text, fact.question, stands_in(fact.text, summary)) for fact in example.facts]
    return ShownExample(
        title=title,
        id=str(example.id),
        source=source[:MOST_SOURCE],
        source_is_cut=len(source) > MOST_SOURCE,
        references=example.references,
        systems=systems,
        facts=facts,
    )


def _row_scores(evaluation: Evaluation, system: str, number: int) -> str:
    values = {metric.name: metric for metric in evaluation.systems[system].values}
    shown = [name for name in ("rouge1", "rouge2", "rougeLsum") if name in values]
    return ", ".join(f"{name} {values[name].per_row[number]:.0f}" for name in shown)


def _parameters(folder: RunFolder | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    info = folder.info()
    size = sum(path.stat().st_size for path in folder.trained_path.glob("*.safetensors"))
    return {
        **info["parameters"],
        "modules": info["parameters"].get("modules", []),
        "disk": size,
        "base": info["base"]["name"],
    }
