"""Settings that fit what was found: where to start from, not what is best. LOG.md has what they were learned from."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tomli_w

from tomtat.checking.report import Cut, SplitReport, Suggestion
from tomtat.config import DataSettings

STEP = 64
"""Input limits are multiples of this many tokens."""
LONGEST = 1024
"""A longer input limit is not suggested: time and memory of training grow with it, and long inputs are read in pieces
afterwards anyway."""
ROLES = ("train", "validation", "test")


def suggest(splits: Sequence[SplitReport], data: DataSettings) -> list[Suggestion]:
    """As settings of a recipe, in its order. Of `data` the columns' names are kept."""
    train = training_split(splits)
    if not train.rows:
        return []
    # Standard input can't be named in a recipe.
    found = [] if train.source == "-" else _data(splits, train)
    named = {"data.source_field": data.source_field, "data.summary_field": data.summary_field}
    found += [Suggestion(name, value) for name, value in named.items() if value]
    if "source tokens" in train.values:
        found.append(input_limit(train.values["source tokens"]))
    found += training(train.rows)
    if "summary tokens" in train.values:
        found.append(output_limit(train.values["summary tokens"]))
    return found


def training_split(splits: Sequence[SplitReport]) -> SplitReport:
    """The one called `train`, else the first."""
    return next((split for split in splits if split.label == "train"), splits[0])


def _data(splits: Sequence[SplitReport], train: SplitReport) -> list[Suggestion]:
    by_label = {split.label: split for split in splits}
    if len(splits) == 1:
        parts = slices(train.source, train.rows + len(train.bad))
        found = [Suggestion(f"data.{role}", spec, why) for role, spec, why in parts]
        return [replace(found[0], why=_rows(train)), *found[1:]] if train.duplicates.superfluous else found
    named = {role: by_label[role] for role in ROLES if role in by_label} | {"train": train}
    return [Suggestion(f"data.{role}", named[role].source, _rows(named[role])) for role in ROLES if role in named]


def _rows(split: SplitReport) -> str:
    repeats = split.duplicates.superfluous
    return f"{split.rows:,} rows" + (f", {repeats:,} of them repeats: better without" if repeats else "")


def slices(source: str, rows: int) -> list[tuple[str, str, str]]:
    """One set cut in three: the role, its slice, and how many rows that is. A sliced source is left as it is."""
    validation, test = sizes(rows)
    if source.endswith("]") or not validation:
        return [("train", source, f"{rows:,} rows")]
    begin = validation + test
    return [
        ("train", f"{source}[{begin}:]", f"{rows - begin:,} rows"),
        ("validation", f"{source}[{test}:{begin}]", f"{validation:,} rows"),
        ("test", f"{source}[:{test}]", f"{test:,} rows"),
    ]


def sizes(rows: int) -> tuple[int, int]:
    """Of a set without splits, rows for validation and test: a twentieth and a tenth, more of small sets.

    Scores of fewer than a hundred rows have wide intervals, and a thousand are enough.
    """
    if rows < 10:
        return 0, 0
    return min(max(rows // 20, min(50, rows // 5)), 500), min(max(rows // 10, min(100, rows // 5)), 1000)


def input_limit(tokens: Sequence[int]) -> Suggestion:
    wanted = int(np.quantile(tokens, 0.95, method="inverted_cdf"))
    limit = min(max(-(-wanted // STEP) * STEP, STEP), LONGEST)
    cut = Cut.of(tokens, limit)
    why = (
        "nothing is cut off"
        if not cut.rows
        else f"cuts {cut.rows:,} of {len(tokens):,} sources ({percent(cut.row_share)}), "
        f"{percent(cut.token_share)} of all tokens"
    )
    if cut.row_share > 0.1:
        why += "; more costs time and memory"
    return Suggestion("data.max_source_tokens", limit, why)


def output_limit(tokens: Sequence[int]) -> Suggestion:
    return Suggestion(
        "generate.max_new_tokens", default_new_tokens(tokens), "a quarter more than 99 % of the summaries take"
    )


def default_new_tokens(tokens: Sequence[int]) -> int:
    """What training takes where `generate.max_new_tokens` is not set."""
    return int(1.25 * float(np.percentile(tokens, 99))) + 1


def training(rows: int) -> list[Suggestion]:
    """Epochs and batch size. With LoRA at the default rate the validation loss has been at its least after two or three
    epochs of some hundred rows, and after one of some thousands."""
    epochs = next((epochs for limit, epochs in ((200, 4), (1000, 3), (3000, 2)) if rows < limit), 1)
    batch_size = 4 if rows < 200 else 8
    steps = -(-rows // batch_size) * epochs
    return [
        Suggestion("train.epochs", epochs, f"{steps:,} steps over {rows:,} rows; the best epoch is kept"),
        Suggestion("train.batch_size", batch_size),
    ]


def as_toml(found: Sequence[Suggestion]) -> str:
    """Lines that can be pasted into a recipe, one table after the other, with the reasons as comments."""
    tables: dict[str, list[tuple[str, str]]] = {}
    for one in found:
        table, _, name = one.setting.partition(".")
        tables.setdefault(table, []).append((tomli_w.dumps({name: one.value}).strip(), one.why))
    return "\n\n".join(f"[{table}]\n{_aligned(lines)}" for table, lines in tables.items())


def _aligned(lines: Sequence[tuple[str, str]]) -> str:
    # A long path would push all comments out of sight.
    width = max((len(value) for value, _ in lines if len(value) <= 48), default=0)
    return "\n".join(f"{value:{width}}  # {one_line(why)}" if why else value for value, why in lines)


def one_line(text: str) -> str:
    """What stands in a file must not end the comment that quotes it."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def share(rows: int, of: int) -> str:
    return f"{rows:,} of {of:,} ({percent(rows / of)})" if of else f"{rows:,}"


def percent(part: float) -> str:
    """`0` only where there is nothing."""
    if part and part < 0.0005:
        return "less than 0.1 %"
    return f"{100 * part:.1f} %"
