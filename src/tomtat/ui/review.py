"""Drafted references, one after the other: the chat beside the draft, and what a person decides about it.

Each decision is on the disk before the next draft is shown, and the file with the rows that train is written anew with
it, whole or not at all.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from tomtat.errors import ConfigError, TomtatError
from tomtat.labelling import Draft, accept, correct, load, publish, reject
from tomtat.labelling.journal import ENDING, output_path
from tomtat.ui.owner import Allow
from tomtat.ui.readable import Readable
from tomtat.ui.tables import error_html, html, note_html

WAITING, ALL = "that wait", "all"
MOST_FILES = 200
"""That are offered; others can be typed."""

KEYS_JS = """
const place = element.closest('#tt-review');
if (place && !place.dataset.keys) {
  place.dataset.keys = 'on';
  const names = {a: 'accept', r: 'reject', n: 'next', p: 'previous', e: 'edit'};
  place.addEventListener('keydown', (event) => {
    if (event.altKey || event.metaKey) return;
    const isWriting = ['TEXTAREA', 'INPUT'].includes(event.target.tagName);
    let name = isWriting || event.ctrlKey ? null : names[event.key.toLowerCase()];
    if (event.ctrlKey && event.key === 'Enter') name = 'correct';
    if (event.key === 'Escape' && isWriting) { place.querySelector('.tt-chat')?.focus(); return; }
    if (!name) return;
    event.preventDefault();
    if (name === 'edit') { place.querySelector('#tt-edited textarea')?.focus(); return; }
    const button = place.querySelector('#tt-' + name);
    (button?.querySelector('button') ?? button)?.click();
  });
  // The chat that had the focus is replaced by the next one, which takes it over: keys go on working.
  let hadFocus = false;
  place.addEventListener('focusin', (event) => { hadFocus = event.target.classList.contains('tt-chat'); });
  new MutationObserver(() => {
    if (hadFocus && document.activeElement === document.body) place.querySelector('.tt-chat')?.focus();
  }).observe(place, {childList: true, subtree: true});
}
"""
"""Single keys work while the focus is among the review's parts and not in a text, so they disturb nobody elsewhere."""

KEYS = (
    '<p class="tt-note tt-keys">Keys, while the focus is here and not in a text: <kbd>a</kbd> accept, '
    "<kbd>e</kbd> edit, <kbd>r</kbd> reject, <kbd>n</kbd> next, <kbd>p</kbd> previous. In the text: "
    "<kbd>Ctrl</kbd>+<kbd>Enter</kbd> keeps the correction, <kbd>Esc</kbd> leaves it.</p>"
)


@dataclass(frozen=True)
class Shown:
    """One draft of a file, as the page shows it."""

    key: str
    text: str
    chat: str
    draft: str
    progress: str


class InHand:
    """Which draft each reader looks at. Marks of a text that come too late, behind the next draft, are not shown."""

    def __init__(self, most: int = 1000) -> None:
        self._keys: OrderedDict[str, str] = OrderedDict()
        self._most = most

    def put(self, request: gr.Request, key: str) -> None:
        self._keys[str(request.session_hash)] = key
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)

    def of(self, request: gr.Request) -> str:
        return self._keys.get(str(request.session_hash), "")


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


def chat_html(text: str) -> str:
    return f'<pre class="tt-chat" tabindex="0" role="region" aria-label="The chat">{escape(text)}</pre>'


