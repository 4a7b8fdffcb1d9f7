"""Tables and sentences as HTML: whatever stands in them is text, never markup."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from tomtat.errors import TomtatError


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    marked: Sequence[int] = (),
    text_columns: Sequence[int] = (),
) -> str:
    """First column to the left, numbers to the right, `text_columns` wrapped. A cell's second line is small.

    It scrolls sideways by itself, by keyboard too, so that a phone's page does not.
    """
    kinds = [' class="text"' if number in text_columns else "" for number in range(len(columns))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = "".join(_row(row, kinds, number in marked) for number, row in enumerate(rows))
    name = escape(caption, quote=True)
    return (
        # Outside of what scrolls, so that a phone shows it whole; the table is called the same for those who hear it.
        f'<div><p class="tt-caption" aria-hidden="true">{name}</p>'
        f'<div class="tt-wide" tabindex="0" role="region" aria-label="{name}">'
        f'<table class="tt-table" aria-label="{name}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _row(row: Sequence[str], kinds: Sequence[str], is_marked: bool) -> str:
    first, *others = row
    cells = "".join(f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(others, kinds[1:], strict=True))
    return f'<tr{" class=marked" if is_marked else ""}><th scope="row">{_cell(first)}</th>{cells}</tr>'


def _cell(value: str) -> str:
    first, line_end, second = value.partition("\n")
    return escape(first) + (f'<span class="tt-range">{escape(second)}</span>' if line_end else "")


def note_html(text: str) -> str:
    return f'<p class="tt-note">{escape(text)}</p>'


def error_html(text: str) -> str:
    return f'<p class="tt-error" role="alert">{escape(text)}</p>'


def or_error(what: Callable[[], str]) -> str:
    """What a user can fix is a sentence in the place of the answer."""
    try:
        return what()
    except TomtatError as error:
        return error_html(str(error))


def message(text: str) -> gr.HTML:
    """Takes no room where there is none."""
    return gr.HTML(text, visible=bool(text))


def html(**options: Any) -> gr.HTML:
    """A place for these: without what Gradio does to tables in texts."""
    return gr.HTML(apply_default_css=False, **options)
