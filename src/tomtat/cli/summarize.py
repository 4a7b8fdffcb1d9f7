"""`tomtat summarize`."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.options import Base, Device, OnBadRow
from tomtat.cli.terminal import TerminalProgress
from tomtat.files import write_json_lines, write_text
from tomtat.types import Example, Generation


def summarize_command(
    model: Annotated[
        str, typer.Argument(metavar="RUN|MODEL", help="Run folder, or the name or folder of an untuned model.")
    ],
    file: Annotated[
        str, typer.Argument(help="A text, or JSON Lines (.jsonl) with a text or messages per row; - is standard input.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; by default standard output.")] = None,
    form: Annotated[str, typer.Option("--format", help="auto, text or jsonl: what the input is.")] = "auto",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest summary, in tokens.")] = None,
    device: Device = "auto",
    on_bad_row: OnBadRow = None,
    base: Base = None,
) -> None:
    """Summarize a text (the summary is printed) or JSON Lines (a row with id and summary for each).

    tomtat summarize runs/quickstart article.txt

    cat chats.jsonl | tomtat summarize runs/quickstart - --format jsonl > summaries.jsonl
    """
    from tomtat.errors import ConfigError
    from tomtat.summarizer import Summarizer

    if form not in ("auto", "text", "jsonl"):
        raise ConfigError(f"--format {form}: choose auto, text or jsonl.")
    if out is not None:
        _require_writable(out)
    content = _read(file)
    place = "standard input" if file == "-" else file
    progress = TerminalProgress()
    is_jsonl = form == "jsonl" or (
        form == "auto" and (file.endswith((".jsonl", ".ndjson")) or _looks_like_jsonl(content))
    )
    examples = (
        _rows(content, place, model, out, on_bad_row or "stop", progress)
        if is_jsonl
        else [Example("1", _decode(content, place))]
    )
    summarizer = Summarizer.load(model, device=device, base=base)
    if max_new_tokens:
        summarizer.decoding = replace(summarizer.decoding, max_new_tokens=max_new_tokens)
    rows = summarizer.encode(example.source for example in examples)
    if cut := sum(row.source_was_cut for row in rows):
        what = "The text is" if len(rows) == 1 else f"{cut:,} of {len(rows):,} texts are"
        progress.note(f"{what} longer than {summarizer.max_source_tokens} tokens: only the beginning was read.")
    generations = summarizer.engine.generate(rows, summarizer.decoding, progress if is_jsonl else None)
    text = _as_json_lines(examples, generations) if is_jsonl else generations[0].text + "\n"
    if out:
        write_text(out, text)
    else:
        sys.stdout.write(text)


def _require_writable(out: Path) -> None:
    """Before minutes of work, not after them."""
    from tomtat.errors import ConfigError

    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"lies in {out.parent}, which is no folder"
        raise ConfigError(f"--out {out} {what}. Name a file in a folder that exists.")


def _rows(
    content: bytes, place: str, model: str, out: Path | None, on_bad_row: str, progress: TerminalProgress
) -> list[Example]:
    """Usable rows; those left out are told, and where there is an output file lie beside it."""
    from tomtat.data import DataOptions
    from tomtat.data.jsonl import parse_lines
    from tomtat.data.loading import parse_rows
    from tomtat.errors import DataError

    options = DataOptions(_source_field(model), needs_summary=False, on_bad_row=on_bad_row, or_usual=True)
    loaded = parse_rows(list(parse_lines(content)), place, options)
    for reject in loaded.rejects:
        progress.note(f"left out: {reject.where}: {reject.reason}")
    if out and loaded.rejects:
        rejects = out.with_name(f"{out.name}.rejects.jsonl")
        write_json_lines(rejects, (asdict(reject) for reject in loaded.rejects))
        progress.note(f"these {len(loaded.rejects):,} rows lie with their reasons in {rejects}")
    if not loaded.examples:
        raise DataError(f"{place} has no rows to summarize.")
    return loaded.examples


def _as_json_lines(examples: list[Example], generations: list[Generation]) -> str:
    lines = []
    for example, generation in zip(examples, generations, strict=True):
        counts = asdict(generation)
        lines.append({"id": example.id, "summary": counts.pop("text"), **counts})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _source_field(model: str) -> str | None:
    """The field that a run was trained to read, if it is a run and named one."""
    from tomtat.run_folder import RunFolder

    is_run = (Path(model) / "config.toml").is_file()
    return RunFolder.open(model).config.data.source_field if is_run else None


def _read(file: str) -> bytes:
    from tomtat.errors import DataError

    if file == "-":
        return sys.stdin.buffer.read()
    path = Path(file)
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name a file, or - for standard input.")
    try:
        return path.read_bytes()
    except PermissionError:
        raise DataError(f"{path} can't be read: permission denied.") from None
    except FileNotFoundError:
        raise DataError(f"There is no file {path}. Check the path, or use - for standard input.") from None


def _decode(content: bytes, place: str) -> str:
    from tomtat.errors import DataError

    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8 text (byte {error.start + 1}). Save it as UTF-8.") from None
    if not text:
        raise DataError(f"{place} is empty: there is nothing to summarize.")
    return text


def _looks_like_jsonl(content: bytes) -> bool:
    first = content.lstrip(b"\xef\xbb\xbf \r\n\t").split(b"\n", 1)[0]
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False
