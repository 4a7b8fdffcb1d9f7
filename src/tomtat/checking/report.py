"""What a check found, as values that can be printed, drawn or written as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tomtat.checking.abstractive import Copying
from tomtat.checking.duplicates import Duplicates
from tomtat.checking.suspicions import Suspicion
from tomtat.data import Reject

EXAMPLES = 5
"""Of each kind of suspicious row, and of clusters, so many stand in the report; files have them all."""


@dataclass(frozen=True)
class Lengths:
    least: int
    median: int
    high: int
    """95 % are no longer."""
    most: int

    @classmethod
    def of(cls, values: Sequence[int]) -> "Lengths":
        found = np.quantile(values, [0, 0.5, 0.95, 1], method="inverted_cdf")
        return cls(*map(int, found))


@dataclass(frozen=True)
class Cut:
    """What a limit takes away."""

    limit: int
    rows: int
    row_share: float
    token_share: float
    """Of the tokens of all rows."""

    @classmethod
    def of(cls, tokens: Sequence[int], limit: int) -> "Cut":
        found = np.asarray(tokens, np.int64)
        over = found[found > limit]
        return cls(limit, len(over), len(over) / len(found), float((over - limit).sum() / max(int(found.sum()), 1)))


@dataclass(frozen=True)
class Unread:
    """What the tokenizer loses."""

    share: float
    """Of visible characters of sources and summaries."""
    told: str
    line_breaks: bool
    """Whether line breaks come back as spaces."""


@dataclass(frozen=True)
class SplitReport:
    label: str
    source: str
    rows: int
    """Usable ones."""
    bad: Sequence[Reject]
    references: int
    lengths: dict[str, Lengths]
    source_cut: Cut | None
    summary_cut: Cut | None
    duplicates: Duplicates
    languages: Counter[tuple[str, str]]
    copying: Copying | None
    suspicions: dict[str, Sequence[Suspicion]]
    unread: Unread | None
    places: Sequence[str]
    """Where each row stands: `line 7`."""
    beginnings: Sequence[str]
    values: Mapping[str, Sequence[int]]
    """All lengths, for the plot."""

    @property
    def tokens_per_word(self) -> float | None:
        """Of the sources: about 1.4 where a tokenizer was made for their language."""
        tokens, counted = self.values.get("source tokens"), sum(self.values["source words"])
        return sum(tokens) / counted if tokens and counted else None


@dataclass(frozen=True)
class Overlap:
    """Rows of one split that stand in another."""

    label: str
    other: str
    rows: int
    exact: dict[int, int]
    """Row here, and the first row there with the same text."""
    near: Sequence[int]
    """Further rows that share at least half of their runs of eight words with the other split."""
    share: float
    """Of all runs of eight words here, the mean over rows of the part that stands there too."""

    @property
    def seen(self) -> int:
        return len(self.exact) + len(self.near)


@dataclass(frozen=True)
class Suggestion:
    setting: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    problems: Sequence[str]
    """What must be put right before training; each says what, how much and what to do."""
    remarks: Sequence[str]
    """What deserves a look."""

    @property
    def sentence(self) -> str:
        if self.problems:
            return f"Not ready to train on: {_count(len(self.problems), 'thing')} to put right first."
        if self.remarks:
            return f"Ready to train on, with {_count(len(self.remarks), 'thing')} to look at."
        return "Ready to train on: nothing stands out."


@dataclass(frozen=True)
class Report:
    model: str | None
    """Whose tokens were counted; None where no tokenizer was at hand."""
    splits: Sequence[SplitReport]
    overlaps: Sequence[Overlap]
    suggestions: Sequence[Suggestion]
    verdict: Verdict

    @property
    def bad_rows(self) -> int:
        return sum(len(split.bad) for split in self.splits)

    def split(self, label: str) -> SplitReport:
        return next(split for split in self.splits if split.label == label)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all numbers, all bad rows, and a few examples of each other kind."""
        return {
            "verdict": self.verdict.sentence,
            "problems": list(self.verdict.problems),
            "remarks": list(self.verdict.remarks),
            "model": self.model,
            "splits": {split.label: _split_dict(split) for split in self.splits},
            "overlaps": [self._overlap_dict(overlap) for overlap in self.overlaps],
            "suggested": {found.setting: found.value for found in self.suggestions},
        }

    def _overlap_dict(self, overlap: Overlap) -> dict[str, Any]:
        here, there = self.split(overlap.label).places, self.split(overlap.other).places
        return {
            "rows_of": overlap.label,
            "in": overlap.other,
            "exact": len(overlap.exact),
            "near": len(overlap.near),
            "mean_share_of_8_word_runs": round(overlap.share, 4),
            "exact_rows": [[here[row], there[other]] for row, other in overlap.exact.items()],
            "near_rows": [here[row] for row in overlap.near],
        }


def _split_dict(split: SplitReport) -> dict[str, Any]:
    return {
        "source": split.source,
        "rows": split.rows,
        "bad_rows": [{"where": row.where, "reason": row.reason} for row in split.bad],
        "references": split.references,
        "lengths": {name: asdict(lengths) for name, lengths in split.lengths.items()},
        "source_tokens_per_word": split.tokens_per_word,
        "source_cut": asdict(split.source_cut) if split.source_cut else None,
        "summary_cut": asdict(split.summary_cut) if split.summary_cut else None,
        "duplicates": {
            "exact": split.duplicates.exact,
            "exact_with_another_summary": split.duplicates.conflicting,
            "near": split.duplicates.near,
            "largest": [
                [split.places[row] for row in cluster.rows] for cluster in split.duplicates.clusters[:EXAMPLES]
            ],
        },
        "languages": [
            {"source": source, "summary": summary, "rows": rows}
            for (source, summary), rows in split.languages.most_common()
        ],
        "copying": asdict(split.copying) if split.copying else None,
        "suspicious": {
            kind: {
                "rows": len(found),
                "examples": [{"where": split.places[one.row], "what": one.what} for one in found[:EXAMPLES]],
            }
            for kind, found in split.suspicions.items()
        },
        "lost_characters": asdict(split.unread) if split.unread else None,
    }


def _count(number: int, thing: str) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return f"{words[number] if number < len(words) else number} {thing}{'' if number == 1 else 's'}"
