"""Run a summarizer over examples, score it beside its yardsticks, keep it all in the run folder."""

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tomtat.config import EvaluateSettings, load_evaluate_settings, parse_override
from tomtat.data import DataOptions, Loaded, Reject, load
from tomtat.engines import TorchEngine
from tomtat.errors import ConfigError, DataError, TomtatError
from tomtat.evaluation.leakage import Leakage, find_leakage
from tomtat.evaluation.names import EXACT, FLOOR, HUMAN, LEAD3, ORACLE, ORDER, TUNED, UNTUNED, headline
from tomtat.evaluation.predictions import read_predictions
from tomtat.evaluation.slices import Slice, make_slices
from tomtat.evaluation.yardsticks import lead3, oracle, others
from tomtat.metrics import Rows, Scored, Scorer, score_rows
from tomtat.metrics.significance import Difference, differences, holm
from tomtat.metrics.values import share_of
from tomtat.models import load_base
from tomtat.models.loading import warn_if_another_base
from tomtat.models.precision import cast_parameters
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.run_folder import RunFolder
from tomtat.summarizer import Summarizer
from tomtat.text import words
from tomtat.types import Example, Score, Source, Summary


@dataclass(frozen=True)
class Evaluation:
    """Scores and summaries of several systems on the same rows."""

    data: str
    examples: list[Example]
    predictions: dict[str, list[str]]
    """By system, in the examples' order; `human` has none of its own."""
    systems: dict[str, Scored]
    """Yardsticks first, the judged systems last."""
    judged: tuple[str, ...]
    """The systems that this evaluation is about: `tuned`, or the names of prediction files."""
    cut_off: dict[str, int]
    """Summaries that ended at the token limit, by system that has one."""
    sources_cut: int
    """Sources longer than the input limit."""
    not_run: dict[str, str]
    """Metrics that could not be had, and why."""
    notes: list[str]
    """What a reader of the numbers must know."""
    comparisons: dict[str, list[Difference]]
    """The first judged system against each other system of weight, by that system's name."""
    slices: list[Slice]
    leakage: Leakage | None
    protocol: str
    language: str
    settings: dict[str, Any]
    """How summaries were generated; empty for predictions made elsewhere."""
    path: Path
    """Where the files go."""

    @property
    def scores(self) -> dict[str, list[Score]]:
        return {system: scored.scores for system, scored in self.systems.items()}

    @cached_property
    def words(self) -> dict[str, float]:
        """Mean length of each system's summaries, in words."""
        texts = dict(self.predictions)
        if HUMAN in self.systems:
            texts[HUMAN] = [text for example in self.examples for text in example.references]
        return {system: sum(len(words(text)) for text in texts[system]) / len(texts[system]) for system in self.systems}

    def score(self, name: str, system: str | None = None) -> Score:
        scores = self.scores[system or self.judged[0]]
        found = next((score for score in scores if score.name == name), None)
        if found is None:
            raise KeyError(f"{name}; there are {', '.join(score.name for score in scores)}")
        return found

    @property
    def headline(self) -> list[str]:
        """The metrics of quality that the judged systems have."""
        return headline(score.name for score in self.scores[self.judged[0]])

    def table(self) -> str:
        """Systems by metrics as plain text, the judged ones last."""
        header, rows = self.columns()
        lines = [header, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)

    def columns(self, suffix: str = "") -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of quality; `suffix` picks another policy over references, such as `-best`."""
        names = [
            name
            for name in self.headline
            if not suffix or any(s.name == name + suffix for s in self.scores[self.judged[0]])
        ]
        rows = []
        for system, scores in self.scores.items():
            values = {score.name: f"{score.value:.1f}" for score in scores}
            if suffix and not any(name + suffix in values for name in names):
                continue
            rows.append([system, *(values.get(name + suffix, "-") for name in names), f"{self.words[system]:.0f}"])
        return ["", *names, "words"], rows


@dataclass(frozen=True)
class Predictions:
    """What is to be scored, and how it was generated, as far as that is known."""

    texts: dict[str, list[str]]
    """By system, in the examples' order."""
    judged: tuple[str, ...]
    is_cut: dict[str, list[bool]] = field(default_factory=dict)
    """By system: which of its summaries ended at the token limit."""
    share_read: list[float] | None = None
    """Of each source, what the judged system read."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How summaries were generated."""

    @property
    def sources_cut(self) -> int:
        return sum(share < 1 for share in self.share_read or [])


