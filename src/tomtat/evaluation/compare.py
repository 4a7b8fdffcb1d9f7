"""Several systems on the same rows, and whether they differ: only if the numbers were made the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from tomtat.errors import ConfigError, RunError
from tomtat.evaluation.names import headline
from tomtat.evaluation.store import StoredEvaluation, difference_as_dict, load_evaluation
from tomtat.evaluation.verdict import verdict
from tomtat.metrics.significance import Difference, differences, holm

LIMITS = ("max_new_tokens", "max_source_tokens")


@dataclass(frozen=True)
class PairComparison:
    a: str
    b: str
    differences: list[Difference]
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All pairs, corrected together."""

    rows: int
    data: str
    pairs: list[PairComparison]
    limits_differ: str | None = None
    """What differs between the systems' limits, where that was allowed."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "data": self.data,
            "limits_differ": self.limits_differ,
            "pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "verdict": pair.verdict,
                    "differences": [difference_as_dict(difference) for difference in pair.differences],
                }
                for pair in self.pairs
            ],
        }


def compare(
    evaluations: Sequence[Path | str],
    metrics: Sequence[str] | None = None,
    across_limits: bool = False,
) -> Comparison:
    """Compare the judged systems of two or more evaluations; `PATH:SYSTEM` names another one, such as `runs/a:untuned`.

    `metrics` are names as scores.json has them; by default the headline ones that all have. Raises RunError where the
    numbers were made on other rows, by other protocols, or (unless `across_limits`) under other length limits.
    """
    if len(evaluations) < 2:
        raise ConfigError("Name at least two runs or evaluations to compare.")
    loaded = [_load(item) for item in evaluations]
    if len({(item.path.resolve(), item.system) for item in loaded}) < len(loaded):
        raise ConfigError("The same evaluation is named twice.")
    names = _names(loaded)
    limits = None
    for other, name in zip(loaded[1:], names[1:], strict=True):
        _require_same_rows(loaded[0], other, names[0], name)
        limits = _require_same_limits(loaded[0], other, names[0], name, across_limits) or limits
    wanted = _wanted(loaded, names, metrics)
    found = []
    for (a, name_a), (b, name_b) in combinations(zip(loaded, names, strict=True), 2):
        _require_same_recipes(a, b, name_a, name_b, wanted)
        pick = [next(metric for metric in a.values if metric.name == name) for name in wanted]
        found.append((name_a, name_b, differences(pick, b.values)))
    corrected = iter(holm([difference for _, _, each in found for difference in each]))
    rows = loaded[0].scores["rows"]
    pairs = []
    for name_a, name_b, each in found:
        final = [next(corrected) for _ in each]
        pairs.append(PairComparison(name_a, name_b, final, verdict(name_a, name_b, final, rows)))
    return Comparison(rows, loaded[0].scores["data"], pairs, limits)


def _load(item: Path | str) -> StoredEvaluation:
    path = Path(item)
    if path.exists():
        return load_evaluation(path)
    folder, _, system = str(item).rpartition(":")
    return load_evaluation(Path(folder), system) if folder else load_evaluation(path)


def _names(loaded: Sequence[StoredEvaluation]) -> list[str]:
    """The run's or folder's name where that tells them apart, else its path; another system's name behind it."""
    paths = {item.path for item in loaded}
    if len(paths) == 1:
        return [item.system for item in loaded]
    short = {path: _short_name(path.resolve()) for path in paths}
    is_clear = len(set(short.values())) == len(paths)
    return [
        (short[item.path] if is_clear else str(item.path))
        + ("" if item.system == item.scores["judged"][0] else f":{item.system}")
        for item in loaded
    ]


def _short_name(path: Path) -> str:
    """The run's name for an evaluation inside a run, else the folder's own."""
    run = path.parent.parent
    return run.name if path.parent.name == "evaluations" and (run / "config.toml").is_file() else path.name


def _require_same_rows(a: StoredEvaluation, b: StoredEvaluation, name_a: str, name_b: str) -> None:
    if a.scores["rows_sha256"] != b.scores["rows_sha256"]:
        raise RunError(
            f"{name_a} and {name_b} were scored on different rows ({a.scores['data']}, {a.scores['rows']:,} rows; "
            f"{b.scores['data']}, {b.scores['rows']:,} rows): their numbers can't be compared. "
            "Evaluate both on the same --data."
        )


def _require_same_limits(
    a: StoredEvaluation, b: StoredEvaluation, name_a: str, name_b: str, allowed: bool
) -> str | None:
    ours, theirs = a.scores["generation"], b.scores["generation"]
    differing = [
        f"{limit} {ours[limit]} and {theirs[limit]}"
        for limit in LIMITS
        if limit in ours and limit in theirs and ours[limit] != theirs[limit]
    ]
    if not differing:
        return None
    text = f"{name_a} and {name_b} wrote under different limits ({'; '.join(differing)})"
    if not allowed:
        raise RunError(
            f"{text}: a difference may come from these alone. "
            "Evaluate under the same ones, or compare all the same with --across-limits."
        )
    return text


def _require_same_recipes(
    a: StoredEvaluation, b: StoredEvaluation, name_a: str, name_b: str, wanted: Sequence[str]
) -> None:
    recipes_a, recipes_b = ({metric.name: metric.recipe for metric in item.values} for item in (a, b))
    for name in wanted:
        if recipes_a[name] != recipes_b[name]:
            raise RunError(
                f"{name} was measured differently: {name_a} by «{recipes_a[name]}», {name_b} by «{recipes_b[name]}». "
                "Evaluate both anew with the same settings and versions."
            )


def _wanted(loaded: Sequence[StoredEvaluation], names: Sequence[str], metrics: Sequence[str] | None) -> list[str]:
    have = [{metric.name for metric in item.values} for item in loaded]
    if not metrics:
        shared = headline(set.intersection(*have))
        if not shared:
            raise RunError("These evaluations have no metric in common. Evaluate them anew with the same metrics.")
        return shared
    for name in metrics:
        for each, who in zip(have, names, strict=True):
            if name not in each:
                raise ConfigError(f"--metric {name}: {who} has not measured it. It has {', '.join(sorted(each))}.")
    return list(metrics)
