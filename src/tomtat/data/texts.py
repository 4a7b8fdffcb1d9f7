"""Text files: each a document, or two that have a line for each document."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest

from tomtat.data.files import Input, opened
from tomtat.data.jsonl import Row
from tomtat.data.transcripts import conversation_of


def document_rows(file: Input) -> Iterator[Row]:
    """A text file as one row: the messages of a transcript or of a WhatsApp export, or else the text as it is."""
    with opened(file, or_latin1=True) as stream:
        content = stream.file.read()
        problem = stream.problem
    text = content.decode("utf-8", errors="replace").removeprefix("\ufeff").replace("\r\n", "\n").strip()
    problem = problem or _problem_of_text(content, text)
    value = None if problem else document(text)
    yield Row(1, value, problem, raw=text[:10_000] if problem else "", end=len(content), unit="", name=file.stem)


def document(text: str) -> dict[str, object]:
    """A text as a row."""
    messages = conversation_of(text)
    if messages is None:
        return {"text": text}
    return {"messages": [{"role": said.role, "name": said.name, "content": said.content} for said in messages]}


def _problem_of_text(content: bytes, text: str) -> str | None:
    if b"\0" in content:
        return "has NUL bytes. Is it a text?"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start + 1}). Save it as UTF-8"
    return None if text else "is empty: there is nothing to summarize"


def paired_rows(texts: Input, summaries: Input) -> Iterator[Row]:
    """A line of each of two files as a row; a bad row where one of them ends before the other."""
    with ExitStack() as stack:
        streams = [stack.enter_context(opened(file, or_latin1=True)) for file in (texts, summaries)]
        place = number = 0
        for number, lines in enumerate(zip_longest(*(stream.file for stream in streams)), start=1):
            if None in lines:
                short = texts if lines[0] is None else summaries
                problem = f"{short.place} has only {number - 1:,} lines. Both files must have a line for each row"
                yield Row(number, problem=problem, start=place, end=place)
                break
            if any(stream.cuts(line) for stream, line in zip(streams, lines, strict=True)):
                break
            start, place = place, place + sum(map(len, lines))
            yield replace(_paired(number, lines), start=start, end=place)
        for file, stream in zip((texts, summaries), streams, strict=True):
            if stream.problem:
                yield Row(number, problem=f"{file.place}: {stream.problem}", unit="")


def _paired(number: int, lines: Sequence[bytes]) -> Row:
    try:
        text, summary = (line.decode("utf-8").removeprefix("\ufeff").strip() for line in lines)
    except UnicodeDecodeError:
        raw = b"".join(lines).decode("utf-8", errors="replace")
        return Row(number, problem="not UTF-8. Save the file as UTF-8", raw=raw)
    return Row(number, {"source": text, "summary": summary})