def evaluate(
    run: RunFolder | Path | str,
    data: str | None = None,
    name: str | None = None,
    yardsticks: bool = True,
    device: str = "auto",
    on_bad_row: str | None = None,
    base: str | None = None,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    leakage: bool = True,
    source_field: str | None = None,
    summary_field: str | None = None,
    engine: str = "torch",
) -> Evaluation:
    """Score a run on its configured test split, or on other data.

    Files go to the run folder's top for the test split, else to `evaluations/NAME`; `name` is made from `data`,
    `engine` and what is asked for under generate if not given. With `yardsticks` the untuned model, lead-3, an
    extractive oracle, other rows' references and, where there are several, the references themselves are scored on
    the same rows; with another `engine` than torch, torch itself in the untuned model's place: the difference is what
    that engine costs. `settings` overrides the run's [evaluate] and [generate] tables, for instance
    {"evaluate.metrics": ["rouge"], "generate.decode": "beam"}. With `leakage` the rows are looked for in the training
    data. `source_field` and `summary_field` name columns of the data where they are not the run's own.
    """
    from tomtat.evaluation.store import write_evaluation

    progress = progress or Progress()
    if name is not None:
        _require_plain(name)
    folder = run if isinstance(run, RunFolder) else RunFolder.open(os.fspath(run))
    config = folder.config
    scoring, generate = _split(settings)
    wanted = load_evaluate_settings(config.evaluate, scoring)
    spec = data or config.data.test
    if spec is None:
        raise DataError(f"{folder.path} has no data.test. Name the data to evaluate on: --data FILE.")
    options = DataOptions(
        source_field or config.data.source_field,
        summary_field or config.data.summary_field,
        on_bad_row=on_bad_row or config.data.on_bad_row,
        or_usual=data is not None and not (source_field or summary_field),
    )
    loaded = load(spec, options)
    sources = [example.source for example in loaded.examples]

    def opened(engine: str) -> Summarizer:
        summarizer = Summarizer.load(folder, device, base=base, engine=engine, progress=progress)
        summarizer.ask_for(generate)
        return summarizer

    summarizer = opened(engine)
    beside: dict[str, list[Summary]] = {}
    if yardsticks and engine == "torch":
        beside = {UNTUNED: _untuned(summarizer, sources, folder, base, progress)}
    elif yardsticks:
        beside = {EXACT: opened("torch").generate(sources, progress, "tuned model by torch")}
    predictions = _predictions(summarizer, beside, summarizer.generate(sources, progress, "tuned model"))
    found, notes = _leakage(folder, loaded.examples, progress) if leakage else (None, [])
    path = folder.evaluation_path(name or _folder_name(spec if data else None, engine, generate))
    evaluation = assess(spec, loaded, predictions, wanted, path, yardsticks, progress, found, notes)
    write_evaluation(evaluation, loaded.rejects, progress, folder)
    return evaluation


