"""A chat's memory as HTML: the context as a bar, what was saved, what the summaries say and where it comes from."""

from collections.abc import Sequence
from html import escape
from typing import Any

from tomtat.memory import ChatMemory, Context
from tomtat.memory.framing import said, speaker_of
from tomtat.store import Hit, Receipt, Turn
from tomtat.talking import Cost, Saying, ranges, sayings
from tomtat.ui.tables import note_html

PARTS = {
    "system": "system and pinned",
    "summaries": "summaries",
    "newest": "newest turns, word for word",
    "recalled": "recalled turns",
    "free": "free",
}
MOST_SAYINGS = 60
"""Lines whose turns are looked up at once."""
SHOWN_RECALLED = 3
LONGEST_RECALLED, LONGEST_TURN = 120, 600
"""Characters of a turn that are shown where it is only pointed at."""


def bar_html(context: Context) -> str:
    """Where the budget goes: a bar to see, and the same as a list to read."""
    shares = dict(context.shares)
    # What a message's frame takes counts with the turns, so that the parts are the whole.
    shares["newest"] += context.tokens - sum(shares.values())
    shares["free"] = context.budget - context.tokens
    parts = "".join(
        f'<span class="tt-part tt-{name}" style="flex-grow:{tokens}"></span>'
        for name, tokens in shares.items()
        if tokens
    )
    rows = "".join(
        f'<li><span class="tt-swatch tt-{name}" aria-hidden="true"></span>{PARTS[name]} <b>{tokens:,}</b></li>'
        for name, tokens in shares.items()
    )
    return (
        f'<p class="tt-figures"><b>{context.tokens:,}</b> of {context.budget:,} tokens ({escape(context.counter)})</p>'
        f'<div class="tt-budget" aria-hidden="true">{parts}</div><ul class="tt-parts">{rows}</ul>'
    )


def saved_html(last: Cost, so_far: Cost) -> str:
    if not last.whole:
        return ""
    whole = f" instead of {last.whole:,} ({last.saved:.0%} saved)" if last.saved >= 0.005 else ": the whole history"
    told = f"Last message: {last.sent:,} tokens sent{whole}."
    if so_far != last:
        told += f" Since you came: {so_far.sent:,} instead of {so_far.whole:,} ({so_far.saved:.0%} saved)."
    return f'<p class="tt-saved">{told}</p>'


def folds_html(memory: ChatMemory, conversation: str) -> str:
    report = memory.report(conversation)
    if not report.spans:
        return note_html(f"{_turns(report.waiting)}, none of them folded: older turns are, as a chat grows.")
    by = (
        f"{report.by_model} of them written by the model"
        if report.by_model
        else "picked from the chat, no model's words"
    )
    return note_html(
        f"{_turns(report.turns)} in {report.spans} summaries ({by}); {_turns(report.waiting)} not folded yet."
    )


def sayings_html(memory: ChatMemory, conversation: str, context: Context) -> str:
    found = list(sayings(context))
    if not found:
        why = "everything fits" if context.is_whole else "the budget has no room for one, or nothing is folded yet"
        return note_html(f"No summary is sent: {why}.")
    lines = "".join(_saying(memory, conversation, one) for one in found[:MOST_SAYINGS])
    return f"<h4>What the summaries say</h4><p class='tt-note'>Open a line to see the turns it comes from.</p>{lines}"


def _saying(memory: ChatMemory, conversation: str, one: Saying) -> str:
    turns = turns_html(memory.sources(conversation, one.text), LONGEST_TURN)
    turns = turns or note_html(f"It comes from turns {one.first} to {one.last}.")
    return (
        f'<details class="tt-saying"><summary>{escape(one.text)} '
        f'<span class="tt-where">turns {one.first} to {one.last}</span></summary>{turns}</details>'
    )


def recalled_html(memory: ChatMemory, conversation: str, context: Context) -> str:
    places = context.recalled
    if not places:
        return ""
    turns = memory.store.history(conversation, first=min(places), last=max(places))
    found = [turn for turn in turns if turn.seq in places]
    shown, more = (turns_html(part, LONGEST_RECALLED) for part in (found[:SHOWN_RECALLED], found[SHOWN_RECALLED:]))
    rest = f"<details><summary>{_turns(len(found) - SHOWN_RECALLED)} more</summary>{more}</details>" if more else ""
    return f'<details open class="tt-recall"><summary>Recalled: turns {ranges(places)}</summary>{shown}{rest}</details>'


def sent_html(context: Context) -> str:
    rows = "".join(
        f"<dt>{escape(str(one['role']))}</dt><dd>{escape(str(one.get('content') or one.get('tool_calls')))}</dd>"
        for one in context.messages
    )
    head = f"The context, as it is sent ({len(context.messages)} messages)"
    return f'<details><summary>{head}</summary><dl class="tt-sent">{rows}</dl></details>'


def turns_html(turns: Sequence[Turn], most: int = 4000) -> str:
    rows = "".join(
        f'<li><span class="tt-where">turn {turn.seq}</span> <b>{escape(speaker_of(turn.message))}</b> '
        f"{escape(_cut(said(turn.message), most))}</li>"
        for turn in turns
    )
    return f'<ul class="tt-turns">{rows}</ul>' if rows else ""


def hits_html(hits: Sequence[Hit], query: str) -> str:
    if not hits:
        return note_html(f"Nothing in this conversation is like “{query}”.")
    return turns_html([hit.turn for hit in hits], LONGEST_TURN)


def receipt_html(receipt: Receipt) -> str:
    remains = "".join(f"<li>{escape(where)}</li>" for where in receipt.remains)
    rest = f"<p>What no store can reach:</p><ul>{remains}</ul>" if remains else ""
    what = f"{_turns(receipt.turns)}, and {receipt.derived} summaries and other things made from them"
    return f'<div class="tt-receipt" role="status"><p><b>Erased:</b> {what}.</p>{rest}</div>'


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """As Gradio's chatbot takes them; what is no user's stands on the assistant's side, with its speaker's name."""
    return [_message(turn) for turn in turns]


def _message(turn: Turn) -> dict[str, Any]:
    role = turn.message["role"]
    words = said(turn.message)
    if role in ("user", "assistant") and not turn.message.get("name"):
        return {"role": role, "content": words}
    return {"role": "user" if role == "user" else "assistant", "content": f"[{speaker_of(turn.message)}] {words}"}


def _turns(count: int) -> str:
    return f"{count:,} turn{'' if count == 1 else 's'}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + " ..."
