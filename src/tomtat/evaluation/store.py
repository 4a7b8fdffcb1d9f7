"""An evaluation on disk: what `compare`, the report and other tools read.

scores.json         every score with interval and recipe, and all that is known about how they came (docs/evaluation.md)
values.jsonl        a row per test row: id, and each system's values of each metric
predictions.jsonl   id and prediction of the judged system; predictions.SYSTEM.jsonl of the others
report.html         the same to look at
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomtat.data import Reject
from tomtat.errors import RunError
from tomtat.evaluation.evaluate import Evaluation, fingerprint
from tomtat.evaluation.names import ORDER, TUNED
from tomtat.evaluation.verdict import verdict
from tomtat.files import replace_folder, sha256_of, write_json, write_json_lines, write_text
from tomtat.metrics import RowValues
from tomtat.metrics.significance import Difference
from tomtat.progress import Progress
from tomtat.run_folder import RunFolder
from tomtat.types import Score

SCHEMA = 1
SCORES, VALUES = "scores.json", "values.jsonl"
REJECTS = "rejects.evaluation.jsonl"
"""Not the run's own rejects file: that one holds training rows."""


def write_evaluation(
    evaluation: Evaluation, rejects: list[Reject], progress: Progress, folder: RunFolder | None = None
) -> None:
    """Whole or not at all: a folder of its own takes the old one's place; at the run's top, where much else lies, files
    are written aside first, and between their renames there is no scores.json that could speak for others."""
    from tomtat.evaluation.card import update_card
    from tomtat.evaluation.report import render_report

    path = evaluation.path
    report = render_report(evaluation, folder)
    if folder is not None and path == folder.path:
        _replace_files(path, evaluation, rejects, report)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(path) as new:
            _write_files(new, evaluation, rejects, report)
    if folder is not None:
        update_card(folder, progress)
    if rejects:
        progress.note(f"{len(rejects):,} bad rows left out; they lie with their reasons in {path / REJECTS}")


