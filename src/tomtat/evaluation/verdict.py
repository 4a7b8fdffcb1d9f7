"""Differences in words, so that nobody has to read p-values."""

from collections.abc import Sequence

from tomtat.metrics.significance import Difference


def verdict(a: str, b: str, found: Sequence[Difference], rows: int) -> str:
    """One sentence on b against a over all metrics that were looked at."""
    if not found:
        return f"{b} and {a} are not compared: no metric of quality was measured."
    better = [difference for difference in found if difference.is_significant and difference.value > 0]
    worse = [difference for difference in found if difference.is_significant and difference.value < 0]
    if better and not worse:
        return f"{b} is better than {a}: {_listing(better)}{_rest(found, better)}."
    if worse and not better:
        return f"{b} is worse than {a}: {_listing(worse)}{_rest(found, worse)}."
    if better and worse:
        return f"Mixed: {b} beats {a} in {_listing(better)}, and loses in {_listing(worse)}."
    return f"No evidence of a difference between {b} and {a}: {_one(found[0])}. {visible(found, rows)}"


def visible(found: Sequence[Difference], rows: int) -> str:
    """How large a difference these rows can show, in words."""
    first = found[0]
    if first.detectable is None:
        return f"{rows:,} {'row' if rows == 1 else 'rows'} with these summaries can't show any difference."
    return (
        f"With {rows:,} rows like these a true difference of {first.detectable:.1f} in {first.metric} between two such "
        "systems is seen four times out of five."
    )


def _listing(found: Sequence[Difference]) -> str:
    shown = "; ".join(_one(difference) for difference in found[:3])
    more = [difference.metric for difference in found[3:]]
    return shown + (f"; also {', '.join(more)}" if more else "")


def _one(difference: Difference) -> str:
    p = "p < 0.001" if difference.p_corrected < 0.001 else f"p = {difference.p_corrected:.2g}"
    return (
        f"{difference.metric} {difference.a:.1f} to {difference.b:.1f} ({difference.value:+.1f}, "
        f"95 % {difference.low:+.1f} to {difference.high:+.1f}, {p})"
    )


def _rest(found: Sequence[Difference], told: Sequence[Difference]) -> str:
    rest = [difference.metric for difference in found if difference not in told]
    return f"; no evidence in {', '.join(rest)}" if rest else ""