def review_part(files: Readable, allow: Allow, part: gr.Tab) -> None:
    review = Review(files)
    with gr.Row():
        file = gr.Dropdown([], label="Drafts", allow_custom_value=True, interactive=True, scale=3, min_width=280)
        which = gr.Radio([WAITING, ALL], value=WAITING, label="Show those", scale=1, min_width=200)
    message = html(visible=False)
    # With the page, not with the server: a key goes with the text that it was shown with, however fast somebody types.
    key = gr.Textbox(visible=False)
    in_hand = InHand()
    with gr.Column(visible=False, elem_id="tt-review") as card:
        progress = html()
        with gr.Row():
            with gr.Column(min_width=300):
                chat = html()
            with gr.Column(min_width=300):
                draft = html()
                edited = gr.Textbox(label="Summary", lines=4, elem_id="tt-edited")
                with gr.Row():
                    accept_button = gr.Button("Accept", variant="primary", min_width=90, elem_id="tt-accept")
                    correct_button = gr.Button("Correct", min_width=90, elem_id="tt-correct")
                    reject_button = gr.Button("Reject", min_width=90, elem_id="tt-reject")
                with gr.Row():
                    previous = gr.Button("Previous", min_width=90, elem_id="tt-previous")
                    following = gr.Button("Next", min_width=90, elem_id="tt-next")
        html(value=KEYS, js_on_load=KEYS_JS)
    shown = [message, card, key, progress, chat, draft, edited]

    def see(found: Shown | None, said: str, none: str) -> list[Any]:
        if found is None:
            return [_message(said + note_html(none)), gr.Column(visible=False), "", "", "", "", ""]
        return [
            _message(said), gr.Column(visible=True), found.key, found.progress, chat_html(found.chat), found.draft,
            found.text,
        ]  # fmt: skip

    def answer(
        request: gr.Request, file: str | None, which: str, what: Callable[[Path], tuple[str, Shown | None]]
    ) -> list[Any]:
        before = in_hand.of(request)
        in_hand.put(request, "")
        try:
            said, found = what(review.path(file))
        except TomtatError as error:
            in_hand.put(request, before)
            # What is shown stays: a correction that could not be kept must not be lost.
            return [_message(error_html(str(error))), *([gr.skip()] * (len(shown) - 1))]
        in_hand.put(request, found.key if found else "")
        none = "Nothing waits for a decision here." if which == WAITING else "There are no drafts here."
        return see(found, said, none)

    def fill(request: gr.Request) -> Any:
        allow(request)
        return gr.Dropdown(choices=review.offered())

    def open_file(file: str | None, which: str, request: gr.Request) -> list[Any]:
        allow(request)
        return answer(request, file, which, lambda path: ("", review.show(path, which)))

    def mark(file: str | None, key: str, text: str, request: gr.Request) -> Any:
        allow(request)
        try:
            found = next((one for one in load(review.path(file)) if one.key == key), None)
        except TomtatError:
            return gr.skip()
        marked = draft_html(found, text) if found else ""
        return marked if marked and in_hand.of(request) == key else gr.skip()

    def moving(step: int) -> Callable[..., list[Any]]:
        def move(file: str | None, which: str, key: str, request: gr.Request) -> list[Any]:
            allow(request)
            return answer(request, file, which, lambda path: ("", review.show(path, which, key, step)))

        return move

    def deciding(decision: str) -> Callable[..., list[Any]]:
        def decide(
            file: str | None, which: str, key: str, text: str, request: gr.Request
        ) -> list[Any]:  # fmt: skip
            allow(request)

            def act(path: Path) -> tuple[str, Shown | None]:
                said = review.decide(path, key, decision, text)
                return f'<p class="tt-note" role="status">{escape(said)}</p>', review.show(path, which, key, 1)

            return answer(request, file, which, act)

        return decide

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    part.select(fill, None, file, **quiet)
    place = [file, which]
    for changed in (file, which):
        changed.change(open_file, place, shown, **quiet)
    edited.input(mark, [file, key, edited], draft, trigger_mode="always_last", **quiet)
    for button, step in ((previous, -1), (following, 1)):
        button.click(moving(step), [*place, key], shown, **quiet)
    for button, decision in ((accept_button, "accept"), (correct_button, "correct"), (reject_button, "reject")):
        button.click(deciding(decision), [*place, key, edited], shown, **quiet)


def _message(text: str) -> gr.HTML:
    """Takes no room where there is none."""
    return gr.HTML(text, visible=bool(text))
