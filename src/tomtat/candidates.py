"""Several summaries of each row drawn from a run, scored: what `tomtat train --candidates` learns from."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from tomtat.candidate_file import FILE, Candidate, CandidateFile, Header
from tomtat.data import DataOptions, load
from tomtat.engines.torch_engine import TorchEngine
from tomtat.errors import ConfigError, Interrupted
from tomtat.files import sha256_of
from tomtat.metrics.rouge import Rouge, choose_protocol
from tomtat.metrics.values import Rows
from tomtat.models import Decoding
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.ranking import best
from tomtat.run_folder import RunFolder
from tomtat.summarizer import Summarizer
from tomtat.types import Example, Generation

WINDOW = 16
"""Rows written and synced together: what a kill may cost."""


@dataclass(frozen=True)
class Draw:
    """How candidates are drawn; the first of a row is always the greedy one."""

    count: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Room:
    """Mean scores over rows: how much better than the greedy summaries those at hand are."""

    path: Path
    rows: int
    greedy: float
    mean: float
    """Of all candidates."""
    mbr: float
    """Of the one chosen without looking at references, as `--decode mbr` does."""
    oracle: float
    """Of the best one."""
    recipe: str


def draw_candidates(
    run: RunFolder | Path | str,
    data: str | None = None,
    draw: Draw | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    base: str | None = None,
    progress: Progress | None = None,
) -> Room:
    """Draw candidates for each row of the run's training split (or of `data`), score and write them.

    What a stopped one has written is kept: the same call goes on.
    """
    progress = progress or Progress()
    draw = draw or Draw()
    _check(draw)
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    path = Path(out) if out else folder.path / FILE
    _require_writable(path)
    config = folder.config
    spec = data or config.data.train
    options = DataOptions(
        config.data.source_field,
        config.data.summary_field,
        on_bad_row=config.data.on_bad_row,
        or_usual=data is not None,
    )
    examples = load(spec, options).examples
    rouge = Rouge(*choose_protocol(config.evaluate.rouge_words, Rows([example.references for example in examples])))
    summarizer = Summarizer.load(folder, device, base=base)
    decoding = Decoding(
        max_new_tokens=summarizer.decoding.max_new_tokens,
        no_repeat_ngram=summarizer.decoding.no_repeat_ngram,
        temperature=draw.temperature,
        top_p=draw.top_p,
        candidates=draw.count,
        seed=draw.seed,
    )
    header = Header(
        candidates_of=str(folder.path),
        weights_sha256=sha256_of(*sorted(folder.trained_path.glob("*.safetensors"))),
        data=spec,
        max_source_tokens=summarizer.max_source_tokens,
        decoding=asdict(decoding),
        score=rouge.mean_recipe,
    )
    with CandidateFile.opened(path, header) as file:
        file.require_same(examples)
        _fill(file, examples, summarizer, decoding, rouge, progress)
        return _room(file, examples, rouge)


def _require_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
        raise ConfigError(f"--out {path} {what}. Name a file in a folder that exists.")


def _check(draw: Draw) -> None:
    if draw.count < 2:
        raise ConfigError(f"--count {draw.count}: at least 2 candidates are needed, to have a better and a worse one.")
    if draw.temperature <= 0:
        raise ConfigError(f"--temperature {draw.temperature}: above 0, or all candidates are the same.")
    if not 0 < draw.top_p <= 1:
        raise ConfigError(f"--top-p {draw.top_p}: above 0 and at most 1.")


def _fill(
    file: CandidateFile,
    examples: list[Example],
    summarizer: Summarizer,
    decoding: Decoding,
    rouge: Rouge,
    progress: Progress,
) -> None:
    missing = [example for example in examples if example.id not in file.rows]
    done = len(examples) - len(missing)
    if done and missing:
        progress.note(f"{done:,} of {len(examples):,} rows stand in {file.path} already: going on")
    finished = _drawn(missing, summarizer, decoding, rouge)
    try:
        with progress.task("candidates", len(examples), done=done) as advance:
            while window := list(islice(finished, WINDOW)):
                file.append([example for example, _ in window], [found for _, found in window])
                advance(len(window))
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped after {len(file.rows):,} of {len(examples):,} rows. The same command goes on."
        ) from None


def _drawn(
    examples: list[Example], summarizer: Summarizer, decoding: Decoding, rouge: Rouge
) -> Iterator[tuple[Example, list[Candidate]]]:
    """Rows as they come. Training reads the beginning of a long source, so the candidates are of that too."""
    engine = summarizer.engine
    assert isinstance(engine, TorchEngine)
    rows = [engine.model.encode(source_text(row.source), None, summarizer.max_source_tokens) for row in examples]
    for number, generations in engine.finished(rows, decoding):
        example = examples[number]
        yield example, [_candidate(generation, example, rouge) for generation in generations]


def _candidate(generation: Generation, example: Example, rouge: Rouge) -> Candidate:
    score = rouge.mean(generation.text, example.references)
    return Candidate(generation.text, score, generation.finish_reason == "length")


def _room(file: CandidateFile, examples: list[Example], rouge: Rouge) -> Room:
    found = file.of(examples)

    def mean(scores: list[float]) -> float:
        return sum(scores) / len(scores)

    chosen = [
        row[best([one.text for one in row], source_text(example.source))]
        for example, row in zip(examples, found, strict=True)
    ]
    return Room(
        path=file.path,
        rows=len(examples),
        greedy=mean([row[0].score for row in found]),
        mean=mean([mean([one.score for one in row]) for row in found]),
        mbr=mean([one.score for one in chosen]),
        oracle=mean([max(one.score for one in row) for row in found]),
        recipe=rouge.mean_recipe,
    )
