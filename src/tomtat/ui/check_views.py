"""What a data check found, as HTML: the verdict first, then the figures behind it."""

from collections.abc import Sequence
from html import escape

from tomtat.checking.abstractive import in_words
from tomtat.checking.report import Report, SplitReport
from tomtat.checking.suggest import as_toml, percent, share
from tomtat.checking.suspicions import KINDS
from tomtat.ui.lengths import lengths_html
from tomtat.ui.tables import note_html, table

BAD_ROWS = 20
EXAMPLES = 5
"""Of rows of a kind, so many are shown; `tomtat data check --out FOLDER` writes them all."""
LONGEST = 120
"""Characters of a cell with words of the data."""


def report_html(report: Report) -> str:
    splits = [split for split in report.splits if split.rows]
    parts = [_verdict(report), _rows(report), _bad(report)]
    if splits:
        parts += [
            _heading("Lengths"), lengths_html(report), _lengths(report, splits), _cuts(splits),
            _heading("Repeats"), _repeats(splits), _overlaps(report),
            _heading("Languages and copying"), _languages(splits), _copying(splits),
            _heading("Rows that deserve a look"), _odd(splits),
            _heading("Settings to start from"), _suggestions(report),
        ]  # fmt: skip
    return "".join(parts)


def _heading(text: str) -> str:
    return f'<h2 class="tt-heading">{text}</h2>'


def _verdict(report: Report) -> str:
    verdict = report.verdict
    problems = "".join(f"<li><b>{escape(text)}</b></li>" for text in verdict.problems)
    remarks = "".join(f"<li>{escape(text)}</li>" for text in verdict.remarks)
    kind = "tt-verdict tt-bad" if verdict.problems else "tt-verdict"
    found = f"<ul>{problems}{remarks}</ul>" if problems or remarks else ""
    return f'<div class="{kind}" role="status"><p><b>{escape(verdict.sentence)}</b></p>{found}</div>'


def _rows(report: Report) -> str:
    rows = [
        [split.label, f"{split.rows:,}", f"{len(split.bad):,}", f"{split.references:,}", split.source]
        for split in report.splits
    ]
    return table("Splits", ["split", "rows", "bad", "summaries", "source"], rows, text_columns=(4,))


def _bad(report: Report) -> str:
    bad = [row for split in report.splits for row in split.bad]
    if not bad:
        return ""
    rows = [[row.where, _short(row.reason)] for row in bad[:BAD_ROWS]]
    more = (
        f"{len(bad) - BAD_ROWS:,} more: tomtat data check --out FOLDER writes them all." if len(bad) > BAD_ROWS else ""
    )
    return table("Rows that can't be used", ["where", "why"], rows, text_columns=(0, 1)) + (
        note_html(more) if more else ""
    )


def _lengths(report: Report, splits: Sequence[SplitReport]) -> str:
    rows = [
        [f"{split.label}: {name}", *(f"{number:,}" for number in (found.least, found.median, found.high, found.most))]
        for split in splits
        for name, found in split.lengths.items()
    ]
    whose = f"Lengths, tokens of {report.model}" if report.model else "Lengths (no tokenizer at hand: words)"
    return table(whose, ["of", "least", "median", "95 %", "most"], rows)


def _cuts(splits: Sequence[SplitReport]) -> str:
    rows = [
        [
            f"{split.label}: {name}", f"{found.limit:,}", f"{found.rows:,}", percent(found.row_share),
            percent(found.token_share),
        ]
        for split in splits
        for name, found in (("source", split.source_cut), ("summary", split.summary_cut))
        if found
    ]  # fmt: skip
    if not rows:
        return ""
    return table("What the limits cut", ["of", "limit", "rows longer", "share", "tokens lost"], rows)


def _repeats(splits: Sequence[SplitReport]) -> str:
    rows, clusters = [], []
    for split in splits:
        found = split.duplicates
        rows.append(
            [split.label, share(found.superfluous, split.rows), f"{found.exact:,}", f"{found.conflicting:,}",
             f"{found.near:,}"]
        )  # fmt: skip
        for cluster in found.clusters[:EXAMPLES]:
            places = ", ".join(split.places[row] for row in cluster.rows[:6])
            more = f" and {len(cluster.rows) - 6:,} more" if len(cluster.rows) > 6 else ""
            clusters.append(
                [split.label, "same" if cluster.is_exact else "near", places + more, split.beginnings[cluster.rows[0]]]
            )
    columns = ["split", "repeat an earlier row", "word for word", "with another summary", "nearly"]
    shown = table("Rows that repeat", columns, rows)
    if clusters:
        columns = ["split", "kind", "rows", "begins with"]
        shown += table("The largest groups", columns, clusters, text_columns=(1, 2, 3))
    return shown


def _overlaps(report: Report) -> str:
    if not report.overlaps:
        return ""
    rows = [
        [
            f"{one.label} in {one.other}",
            f"{one.rows:,}",
            f"{len(one.exact):,}",
            f"{len(one.near):,}",
            percent(one.share),
        ]
        for one in report.overlaps
    ]
    columns = ["split", "rows", "word for word", "by half or more", "8-word runs"]
    return table("Rows of one split that stand in another", columns, rows)


def _languages(splits: Sequence[SplitReport]) -> str:
    rows = [
        [split.label, source if source == summary else f"{source}, summary in {summary}", f"{count:,}"]
        for split in splits
        for (source, summary), count in split.languages.most_common(6)
    ]
    return table("Languages, by their letters", ["split", "language", "rows"], rows, text_columns=(1,))


def _copying(splits: Sequence[SplitReport]) -> str:
    rows = [
        [
            split.label, f"{found.coverage:.2f}", f"{found.density:.2f}",
            *(f"{100 * part:.0f} %" for part in found.novel), f"{found.compression:.1f}", in_words(found),
        ]
        for split in splits
        if (found := split.copying)
    ]  # fmt: skip
    columns = ["split", "coverage", "density", "new words", "new pairs", "new 3", "new 4", "compression", "in words"]
    return table("How much of the summaries is copied (means)", columns, rows, text_columns=(8,))


def _odd(splits: Sequence[SplitReport]) -> str:
    rows = [
        [
            f"{split.label}: {KINDS[kind]}", f"{len(found):,}", percent(len(found) / split.rows),
            "; ".join(_short(f"{split.places[one.row]}: {one.what}", 60) for one in found[:EXAMPLES]),
        ]
        for split in splits
        for kind, found in split.suspicions.items()
    ]  # fmt: skip
    if not rows:
        return note_html("None.")
    return table("Seldom an error for certain", ["kind", "rows", "share", "the first"], rows, text_columns=(0, 3))


def _suggestions(report: Report) -> str:
    return (
        '<pre class="tt-log" tabindex="0" role="region" aria-label="Settings to start from">'
        f"{escape(as_toml(report.suggestions))}</pre>"
    )


def _short(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
