"""The review of drafts in a terminal: the chat beside the draft, what stands nowhere in the chat in sight."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tomtat.cli.terminal import console, harmless
from tomtat.errors import DataError

if TYPE_CHECKING:
    from tomtat.labelling.drafts import Draft
    from tomtat.labelling.journal import Journal

BESIDE_WIDTH = 100
"""From this many columns on the chat stands beside the draft, else above it."""
CUT_HERE = "------ 8< ------ what follows is the chat, to look at; only what stands above this line is kept"
QUESTION = "[a]ccept, [e]dit, [r]eject, [s]kip, [q]uit"


def review(drafts: Sequence["Draft"], journal: "Journal") -> None:
    """Ask about each draft; answers are kept at once. Ends with the drafts, with q, or with the end of input."""
    from tomtat.labelling.drafts import keep_decisions

    for number, draft in enumerate(drafts, start=1):
        _show(draft, f"{number} of {len(drafts)}: {draft.id}")
        while (said := _ask()) not in ("s", "q"):
            try:
                decided = _decided(draft, said)
            except DataError as error:
                _say(str(error), "yellow")
                continue
            if decided is not None:
                keep_decisions(journal, [decided])
                _say(f"{decided.decision}.", "green")
                break
        if said == "q":
            return


def _ask() -> str:
    """A letter of QUESTION; `q` at the end of input."""
    while True:
        _say(QUESTION + ": ", "bold", end="")
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            _say("")
            return "q"
        said = line.strip().lower()
        if said in ("a", "e", "r", "s", "q") or said in ("accept", "edit", "reject", "skip", "quit"):
            return said[0]
        _say("One of these letters.", "yellow")


def _decided(draft: "Draft", said: str) -> "Draft | None":
    """The draft with what was decided; None where nothing was.

    Raises: DataError where it would be empty.
    """
    from tomtat.labelling.drafts import decided

    if said == "a":
        return decided(draft, "accepted")
    if said == "r":
        return decided(draft, "rejected")
    text = _edited(draft)
    if text is None:
        return None
    after = decided(draft, "corrected", text)
    if after.summary and (foreign := draft.marks(after.summary)):
        _say("Stands nowhere in the chat: " + ", ".join(detail.text for detail in foreign), "yellow")
    return after


def _edited(draft: "Draft") -> str | None:
    """What somebody made of it in her editor; in one line here, where none is set. None where it failed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        _say("The summary, in one line (or set $EDITOR): ", end="")
        return sys.stdin.readline()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "summary.txt"
        path.write_text(f"{draft.text}\n\n{CUT_HERE}\n\n{draft.source_text}\n", encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            _say(f"{editor} did not work: {error}", "yellow")
            return None
    if code != 0:
        _say(f"{editor} ended with {code}: nothing was taken.", "yellow")
        return None
    return text.partition(CUT_HERE[:16])[0]


def _show(draft: "Draft", title: str) -> None:
    console.rule(Text(harmless(title)))
    chat, summary = Text(harmless(draft.source_text)), marked(draft)
    parts = [summary, Text()]
    if draft.reasons:
        parts.append(Text("refused: " + harmless("; ".join(draft.reasons)), style="red"))
    if draft.decision:
        parts.append(Text(f"{draft.decision} before", style="green"))
    told = Text("\n").join(parts)
    if console.width >= BESIDE_WIDTH:
        table = Table.grid(expand=True, padding=(0, 2))
        table.add_column(ratio=3)
        table.add_column(ratio=2)
        table.add_row(chat, told)
        console.print(table)
    else:
        console.print(chat, Text(), told, sep="\n")


def marked(draft: "Draft") -> Text:
    """The draft with what stands nowhere in its chat in brackets, for those who see no colours too."""
    text, shown, last = draft.accepted, Text(), 0
    for detail in draft.marks(text):
        if detail.start < last:
            continue
        shown.append(harmless(text[last : detail.start]))
        shown.append("[" + harmless(detail.text) + "?]", style="bold red")
        last = detail.end
    return shown.append(harmless(text[last:]))


def _say(text: str, style: str | None = None, end: str = "\n") -> None:
    console.print(harmless(text), style=style, end=end, markup=False, emoji=False, highlight=False, soft_wrap=True)
