"""Run a summarizer over examples, score it beside its yardsticks, keep it all in the run folder."""

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tomtat.config import EvaluateSettings, load_evaluate_settings
from tomtat.data import DataOptions, Loaded, Reject, load
from tomtat.engines import TorchEngine
from tomtat.errors import ConfigError, DataError, TomtatError
from tomtat.evaluation.leakage import Leakage, find_leakage
from tomtat.evaluation.names import FLOOR, HUMAN, LEAD3, ORACLE, ORDER, TUNED, UNTUNED, headline
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
from tomtat.types import Example, Generation, Score, Source, Summary


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
) -> Evaluation:
    """Score a run on its configured test split, or on other data.

    Files go to the run folder's top for the test split, else to `evaluations/NAME`; `name` is made from `data` if not
    given. With `yardsticks` the untuned model, lead-3, an extractive oracle, other rows' references and, where there
    are several, the references themselves are scored on the same rows. `settings` overrides the run's [evaluate]
    table, for instance {"evaluate.metrics": ["rouge"]}. With `leakage` the rows are looked for in the training data.
    """
    from tomtat.evaluation.store import write_evaluation

    progress = progress or Progress()
    if name is not None:
        _require_plain(name)
    folder = run if isinstance(run, RunFolder) else RunFolder.open(os.fspath(run))
    config = folder.config
    wanted = load_evaluate_settings(config.evaluate, settings)
    spec = data or config.data.test
    if spec is None:
        raise DataError(f"{folder.path} has no data.test. Name the data to evaluate on: --data FILE.")
    loaded = load(
        spec,
        DataOptions(
            config.data.source_field,
            config.data.summary_field,
            on_bad_row=on_bad_row or config.data.on_bad_row,
            or_usual=data is not None,
        ),
    )
    summarizer = Summarizer.load(folder, device, base=base)
    sources = [example.source for example in loaded.examples]
    generations = {UNTUNED: _untuned(summarizer, sources, folder, base, progress)} if yardsticks else {}
    generations[TUNED] = summarizer.generate(sources, progress, "tuned model")
    found, leakage_note = _leakage(folder, loaded.examples, progress) if leakage else (None, [])
    evaluation = assess(
        spec,
        loaded,
        {system: [g.text for g in results] for system, results in generations.items()},
        (TUNED,),
        wanted,
        yardsticks=yardsticks,
        progress=progress,
        generations=generations,
        share_read=[summary.share_read for summary in generations[TUNED]],
        leakage=found,
        notes=leakage_note,
        settings={
            **asdict(summarizer.decoding),
            "max_source_tokens": summarizer.max_source_tokens,
            "long_inputs": summarizer.long_inputs,
            "engine": summarizer.engine.name,
            "limits": {name: value for name, value in asdict(summarizer.limits).items() if value},
            "precision": str(summarizer.model.dtype).removeprefix("torch."),
            "device": str(summarizer.model.device),
        },
        path=folder.evaluation_path(None if data is None and name is None else name or _folder_name(spec)),
    )
    write_evaluation(evaluation, loaded.rejects, progress, folder)
    return evaluation


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
    evaluation = assess(
        references, loaded, texts, tuple(texts), wanted, yardsticks=yardsticks, progress=progress, path=out
    )
    write_evaluation(evaluation, loaded.rejects, progress)
    return evaluation


