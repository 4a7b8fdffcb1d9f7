"""Drafted references, one after the other, and what a person decides about each.

Each decision is on the disk before the next draft is shown, and the file with the rows that train is written anew with
it, whole or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tomtat.errors import ConfigError
from tomtat.labelling import Draft, accept, correct, load, publish, reject
from tomtat.labelling.journal import ENDING, output_path
from tomtat.ui.readable import Readable
from tomtat.ui.tables import note_html

WAITING, ALL = "that wait", "all"
MOST_FILES = 200
"""That are offered; others can be typed."""


@dataclass(frozen=True)
class Shown:
    """One draft of a file, as the page shows it."""

    key: str
    text: str
    chat: str
    draft: str
    progress: str


class Review:
    def __init__(self, files: Readable) -> None:
        self.files = files

    def offered(self) -> list[str]:
        """Files of drafts right below what may be read, and one folder further down."""
        found = {
            str(path): None
            for folder in self.files.folders
            for pattern in (f"*{ENDING}", f"*/*{ENDING}")
            for path in sorted(folder.glob(pattern))
        }
        return list(found)[:MOST_FILES]

    def path(self, text: str | None) -> Path:
        """Raises: ConfigError."""
        if not text or not text.strip():
            raise ConfigError("Choose a file of drafts. `tomtat label CHATS --upstream URL` makes one.")
        self.files.require_data(text.strip())
        return Path(text.strip()).expanduser()

    def show(self, path: Path, which: str, key: str | None = None, step: int = 0) -> Shown | None:
        """The draft `step` places from the one with `key` among those wanted; the first, where there is none such.

        None where none is wanted.
        """
        drafts = load(path)
        # The one in hand keeps its place although it waits no more.
        wanted = [draft for draft in drafts if which == ALL or draft.is_waiting or draft.key == key]
        places = {draft.key: number for number, draft in enumerate(wanted)}
        if not any(which == ALL or draft.is_waiting for draft in wanted):
            return None
        place = places[key] + step if key in places else 0
        draft = wanted[place % len(wanted)]
        return Shown(draft.key, draft.accepted, draft.source_text, draft_html(draft), progress_html(drafts, draft))

    def decide(self, path: Path, key: str, decision: str, text: str) -> str:
        """On the disk when this returns; a sentence on it.

        Raises: DataError, RunError.
        """
        if decision == "accept":
            draft = accept(path, key)
        elif decision == "correct":
            draft = correct(path, key, text)
        else:
            draft = reject(path, key)
        count = publish(path)
        return f"{draft.id}: {draft.status}. {count:,} rows that train are in {output_path(path).name}."


def draft_html(draft: Draft, edited: str | None = None) -> str:
    """The draft, or what somebody makes of it, with what stands nowhere in its chat marked; and why it was refused."""
    text = draft.accepted if edited is None else edited
    parts, last = [], 0
    for detail in draft.marks(text):
        if detail.start < last:
            continue
        parts.append(escape(text[last : detail.start]))
        told = f"this {detail.kind} stands nowhere in the chat"
        parts.append(
            f'<mark class="tt-foreign" title="{told}">{escape(text[detail.start : detail.end])}'
            f'<span class="tt-unseen"> ({told})</span></mark>'
        )
        last = detail.end
    parts.append(escape(text[last:]))
    why = note_html(f"Refused because: {'; '.join(draft.reasons)}") if draft.reasons else ""
    return f'<p class="tt-draft">{"".join(parts) or "(empty)"}</p>{why}'


def progress_html(drafts: Sequence[Draft], draft: Draft) -> str:
    refused = [one for one in drafts if one.reasons or one.decision]
    decided = sum(not one.is_waiting for one in refused)
    place = next(number for number, one in enumerate(drafts, start=1) if one.key == draft.key)
    state = {"review": "waits", "passed": "passed the checks"}.get(draft.status, draft.status)
    return (
        f'<p class="tt-state"><b>{escape(str(draft.id))}</b> ({place:,} of {len(drafts):,}): {state}. '
        f"{decided:,} of {len(refused):,} decided, {sum(one.trains for one in drafts):,} train.</p>"
    )
