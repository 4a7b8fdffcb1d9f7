"""Run a summarizer over examples, score it beside the untuned model and lead-3, keep it all in the run folder."""

import hashlib
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tomtat.data import DataOptions, Reject, load
from tomtat.engines import TorchEngine
from tomtat.errors import ConfigError, DataError
from tomtat.evaluation.yardsticks import lead3
from tomtat.files import replace_folder, write_json, write_json_lines
from tomtat.metrics import score_all
from tomtat.models import Encoded, load_base
from tomtat.models.loading import warn_if_another_base
from tomtat.models.precision import cast_parameters
from tomtat.progress import Progress
from tomtat.run_folder import RunFolder
from tomtat.summarizer import Summarizer
from tomtat.types import Example, Generation, Score

TUNED, UNTUNED, LEAD3 = "tuned", "untuned", "lead-3"
REJECTS = "rejects.evaluation.jsonl"
"""Not the run's own rejects file: that one holds training rows."""


@dataclass(frozen=True)
class Evaluation:
    """Scores and summaries of several systems on the same rows."""

    data: str
    examples: list[Example]
    predictions: dict[str, list[str]]
    """By system, in the examples' order."""
    scores: dict[str, list[Score]]
    words: dict[str, float]
    """Mean length of each system's summaries, in words."""
    cut_off: dict[str, int]
    """Summaries that ended at the token limit, by system that has one."""
    sources_cut: int
    """Sources longer than the input limit."""
    path: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def score(self, name: str, system: str = TUNED) -> Score:
        found = next((score for score in self.scores[system] if score.name == name), None)
        if found is None:
            raise KeyError(f"{name}; there are {', '.join(score.name for score in self.scores[system])}")
        return found

    def table(self) -> str:
        """Systems by metrics as plain text, the tuned model last."""
        names = [score.name for score in self.scores[TUNED]]
        lines = [["", *names, "words"]]
        for system, scores in self.scores.items():
            lines.append([system, *(f"{score.value:.2f}" for score in scores), f"{self.words[system]:.0f}"])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "rows": len(self.examples),
            "sources_cut": self.sources_cut,
            "generation": self.settings,
            "systems": {
                system: {
                    "words": self.words[system],
                    "cut_off": self.cut_off.get(system),
                    "scores": {score.name: _without_name(score) for score in scores},
                }
                for system, scores in self.scores.items()
            },
        }


def evaluate(
    run: RunFolder | Path | str,
    data: str | None = None,
    name: str | None = None,
    yardsticks: bool = True,
    device: str = "auto",
    on_bad_row: str | None = None,
    base: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a run on its configured test split, or on other data.

    Files go to the run folder's top for the test split, else to `evaluations/NAME`; `name` is made from `data` if not
    given. With `yardsticks` the untuned model and lead-3 are scored on the same rows.
    """
    progress = progress or Progress()
    if name is not None:
        _require_plain(name)
    folder = run if isinstance(run, RunFolder) else RunFolder.open(os.fspath(run))
    config = folder.config
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
    rows = _encode(summarizer, loaded.examples, progress)
    generations = {UNTUNED: _untuned(summarizer, rows, folder, base, progress)} if yardsticks else {}
    generations[TUNED] = summarizer.engine.generate(rows, summarizer.decoding, progress, "tuned model")
    predictions = {LEAD3: [lead3(example.source) for example in loaded.examples]} if yardsticks else {}
    predictions |= {system: [generation.text for generation in results] for system, results in generations.items()}

    progress.note(f"scoring {len(rows):,} rows")
    references = [example.references for example in loaded.examples]
    evaluation = Evaluation(
        data=spec,
        examples=loaded.examples,
        predictions=predictions,
        scores={system: score_all(texts, references) for system, texts in predictions.items()},
        words={system: sum(len(text.split()) for text in texts) / len(texts) for system, texts in predictions.items()},
        cut_off={system: sum(g.finish_reason == "length" for g in results) for system, results in generations.items()},
        sources_cut=sum(row.source_was_cut for row in rows),
        path=folder.evaluation_path(None if data is None and name is None else name or _folder_name(spec)),
        settings={
            **asdict(summarizer.decoding),
            "max_source_tokens": summarizer.max_source_tokens,
            "precision": str(summarizer.model.dtype).removeprefix("torch."),
            "device": str(summarizer.model.device),
        },
    )
    _write(evaluation, loaded.rejects, progress)
    return evaluation


def _encode(summarizer: Summarizer, examples: list[Example], progress: Progress) -> list[Encoded]:
    rows = summarizer.encode(example.source for example in examples)
    if cut := sum(row.source_was_cut for row in rows):
        limit = summarizer.max_source_tokens
        progress.note(f"{cut:,} of {len(rows):,} texts are longer than {limit} tokens: only their beginning was read")
    return rows


def _untuned(
    summarizer: Summarizer, rows: list[Encoded], folder: RunFolder, base: str | None, progress: Progress
) -> list[Generation]:
    """What the base writes for the same prompts under the same limits."""
    name = "untuned model"
    if summarizer.model.peft is not None:
        with summarizer.model.untuned():
            return summarizer.engine.generate(rows, summarizer.decoding, progress, name)
    config = folder.config
    model = load_base(config.model.model_copy(update={"name": base or config.model.name}), config.prompt)
    warn_if_another_base(model.source, folder.info()["base"])
    cast_parameters(model.network, summarizer.model.dtype)
    model.network.to(summarizer.model.device)
    return TorchEngine(model, config.generate.batch_tokens).generate(rows, summarizer.decoding, progress, name)


def _write(evaluation: Evaluation, rejects: list[Reject], progress: Progress) -> None:
    """Into a folder of its own whole or not at all; at the run's top, where much else lies, file by file."""
    if evaluation.path.parent.name == "evaluations":
        with replace_folder(evaluation.path) as new:
            _write_files(new, evaluation, rejects)
    else:
        _write_files(evaluation.path, evaluation, rejects)
    if rejects:
        progress.note(f"{len(rejects):,} bad rows left out; they lie with their reasons in {evaluation.path / REJECTS}")


def _write_files(path: Path, evaluation: Evaluation, rejects: list[Reject]) -> None:
    ids = [example.id for example in evaluation.examples]
    for system, texts in evaluation.predictions.items():
        file = "predictions.jsonl" if system == TUNED else f"predictions.{system}.jsonl"
        rows = [{"id": row_id, "prediction": text} for row_id, text in zip(ids, texts, strict=True)]
        write_json_lines(path / file, rows)
    write_json(path / "scores.json", evaluation.as_dict())
    if rejects:
        write_json_lines(path / REJECTS, (asdict(reject) for reject in rejects))


def _without_name(score: Score) -> dict[str, Any]:
    return {"value": score.value, "low": score.low, "high": score.high, "recipe": score.recipe}


def _folder_name(spec: str) -> str:
    """A readable name that no other data shares: `../data/test.jsonl[:96]` becomes `test-96-` and six hex digits."""
    readable = re.sub(r"[^\w.%]+", "-", re.sub(r"\.jsonl?(?=\[|@|$)", "", spec.rpartition("/")[2])).strip("-.")
    return f"{readable or 'data'}-{hashlib.sha256(str(Path(spec).absolute()).encode()).hexdigest()[:6]}"


def _require_plain(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name}: letters, digits, dots, dashes and underscores only; it becomes a folder.")
