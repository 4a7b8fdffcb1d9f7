"""The review of drafts on the page: the chat beside the draft, a few buttons, and keys for those who do it all day."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from tomtat.errors import TomtatError
from tomtat.labelling import load
from tomtat.ui.owner import Allow
from tomtat.ui.readable import Readable
from tomtat.ui.review import ALL, WAITING, Review, Shown, draft_html
from tomtat.ui.tables import error_html, html, message, note_html

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
SHOWN = 7
"""Message, card, key, progress, chat, draft, text: what an answer fills."""

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


@dataclass(frozen=True)
class Card:
    """The draft in hand."""

    place: gr.Column
    progress: gr.HTML
    chat: gr.HTML
    draft: gr.HTML
    edited: gr.Textbox
    moves: dict[gr.Button, int]
    """Buttons, and how many drafts they go on."""
    decisions: dict[gr.Button, str]


def review_part(files: Readable, allow: Allow, part: gr.Tab) -> None:
    with gr.Row():
        file = gr.Dropdown([], label="Drafts", allow_custom_value=True, interactive=True, scale=3, min_width=280)
        which = gr.Radio([WAITING, ALL], value=WAITING, label="Show those", scale=1, min_width=200)
    told = html(visible=False)
    # With the page, not with the server: a key goes with the text that it was shown with, however fast somebody types.
    key = gr.Textbox(visible=False)
    card = _card()

    handlers = Handlers(Review(files), allow)
    chosen, shown = [file, which], [told, card.place, key, card.progress, card.chat, card.draft, card.edited]
    part.select(handlers.fill, None, file, **QUIET)
    for changed in (file, which):
        changed.change(handlers.open_file, chosen, shown, **QUIET)
    card.edited.input(handlers.mark, [file, key, card.edited], card.draft, trigger_mode="always_last", **QUIET)
    for button, step in card.moves.items():
        button.click(handlers.moving(step), [*chosen, key], shown, **QUIET)
    for button, decision in card.decisions.items():
        button.click(handlers.deciding(decision), [*chosen, key, card.edited], shown, **QUIET)


def _card() -> Card:
    with gr.Column(visible=False, elem_id="tt-review") as place:
        progress = html()
        with gr.Row():
            with gr.Column(min_width=300):
                chat = html()
            with gr.Column(min_width=300):
                draft = html()
                edited = gr.Textbox(label="Summary", lines=4, elem_id="tt-edited")
                with gr.Row():
                    accept = gr.Button("Accept", variant="primary", min_width=90, elem_id="tt-accept")
                    correct = gr.Button("Correct", min_width=90, elem_id="tt-correct")
                    reject = gr.Button("Reject", min_width=90, elem_id="tt-reject")
                with gr.Row():
                    previous = gr.Button("Previous", min_width=90, elem_id="tt-previous")
                    following = gr.Button("Next", min_width=90, elem_id="tt-next")
        html(value=KEYS, js_on_load=KEYS_JS)
    decisions = {accept: "accept", correct: "correct", reject: "reject"}
    return Card(place, progress, chat, draft, edited, {previous: -1, following: 1}, decisions)


class Handlers:
    def __init__(self, review: Review, allow: Allow) -> None:
        self._review = review
        self._allow = allow
        self._in_hand = InHand()

    def fill(self, request: gr.Request) -> Any:
        self._allow(request)
        return gr.Dropdown(choices=self._review.offered())

    def open_file(self, file: str | None, which: str, request: gr.Request) -> list[Any]:
        self._allow(request)
        return self._answer(request, file, which, lambda path: ("", self._review.show(path, which)))

    def mark(self, file: str | None, key: str, text: str, request: gr.Request) -> Any:
        """What the text of a correction has that its chat has not, while it is typed."""
        self._allow(request)
        try:
            found = next((one for one in load(self._review.path(file)) if one.key == key), None)
        except TomtatError:
            return gr.skip()
        marked = draft_html(found, text) if found else ""
        return marked if marked and self._in_hand.of(request) == key else gr.skip()

    def moving(self, step: int) -> Callable[..., list[Any]]:
        def move(file: str | None, which: str, key: str, request: gr.Request) -> list[Any]:
            self._allow(request)
            return self._answer(request, file, which, lambda path: ("", self._review.show(path, which, key, step)))

        return move

    def deciding(self, decision: str) -> Callable[..., list[Any]]:
        def decide(file: str | None, which: str, key: str, text: str, request: gr.Request) -> list[Any]:
            self._allow(request)

            def act(path: Path) -> tuple[str, Shown | None]:
                said = self._review.decide(path, key, decision, text)
                return f'<p class="tt-note" role="status">{escape(said)}</p>', self._review.show(path, which, key, 1)

            return self._answer(request, file, which, act)

        return decide

    def _answer(
        self, request: gr.Request, file: str | None, which: str, what: Callable[[Path], tuple[str, Shown | None]]
    ) -> list[Any]:
        before = self._in_hand.of(request)
        self._in_hand.put(request, "")
        try:
            said, found = what(self._review.path(file))
        except TomtatError as error:
            self._in_hand.put(request, before)
            # What is shown stays: a correction that could not be kept must not be lost.
            return [message(error_html(str(error))), *(gr.skip() for _ in range(SHOWN - 1))]
        self._in_hand.put(request, found.key if found else "")
        return _see(said, found, which)


def _see(said: str, found: Shown | None, which: str) -> list[Any]:
    if found is None:
        none = "Nothing waits for a decision here." if which == WAITING else "There are no drafts here."
        return [message(said + note_html(none)), gr.Column(visible=False), "", "", "", "", ""]
    return [
        message(said), gr.Column(visible=True), found.key, found.progress, chat_html(found.chat), found.draft,
        found.text,
    ]  # fmt: skip


def chat_html(text: str) -> str:
    return f'<pre class="tt-chat" tabindex="0" role="region" aria-label="The chat">{escape(text)}</pre>'