def _split(settings: Mapping[str, Any] | Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is asked for of scoring, by dotted names, and of generating, by names under [generate]."""
    pairs = dict(settings.items() if isinstance(settings, Mapping) else map(parse_override, settings))
    generate = {name: value for name, value in pairs.items() if name.startswith("generate.")}
    scoring = {name: value for name, value in pairs.items() if name not in generate}
    return scoring, {name.removeprefix("generate."): value for name, value in generate.items()}


def _predictions(summarizer: Summarizer, beside: dict[str, list[Summary]], tuned: list[Summary]) -> Predictions:
    summaries = {**beside, TUNED: tuned}
    model = summarizer.model
    # Engines with weights in a form of their own have no network.
    of_torch = (
        {"precision": str(model.dtype).removeprefix("torch."), "device": str(model.device)} if model.network else {}
    )
    return Predictions(
        texts={system: [summary.text for summary in found] for system, found in summaries.items()},
        judged=(TUNED,),
        is_cut={system: [one.finish_reason == "length" for one in found] for system, found in summaries.items()},
        share_read=[summary.share_read for summary in tuned],
        settings={
            **asdict(summarizer.decoding),
            "max_source_tokens": summarizer.max_source_tokens,
            "long_inputs": summarizer.long_inputs,
            "engine": summarizer.engine.name,
            "limits": {name: value for name, value in asdict(summarizer.limits).items() if value},
            **of_torch,
        },
    )


def evaluate_predictions(
    predictions: Sequence[Path | str],
    references: str,
    out: Path | str,
    field: str | None = None,
    yardsticks: bool = True,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    options: DataOptions | None = None,
) -> Evaluation:
    """Score predictions made elsewhere: JSON Lines with `id` and `prediction` against data with the same ids.

    Each file is a system of its own, named after it. The files of the evaluation go to the folder `out`.
    """
    from tomtat.evaluation.store import write_evaluation

    progress = progress or Progress()
    out = Path(out)
    _require_replaceable(out)
    names = [_system_name(Path(path), predictions) for path in predictions]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"Two prediction files would both be called {double!r}. Rename one of them.")
    loaded = load(references, options or DataOptions())
    ids = [example.id for example in loaded.examples]
    left_out = {identifier for reject in loaded.rejects if (identifier := _id_of(reject)) is not None}
    texts = {
        name: read_predictions(Path(path), ids, field, left_out) for name, path in zip(names, predictions, strict=True)
    }
    wanted = load_evaluate_settings(EvaluateSettings(), settings)
    evaluation = assess(references, loaded, Predictions(texts, tuple(texts)), wanted, out, yardsticks, progress)
    write_evaluation(evaluation, loaded.rejects, progress)
    return evaluation


def assess(
    data: str,
    loaded: Loaded,
    predictions: Predictions,
    wanted: EvaluateSettings,
    path: Path,
    yardsticks: bool,
    progress: Progress,
    leakage: Leakage | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Numbers of finished predictions, the yardsticks that need no model among them."""
    examples = loaded.examples
    sources = [source_text(example.source) for example in examples]
    progress.note(f"scoring {len(examples):,} rows")
    scorer = Scorer(Rows([e.references for e in examples], sources, [e.facts for e in examples]), wanted)
    texts = predictions.texts | (_cheap_yardsticks(examples) if yardsticks else {})
    fewest, most = (of(len(example.references) for example in examples) for of in (min, max))
    order = _in_order(texts, has_human=yardsticks and fewest > 1)
    systems = _score(scorer, order, texts, predictions.is_cut, progress)
    judged = predictions.judged
    told = [
        *notes,
        *(["No human line: not every row has two references."] if yardsticks and fewest < 2 <= most else []),
        *(note for system in judged for note in _notes_on(system, systems[system])),
        *_warnings(examples, predictions),
    ]
    weighty = [system for system in (UNTUNED, EXACT, LEAD3, *judged[1:]) if system in systems]
    sliced = {system: systems[system] for system in (LEAD3, UNTUNED, EXACT, *judged) if system in systems}
    return Evaluation(
        data=data,
        examples=examples,
        predictions={system: texts[system] for system in order if system in texts},
        systems=systems,
        judged=judged,
        cut_off={system: sum(is_cut) for system, is_cut in predictions.is_cut.items()},
        sources_cut=predictions.sources_cut,
        not_run=scorer.not_run,
        notes=told,
        comparisons=_compare_with(systems, judged[0], weighty),
        slices=make_slices(examples, sources, sliced, predictions.share_read, leakage),
        leakage=leakage,
        protocol=scorer.protocol,
        language=scorer.language,
        settings=predictions.settings,
        path=path,
    )


def _in_order(texts: Mapping[str, list[str]], has_human: bool) -> list[str]:
    """Yardsticks first."""
    known = [system for system in ORDER if system in texts or (system == HUMAN and has_human)]
    return [*known, *(system for system in texts if system not in ORDER)]


def _score(
    scorer: Scorer,
    systems: Sequence[str],
    texts: Mapping[str, list[str]],
    is_cut: Mapping[str, list[bool]],
    progress: Progress,
) -> dict[str, Scored]:
    found = {}
    with progress.task("scoring", len(systems), "systems") as advance:
        for system in systems:
            scored = scorer.score_humans() if system == HUMAN else scorer.score(texts[system])
            if scored is not None:
                found[system] = _with_cut_off(scored, is_cut.get(system))
            advance(1)
    return found


def _notes_on(system: str, scored: Scored) -> list[str]:
    named = {score.name for score in scored.scores}
    nothing = ", ".join(metric.name for metric in scored.values if metric.name not in named)
    return [*scored.notes, *([f"Nothing to count in the summaries of {system}: {nothing}."] if nothing else [])]


def _cheap_yardsticks(examples: list[Example]) -> dict[str, list[str]]:
    found = {
        LEAD3: [lead3(example.source) for example in examples],
        ORACLE: [oracle(example.source, example.references) for example in examples],
    }
    if len(examples) > 1:
        found[FLOOR] = others([example.references for example in examples])
    return found


def _with_cut_off(scored: Scored, is_cut: Sequence[bool] | None) -> Scored:
    if is_cut is None:
        return scored
    value = share_of("cut-off", "summaries that ended at the token limit x100", is_cut, [1] * len(is_cut))
    return Scored([*scored.values, value], [*scored.scores, *score_rows([value])], scored.notes)


def _compare_with(systems: dict[str, Scored], judged: str, against: Sequence[str]) -> dict[str, list[Difference]]:
    """Holm's correction runs over all of them together."""
    wanted = headline(metric.name for metric in systems[judged].values)
    ours = [metric for metric in systems[judged].values if metric.name in wanted]
    found = {system: differences(systems[system].values, ours) for system in against}
    corrected = iter(holm([difference for each in found.values() for difference in each]))
    return {system: [next(corrected) for _ in each] for system, each in found.items()}


def _warnings(examples: list[Example], predictions: Predictions) -> list[str]:
    rows = len(examples)
    notes = []
    if rows < 100:
        notes.append(f"Only {rows:,} rows: differences of a few points mean little, however they look.")
    if sources_cut := predictions.sources_cut:
        limit = predictions.settings.get("max_source_tokens")
        notes.append(
            f"{sources_cut:,} of {rows:,} sources are longer than {limit} tokens: the model read their beginning."
        )
    for system in predictions.judged:
        texts = predictions.texts[system]
        if empty := sum(not text.strip() for text in texts):
            notes.append(f"{empty:,} of {rows:,} summaries of {system} are empty.")
        if rows > 1 and len(set(texts)) == 1:
            notes.append(f"{system} says the same of each row.")
    return notes


def _leakage(folder: RunFolder, examples: list[Example], progress: Progress) -> tuple[Leakage | None, list[str]]:
    data = folder.config.data
    try:
        options = DataOptions(data.source_field, data.summary_field, needs_summary=False, on_bad_row="skip")
        train = load(data.train, options).examples
    except TomtatError as error:
        progress.note(str(error))
        return None, ["Not checked whether test rows stood in the training data: it can't be read here."]
    progress.note(f"looking for the test rows among {len(train):,} training rows")
    test = [source_text(example.source) for example in examples]
    found = find_leakage(test, (source_text(example.source) for example in train), data.train)
    return found, [found.sentence(len(examples))] if found.seen else []


def _untuned(
    summarizer: Summarizer, sources: list[Source], folder: RunFolder, base: str | None, progress: Progress
) -> list[Summary]:
    """What the base writes for the same prompts under the same limits."""
    name = "untuned model"
    if summarizer.model.peft is not None:
        with summarizer.model.untuned():
            return summarizer.generate(sources, progress, name)
    config = folder.config
    model = load_base(config.model.model_copy(update={"name": base or config.model.name}), config.prompt)
    warn_if_another_base(model.source, folder.info()["base"])
    cast_parameters(model.network, summarizer.model.dtype)
    model.network.to(summarizer.model.device)
    untuned = copy.copy(summarizer)
    engine = summarizer.engine
    assert isinstance(engine, TorchEngine)
    untuned.engine = TorchEngine(model, engine.batch_tokens, lookup_tokens=engine.lookup_tokens)
    return untuned.generate(sources, progress, name)


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over ids, sources and references: two evaluations with the same one scored the same rows."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([str(example.id), source_text(example.source), example.references]).encode())
    return digest.hexdigest()


def _require_replaceable(out: Path) -> None:
    """An evaluation may be replaced; anything else that lies there, a run above all, is left alone."""
    for path in (out, out.with_name(out.name + ".old"), out.with_name(out.name + ".new")):
        is_evaluation = path.is_dir() and (path / "scores.json").is_file() and not (path / "config.toml").exists()
        if path.exists() and not is_evaluation and not (path.is_dir() and not any(path.iterdir())):
            raise ConfigError(f"{path} exists and is no evaluation of prediction files. Choose another --out.")


def _id_of(reject: Reject) -> str | None:
    """The id of a reference that was left out, so that its prediction may be left out too."""
    try:
        return str(json.loads(reject.row)["id"])
    except (ValueError, KeyError, TypeError):
        return None


def _system_name(path: Path, all_paths: Sequence[Path | str]) -> str:
    """A file's name without its ending; with its folder's where two files would be called the same."""
    same = [Path(other) for other in all_paths if Path(other).stem == path.stem]
    name = path.stem if len(same) == 1 else f"{path.resolve().parent.name}-{path.stem}"
    return f"{name} (file)" if name in ORDER else name[:80]


def _folder_name(spec: str | None, engine: str = "torch", generate: Mapping[str, Any] | None = None) -> str | None:
    """None for the run's own test split as the run generates.

    Else a readable name that no other data shares: `../data/test.jsonl[:96]` becomes `test-96-` and six hex digits,
    and what is asked for besides follows: `-torch-int8`, `-decode-beam`.
    """
    asked = [] if engine == "torch" else [engine]
    asked += [f"{name}-{value}" for name, value in (generate or {}).items()]
    if spec is not None:
        own = _readable(re.sub(r"\.jsonl?(?=\[|@|$)", "", spec.rpartition("/")[2])) or "data"
        asked.insert(0, f"{own}-{hashlib.sha256(str(Path(spec).absolute()).encode()).hexdigest()[:6]}")
    return _readable("-".join(asked)) or None


def _readable(name: str) -> str:
    return re.sub(r"[^\w.%]+", "-", name).strip("-.")


def _require_plain(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name}: letters, digits, dots, dashes and underscores only; it becomes a folder.")
