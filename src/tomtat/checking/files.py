"""A check's findings in a folder, whole: the screen shows the first few of each.

report.json         all figures
lengths.png         the plot
bad_rows.jsonl      rows that can't be used, where they stand, why, and as they are
odd_rows.jsonl      rows that deserve a look, where they stand and why
duplicates.jsonl    rows of one split with one text, or nearly
overlaps.jsonl      rows of one split that stand in another
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tomtat.checking.plot import write_plot
from tomtat.checking.report import Report
from tomtat.errors import ConfigError
from tomtat.files import write_json, write_json_lines


def require_folder(folder: Path) -> None:
    """ConfigError where no folder can be made of this path, before minutes are spent."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file. Name a folder; the check writes several files into it.")


def write_findings(report: Report, folder: Path) -> None:
    """Files of an earlier check are replaced, others in the folder left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(folder / "bad_rows.jsonl", (asdict(row) for split in report.splits for row in split.bad))
    write_json_lines(folder / "odd_rows.jsonl", _odd(report))
    write_json_lines(folder / "duplicates.jsonl", _duplicates(report))
    write_json_lines(folder / "overlaps.jsonl", _overlaps(report))
    if any(split.rows for split in report.splits):
        write_plot(report, folder / "lengths.png")
    # Last: where it is, all is there.
    write_json(folder / "report.json", report.as_dict())


def _odd(report: Report) -> Iterator[dict[str, Any]]:
    for split in report.splits:
        for found in split.suspicions.values():
            for one in found:
                where = split.places[one.row]
                yield {"split": split.label, "where": where, "kind": one.kind, "found": one.what}


def _duplicates(report: Report) -> Iterator[dict[str, Any]]:
    for split in report.splits:
        for cluster in split.duplicates.clusters:
            yield {
                "split": split.label,
                "kind": "exact" if cluster.is_exact else "near",
                "rows": [split.places[row] for row in cluster.rows],
                "begins": split.beginnings[cluster.rows[0]],
            }


def _overlaps(report: Report) -> Iterator[dict[str, Any]]:
    for overlap in report.overlaps:
        here, there = report.split(overlap.label), report.split(overlap.other)
        for row, other in overlap.exact.items():
            yield {
                "split": here.label,
                "where": here.places[row],
                "kind": "exact",
                "other": there.label,
                "stands_at": there.places[other],
            }
        for row in overlap.near:
            yield {"split": here.label, "where": here.places[row], "kind": "near", "other": there.label}