def _replace_files(path: Path, evaluation: Evaluation, rejects: list[Reject], report: str) -> None:
    new = path / ".evaluation.new"
    shutil.rmtree(new, ignore_errors=True)  # what a kill left
    new.mkdir()
    try:
        _write_files(new, evaluation, rejects, report)
        # Yardsticks of an earlier evaluation must not stay beside these scores; other files are not ours to remove.
        for name in (SCORES, VALUES, "report.html", REJECTS, *map(_predictions_file, ORDER)):
            (path / name).unlink(missing_ok=True)
        for file in sorted(new.iterdir(), key=lambda file: file.name == SCORES):
            file.replace(path / file.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _predictions_file(system: str) -> str:
    return "predictions.jsonl" if system == TUNED else f"predictions.{system}.jsonl"


def _write_files(path: Path, evaluation: Evaluation, rejects: list[Reject], report: str) -> None:
    ids = [example.id for example in evaluation.examples]
    for system, texts in evaluation.predictions.items():
        rows = [{"id": row_id, "prediction": text} for row_id, text in zip(ids, texts, strict=True)]
        write_json_lines(path / _predictions_file(system), rows)
    write_json_lines(path / VALUES, _value_rows(evaluation))
    write_text(path / "report.html", report)
    if rejects:
        write_json_lines(path / REJECTS, (asdict(reject) for reject in rejects))
    write_json(path / SCORES, as_dict(evaluation) | {"values_sha256": sha256_of(path / VALUES)})


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """What scores.json holds; docs/evaluation.md explains each field."""
    leakage = evaluation.leakage
    rows = len(evaluation.examples)
    return {
        "schema": SCHEMA,
        "data": evaluation.data,
        "rows": rows,
        "rows_sha256": fingerprint(evaluation.examples),
        "references": {
            "fewest": min(len(example.references) for example in evaluation.examples),
            "most": max(len(example.references) for example in evaluation.examples),
        },
        "judged": list(evaluation.judged),
        "rouge_words": evaluation.protocol,
        "language": evaluation.language,
        "sources_cut": evaluation.sources_cut,
        "generation": evaluation.settings,
        "not_run": evaluation.not_run,
        "notes": evaluation.notes,
        "systems": {
            system: {
                "words": evaluation.words[system],
                "cut_off": evaluation.cut_off.get(system),
                "scores": {score.name: _without_name(score) for score in scores},
            }
            for system, scores in evaluation.scores.items()
        },
        "comparisons": {
            system: {
                "verdict": verdict(system, evaluation.judged[0], found, rows),
                "differences": [difference_as_dict(difference) for difference in found],
            }
            for system, found in evaluation.comparisons.items()
        },
        "slices": [
            {
                "by": part.by,
                "label": part.label,
                "rows": len(part.rows),
                "systems": {
                    system: {score.name: _without_name(score) for score in scores}
                    for system, scores in part.scores.items()
                },
            }
            for part in evaluation.slices
        ],
        "leakage": leakage
        and {
            "training": leakage.training,
            "exact": [evaluation.examples[n].id for n in leakage.exact],
            "near": [evaluation.examples[n].id for n in leakage.near],
        },
    }


def difference_as_dict(difference: Difference) -> dict[str, Any]:
    return {**asdict(difference), "value": difference.value, "detectable": difference.detectable}


def _without_name(score: Score) -> dict[str, Any]:
    return {"value": score.value, "low": score.low, "high": score.high, "recipe": score.recipe}


def _value_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    systems = {
        system: [(metric.name, _compact(metric)) for metric in scored.values]
        for system, scored in evaluation.systems.items()
    }
    return [
        {
            "id": example.id,
            "systems": {
                system: {name: values[number] for name, values in metrics} for system, metrics in systems.items()
            },
        }
        for number, example in enumerate(evaluation.examples)
    ]


def _compact(metric: RowValues) -> list[Any]:
    """A number where a row counts once, else the list of what is summed over rows."""
    if metric.kind == "ratio" and bool((metric.columns[:, 1] == 1).all()):
        return [round(float(value), 6) for value in metric.columns[:, 0]]
    return [[round(float(value), 6) for value in row] for row in metric.columns]


@dataclass(frozen=True)
class StoredEvaluation:
    """One judged system of an evaluation that lies on disk."""

    system: str
    path: Path
    scores: dict[str, Any]
    """scores.json."""
    values: list[RowValues]


def find_evaluation(path: Path) -> Path:
    """The folder with scores.json: the run's own, or the only one under evaluations/."""
    if (path / "scores.json").is_file():
        return path
    inside = sorted(found.parent for found in path.glob("evaluations/*/scores.json"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(map(str, inside))
        raise RunError(f"{path} has several evaluations. Name one: {names}.")
    if not path.exists():
        raise RunError(f"There is no {path}. Name a run folder or an evaluation's folder.")
    hint = f"tomtat evaluate {path}" if (path / "config.toml").is_file() else "tomtat evaluate RUN"
    raise RunError(f"{path} has no evaluation yet. First: {hint}.")


def load_evaluation(path: Path, system: str | None = None) -> StoredEvaluation:
    """Row values of one system, by default the one that was judged."""
    folder = find_evaluation(path)
    try:
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        judged = system or scores["judged"][0]
        rows = [json.loads(line) for line in (folder / VALUES).read_text(encoding="utf-8").split("\n") if line]
        is_whole = scores["values_sha256"] == sha256_of(folder / VALUES)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise RunError(
            f"{folder} has no whole evaluation that can be compared (values.jsonl or scores.json is missing, older "
            "than this tomtat, or damaged). Make it again with tomtat evaluate."
        ) from None
    if not is_whole:
        raise RunError(
            f"{folder}: {VALUES} is not the one that scores.json was written with; was an evaluation stopped half-way? "
            "Make it again with tomtat evaluate."
        )
    if judged not in scores["systems"]:
        raise RunError(f"{folder} has no system {judged!r}. It has {', '.join(scores['systems'])}.")
    values = _read_values(rows, judged, scores["systems"][judged]["scores"])
    return StoredEvaluation(judged, folder, scores, values)


def _read_values(rows: Sequence[Any], system: str, scores: dict[str, Any]) -> list[RowValues]:
    found = []
    for name, score in scores.items():
        raw = [row["systems"][system][name] for row in rows]
        columns = np.asarray([value if isinstance(value, list) else [value, 1.0] for value in raw], dtype=np.float64)
        kind = "bleu" if columns.shape[1] > 2 else "ratio"
        recipe = score["recipe"].rpartition(", n=")[0]
        found.append(RowValues(name, recipe, columns, kind))  # type: ignore[arg-type]
    return found
