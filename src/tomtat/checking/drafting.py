"""A recipe for one's own data, written after a look at it: what to start from, with what was found as comments."""

import json
import random
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tomtat.checking.fields import guess_fields
from tomtat.checking.report import Lengths, Suggestion
from tomtat.checking.suggest import as_toml, input_limit, one_line, output_limit, percent, sizes, training
from tomtat.config import ModelSettings, PromptSettings, RunConfig, build_config
from tomtat.data import DataOptions, Reject, scan_rows
from tomtat.data.slices import parse_spec
from tomtat.errors import ConfigError, DataError
from tomtat.evaluation.yardsticks import speakers
from tomtat.files import write_text
from tomtat.models.tokenizer_only import open_tokenizer
from tomtat.prompts import source_text
from tomtat.text import language_of, words
from tomtat.text.runs import hashed
from tomtat.types import Example

MULTILINGUAL = "Qwen/Qwen2.5-0.5B-Instruct"
"""Half a billion weights, Apache-2.0, made for Chinese, Russian, Japanese, Korean, Vietnamese, Thai, Arabic and others;
the embedded model has read English nearly alone."""
HEAD = 200
"""Rows that are looked at to find the columns."""
SAMPLE = 2000
"""Rows whose tokens are counted."""
LANGUAGES = {
    "ar": "Arabic", "el": "Greek", "he": "Hebrew", "hi": "Hindi", "ja": "Japanese", "ko": "Korean", "ru": "Russian",
    "th": "Thai", "vi": "Vietnamese", "zh": "Chinese", "en": "English, or another in plain Latin letters",
}  # fmt: skip


@dataclass(frozen=True)
class Draft:
    recipe: str
    """TOML with comments."""
    found: Sequence[str]
    """What was found, a line each; the recipe's header has the same."""


@dataclass
class _Look:
    """What one source holds."""

    source: str
    rows: int = 0
    """Good and bad, as slices count them."""
    bad: int = 0
    first_bad: Reject | None = None
    sample: list[Example] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    """A number for each row's source, to find repeats by; 0 for a bad row."""


def draft_recipe(
    source: str, out: Path, validation: str | None, test: str | None, settings: Mapping[str, Any]
) -> Draft:
    """Look at a source, and write the recipe that `out` is to hold. `settings` are those the user insists on:
    `model.name`, `data.source_field`, `data.summary_field`.

    Raises: DataError, where the source has no usable row or its columns can't be told.
    """
    fields = _fields(source, settings)
    options = DataOptions(fields.get("data.source_field"), fields.get("data.summary_field"))
    train = _look(source, options)
    given = {"validation": validation, "test": test}
    others = {role: _look(name, options) for role, name in given.items() if name is not None}
    language = language_of(text for row in train.sample[:HEAD] for text in (source_text(row.source), *row.references))
    model = settings.get("model.name") or (ModelSettings().name if language == "en" else MULTILINGUAL)
    splits, left = _splits(train, others)
    limits, told = _limits(train, model)
    found = [
        *_told_about(train, fields, bool(settings.get("data.source_field"))),
        f"language of the summaries and texts: {LANGUAGES[language]}",
        *told,
        *_told_repeats(train, splits),
    ]
    bad = [look for look in (train, *others.values()) if look.bad]
    suggestions = [
        Suggestion("model.name", model, _about_model(model, language)),
        *splits,
        *(Suggestion(name, value) for name, value in fields.items()),
        *limits[:1],
        *([Suggestion("data.on_bad_row", "skip", _told_bad(bad))] if bad else []),
        *_lora(),
        *_training(left),
        *limits[1:],
    ]
    command = shlex.join(["tomtat", "init", source, *_flags({**given, **settings}), "--out", str(out)])
    return Draft(_with_header(command, out, found, as_toml(suggestions), splits), found)


def _flags(given: Mapping[str, Any]) -> list[str]:
    """`--source-field talk` for `data.source_field`, as they were typed."""
    named = {name.rpartition(".")[2].replace("_", "-").replace("name", "model"): one for name, one in given.items()}
    return [part for name, one in named.items() if one is not None for part in (f"--{name}", str(one))]


