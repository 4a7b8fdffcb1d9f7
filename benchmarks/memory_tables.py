"""What benchmarks/memory.py shows: tables and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory_chats import HELD_OUT, SHARES
from memory_peers import INSTALL, PEERS

WHOLE = "full context"

NAME = 36
"""Letters in a row's name."""

TARGETS = {
    "evidence_at_2": 65, "evidence_at_10": 85, "facts_at_10": 95, "facts_at_10_no_query": 50, "rounds_50": 95,
    "handed_over": 100, "model_summary_share": 80, "context_p99": 2,
}  # fmt: skip
"""To reach; of the last at most."""
COLUMNS = {
    **{f"evidence_at_{share}": f"evid@{share}" for share in SHARES},
    "facts_at_10": "facts@10", "facts_at_10_no_query": "no query", "rounds_50": "rounds50", "handed_over": "handed",
    "model_summary_share": "by model", "cpu_seconds_per_turn": "CPU s", "context_p99": "p99",
}  # fmt: skip

Row = dict[str, Any]
"""A system's figures."""


def cell(row: Row, column: str) -> str:
    value = row.get(column)
    return f"{'–' if value is None else value:>10}"


def table(title: str, rows: dict[str, Row], columns: dict[str, str], targets: bool = False) -> None:
    print(f"\n{title}\n{'':{NAME}}" + "".join(f"{head:>10}" for head in columns.values()))
    for name, row in rows.items():
        if any(column in row for column in columns):
            print(f"{name:{NAME}}" + "".join(cell(row, column) for column in columns))
    if targets:
        print(f"{'to reach':{NAME}}" + "".join(cell(TARGETS, column) for column in columns))


def show_all(run: Any, kinds: Sequence[str]) -> None:
    figures = run.figures
    sizes = "; ".join(
        f"{figures[f'{kind}_questions']} questions on {kind}, {figures[f'{kind}_tokens']:,} tokens a chat"
        for kind in kinds
    )
    print(f"\n{sizes}")
    table("% of what is wanted that stands in a context of N % of the tokens", run.rows, COLUMNS, targets=True)
    for name in PEERS:
        if name not in run.options.peers_there:
            print(f"{name:{NAME}} not installed: {INSTALL}")
    for name, cuts in run.cuts.items():
        print(
            f"{name}: of {len(cuts)} contexts {sum(cuts)} were larger than the budget and cut from the oldest turn on"
        )
    held_out = {
        f"{column}_held_out": head
        for column, head in COLUMNS.items()
        if column.startswith(("evidence", "facts", "rounds"))
    }
    table("The same on chats that nothing was chosen on: LoCoMo 2 to 4, seven long ones", run.rows, held_out)
    more = {f"facts_at_{share}": f"facts@{share}" for share in SHARES}
    more |= {"rounds_50_of_whole": "r50 whole", "handed_over_at_once": "at once"}
    for kind in kinds:
        if kind not in HELD_OUT:
            more |= {f"{kind}_evidence_at_{share}": f"{kind[:5]}@{share}" for share in SHARES}
    table("More", run.rows, more)
    if run.options.run:
        who, first = ", ".join(figures["folded_by_model"]), run.rows[run.by_model("tomtat")]["first_summary_share"]
        same = ", ".join(f"{column} {value}" for column, value in figures["same_chats_no_model"].items())
        print(f"\nRows with {Path(run.options.run).name}: facts, handed over and CPU s are of {who}.")
        print(f"There {run.best} without a model has {same}. The first summary passed for {first} % of the spans.")
    if figures["noisy"]:
        print(f"NOISY: {', '.join(figures['noisy'])}. Repeat this where less else runs.")


def draw(run: Any, path: Path) -> None:
    """Evidence over the share of tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained", dpi=160)
    axes = figure.subplots()
    rows = {name: row for name, row in run.rows.items() if "evidence_at_2" in row and name != WHOLE}
    colours = iter(("#777777", "#a0a0a0", "#b07aa1", "#c8963e"))
    ends = []
    for name, row in rows.items():
        is_ours = name.startswith("tomtat")
        colour = ("#0b6e4f" if name == run.best else "#63b796") if is_ours else next(colours)
        values = [row[f"evidence_at_{share}"] for share in SHARES]
        axes.plot(SHARES, values, "o-", color=colour, linewidth=2.4 if is_ours else 1.6, markersize=5)
        ends.append((values[-1], name, colour))
    targets = [(share, TARGETS[f"evidence_at_{share}"]) for share in SHARES if f"evidence_at_{share}" in TARGETS]
    axes.plot(*zip(*targets, strict=True), "_", color="#c0392b", markersize=22, markeredgewidth=1.8)
    axes.annotate("to reach", targets[-1], xytext=(0, 6), textcoords="offset points", color="#c0392b", ha="center")
    lowest = -5.0
    for value, name, colour in sorted(ends):
        lowest = max(value, lowest + 5)  # names side by side need room
        axes.annotate(name, (SHARES[-1], lowest), xytext=(10, 0), textcoords="offset points", color=colour, va="center")
    axes.set_xscale("log")
    axes.set_xticks(SHARES, [f"{share} %" for share in SHARES])
    axes.set_xticks([], minor=True)
    axes.set_xlim(SHARES[0] / 1.1, SHARES[-1] * 1.1)
    axes.set_ylim(0, 100)
    axes.set_xlabel("context, of the history's tokens")
    axes.set_ylabel("evidence turns word for word, %")
    axes.set_title("What a context keeps of LoCoMo", loc="left", fontweight="bold")
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