def assess(
    data: str,
    loaded: Loaded,
    predictions: dict[str, list[str]],
    judged: tuple[str, ...],
    wanted: EvaluateSettings,
    yardsticks: bool,
    progress: Progress,
    path: Path,
    generations: Mapping[str, Sequence[Generation]] | None = None,
    share_read: list[float] | None = None,
    leakage: Leakage | None = None,
    notes: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
) -> Evaluation:
    """Numbers of finished predictions, the yardsticks that need no model among them."""
    examples = loaded.examples
    sources = [source_text(example.source) for example in examples]
    rows = Rows([e.references for e in examples], sources, [e.facts for e in examples])
    progress.note(f"scoring {len(examples):,} rows")
    scorer = Scorer(rows, wanted)
    texts = dict(predictions)
    if yardsticks:
        texts |= _cheap_yardsticks(examples)
    systems = {}
    told = list(notes)
    counts = [len(example.references) for example in examples]
    has_human = yardsticks and min(counts) > 1
    if yardsticks and max(counts) > 1 and not has_human:
        told.append("No human line: not every row has two references.")
    known = [system for system in ORDER if system in texts or (system == HUMAN and has_human)]
    order = [*known, *(system for system in texts if system not in ORDER)]
    with progress.task("scoring", len(order), "systems") as advance:
        for system in order:
            scored = scorer.score_humans() if system == HUMAN else scorer.score(texts[system])
            if scored is not None:
                systems[system] = _with_cut_off(scored, (generations or {}).get(system))
            advance(1)
    for system in judged:
        told += systems[system].notes
        if nothing := [metric.name for metric in systems[system].values if metric.name not in _named(systems[system])]:
            told.append(f"Nothing to count in the summaries of {system}: {', '.join(nothing)}.")
    sources_cut = sum(share < 1 for share in share_read or [])
    told += _warnings(examples, {system: texts[system] for system in judged}, sources_cut, settings or {})
    weighty = [system for system in (UNTUNED, LEAD3, *judged[1:]) if system in systems]
    sliced = {system: systems[system] for system in (LEAD3, UNTUNED, *judged) if system in systems}
    return Evaluation(
        data=data,
        examples=examples,
        predictions={system: texts[system] for system in order if system in texts},
        systems=systems,
        judged=judged,
        cut_off={s: sum(g.finish_reason == "length" for g in results) for s, results in (generations or {}).items()},
        sources_cut=sources_cut,
        not_run=scorer.not_run,
        notes=told,
        comparisons=_compare_with(systems, judged[0], weighty),
        slices=make_slices(examples, sources, sliced, share_read, leakage),
        leakage=leakage,
        protocol=scorer.protocol,
        language=scorer.language,
        settings=settings or {},
        path=path,
    )


def _named(scored: Scored) -> set[str]:
    return {score.name for score in scored.scores}


def _cheap_yardsticks(examples: list[Example]) -> dict[str, list[str]]:
    found = {
        LEAD3: [lead3(example.source) for example in examples],
        ORACLE: [oracle(example.source, example.references) for example in examples],
    }
    if len(examples) > 1:
        found[FLOOR] = others([example.references for example in examples])
    return found


def _with_cut_off(scored: Scored, generations: Sequence[Generation] | None) -> Scored:
    if generations is None:
        return scored
    cut = [generation.finish_reason == "length" for generation in generations]
    value = share_of("cut-off", "summaries that ended at the token limit x100", cut, [1] * len(cut))
    return Scored([*scored.values, value], [*scored.scores, *score_rows([value])], scored.notes)


def _compare_with(systems: dict[str, Scored], judged: str, against: Sequence[str]) -> dict[str, list[Difference]]:
    """Holm's correction runs over all of them together."""
    wanted = headline(metric.name for metric in systems[judged].values)
    ours = [metric for metric in systems[judged].values if metric.name in wanted]
    found = {system: differences(systems[system].values, ours) for system in against}
    corrected = iter(holm([difference for each in found.values() for difference in each]))
    return {system: [next(corrected) for _ in each] for system, each in found.items()}


def _warnings(
    examples: list[Example], predictions: dict[str, list[str]], sources_cut: int, settings: Mapping[str, Any]
) -> list[str]:
    rows = len(examples)
    notes = []
    if rows < 100:
        notes.append(f"Only {rows:,} rows: differences of a few points mean little, however they look.")
    if sources_cut:
        limit = settings.get("max_source_tokens")
        notes.append(
            f"{sources_cut:,} of {rows:,} sources are longer than {limit} tokens: the model read their beginning."
        )
    for system, texts in predictions.items():
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
    untuned.engine = TorchEngine(model, config.generate.batch_tokens)
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


def _folder_name(spec: str) -> str:
    """A readable name that no other data shares: `../data/test.jsonl[:96]` becomes `test-96-` and six hex digits."""
    readable = re.sub(r"[^\w.%]+", "-", re.sub(r"\.jsonl?(?=\[|@|$)", "", spec.rpartition("/")[2])).strip("-.")
    return f"{readable or 'data'}-{hashlib.sha256(str(Path(spec).absolute()).encode()).hexdigest()[:6]}"


def _require_plain(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name}: letters, digits, dots, dashes and underscores only; it becomes a folder.")