def recipe_name(source: str) -> str:
    """`mine.toml` for `data/mine.jsonl.gz`, `chats-vi-train.toml` for `chats:vi@train`."""
    name = re.sub(r"(?:\.\w{1,7}){1,2}$", "", Path(source.rstrip("/")).name)
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return f"{plain or 'mine'}.toml"


def require_free(path: Path) -> None:
    """ConfigError where a recipe can't be written without loss, before the data is looked at."""
    if path.exists():
        raise ConfigError(f"{path} exists already, and is not overwritten. Choose another name with --out.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}. Make it first.")
    if path.suffix != ".toml":
        raise ConfigError(f"{path}: a recipe's name ends in .toml.")


def save_recipe(draft: Draft, path: Path) -> None:
    require_free(path)
    # A draft that its own reader refuses would be a bug of ours, and loud.
    build_config(tomllib.loads(draft.recipe), where=f"{path}: ")
    write_text(path, draft.recipe)


def _fields(source: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The columns' names, where they must be named."""
    named = {name: settings[name] for name in ("data.source_field", "data.summary_field") if settings.get(name)}
    options = DataOptions(named.get("data.source_field"), named.get("data.summary_field"))
    head = [row for _, row in islice(scan_rows(source, options), HEAD)]
    if not head:
        raise DataError(f"{source} has no rows. Is it the right file?")
    if any(isinstance(row, Example) for row in head):
        return named
    rejects = [row for row in head if isinstance(row, Reject)]
    guess = guess_fields([row for reject in rejects if (row := _as_object(reject.row))])
    if guess is None or named:
        first = rejects[0]
        raise DataError(
            f"{first.where}: {first.reason}. No row of the first {len(head):,} can be used; name the columns with "
            "--source-field and --summary-field."
        )
    return {"data.source_field": guess[0], "data.summary_field": guess[1]}


def _as_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _look(source: str, options: DataOptions) -> _Look:
    look = _Look(source)
    draw = random.Random(0)
    for _, row in scan_rows(source, options):
        look.rows += 1
        if isinstance(row, Reject):
            look.bad += 1
            look.first_bad = look.first_bad or row
            look.texts.append(0)
            continue
        look.texts.append(hashed(words(source_text(row.source))).whole)
        good = look.rows - look.bad
        if len(look.sample) < SAMPLE:
            look.sample.append(row)
        elif (place := draw.randrange(good)) < SAMPLE:
            look.sample[place] = row
    if not look.sample:
        first = look.first_bad
        raise DataError(f"{first.where}: {first.reason}." if first else f"{source} has no rows. Is it the right file?")
    return look


def _splits(train: _Look, others: Mapping[str, _Look]) -> tuple[list[Suggestion], int]:
    """The three roles with their data, what was not given cut from the beginning of `train`; and rows left to train."""
    is_sliced = parse_spec(train.source).is_sliced
    wanted = dict(zip(("validation", "test"), sizes(train.rows), strict=True))
    cut = {role: 0 if role in others or is_sliced else size for role, size in wanted.items()}
    begin = sum(cut.values())
    parts = [("train", f"{train.source}[{begin}:]" if begin else train.source, train.rows - begin)]
    if cut["validation"]:
        parts.append(("validation", f"{train.source}[{cut['test']}:{begin}]", cut["validation"]))
    if cut["test"]:
        parts.append(("test", f"{train.source}[:{cut['test']}]", cut["test"]))
    parts += [(role, look.source, look.rows) for role, look in others.items()]
    order = ("train", "validation", "test")
    parts.sort(key=lambda part: order.index(part[0]))
    return [Suggestion(f"data.{role}", spec, f"{rows:,} rows") for role, spec, rows in parts], train.rows - begin


def _limits(train: _Look, model: str) -> tuple[list[Suggestion], list[str]]:
    """Input and output limit by the model's tokens, or the input limit alone by words where it is not here."""
    pairs = [(source_text(row.source), row.references[0]) for row in train.sample]
    counter = open_tokenizer(ModelSettings(name=model), PromptSettings(), fetch=False)
    if counter is None:
        # Many words are one token, few more than three; a limit too high costs some time, too low some text.
        estimate = [int(1.5 * len(words(text))) for text, _ in pairs]
        limit = input_limit(estimate)
        told = f"{model} is not here, so its tokens were estimated at 1.5 a word"
        return [replace(limit, why=f"{limit.why}, by that estimate")], [told]
    sources = [counter.count_tokens(text) for text, _ in pairs]
    summaries = [len(counter.target(summary)) for _, summary in pairs]
    lines = [_lengths("texts", sources), _lengths("summaries", summaries)]
    return [input_limit(sources), output_limit(summaries)], lines


def _lengths(name: str, tokens: Sequence[int]) -> str:
    found = Lengths.of(tokens)
    return f"{name}: {found.median:,} tokens at the median, {found.high:,} at 95 %, {found.most:,} at most"


def _told_about(train: _Look, fields: Mapping[str, str], was_named: bool) -> list[str]:
    bad = f", {train.bad:,} of them bad" if train.bad else ""
    lines = [f"{train.source}: {train.rows:,} rows{bad}"]
    if fields and not was_named:
        source, summary = fields.values()
        lines.append(f"columns by what stands in them: text `{source}`, summary `{summary}`; see that this is right")
    chats = sum(speakers(row.source) > 0 for row in train.sample)
    if chats:
        kind = "conversations" if chats >= 0.9 * len(train.sample) else "conversations and other texts"
    else:
        kind = "texts, not conversations"
    each = sum(len(row.references) for row in train.sample) / len(train.sample)
    return [*lines, f"{kind}, {'one summary' if each == 1 else f'{each:.2g} summaries'} each"]


def _told_repeats(train: _Look, splits: Sequence[Suggestion]) -> list[str]:
    """Repeated texts, and whether a slice would put one on both sides."""
    counts = Counter(text for text in train.texts if text)
    repeats = sum(count - 1 for count in counts.values())
    if not repeats:
        return []
    lines = [
        f"{repeats:,} rows repeat an earlier text ({percent(repeats / train.rows)}); `tomtat data check` lists them"
    ]
    begin = parse_spec(splits[0].value).start
    if begin and not parse_spec(train.source).is_sliced:
        held = set(train.texts[: int(begin)]) - {0}
        if both := sum(text in held for text in train.texts[int(begin) :]):
            lines.append(
                f"{both:,} training rows repeat a text of the slices for validation and test: drop these first"
            )
    return lines


def _told_bad(looks: Sequence[_Look]) -> str:
    first = looks[0].first_bad
    count = sum(look.bad for look in looks)
    return f"{count:,} bad rows; the first: {first.where}: {first.reason}" if first else ""


def _about_model(model: str, language: str) -> str:
    default = ModelSettings().name
    if model == MULTILINGUAL and language != "en":
        return f"needs the hub; without it {default}, which has read little {LANGUAGES[language]}"
    return "embedded, needs no hub" if model == default else ""


def _lora() -> list[Suggestion]:
    lora = RunConfig().lora
    return [Suggestion(f"lora.{name}", getattr(lora, name)) for name in ("rank", "alpha", "target")]


def _training(rows: int) -> list[Suggestion]:
    epochs, batch_size = training(rows)
    return [epochs, Suggestion("train.learning_rate", RunConfig().train.learning_rate), batch_size]


def _with_header(command: str, out: Path, found: Sequence[str], toml: str, splits: Sequence[Suggestion]) -> str:
    has_test = any(one.setting == "data.test" for one in splits)
    lines = [
        "Written after a look at the data, to be read before it is used. It was made by",
        "",
        f"  {command}",
        "",
        "and is for",
        "",
        f"  tomtat train {shlex.quote(str(out))}",
        *([f"  tomtat evaluate runs/{shlex.quote(out.stem)}"] if has_test else []),
        "",
        "Time: not yet measured",
        "Score: not yet measured",
        "",
        "What was found:",
        *(f"  {line}" for line in found),
    ]
    if any(f"data.{role}" == one.setting and ":" in one.value for one in splits for role in ("validation", "test")):
        lines += ["The slices are the first rows of the file: where it is sorted, shuffle it first."]
    header = "\n".join(f"# {one_line(line)}".rstrip() for line in lines)
    return f"{header}\n\nseed = 0\n\n{toml}\n"
