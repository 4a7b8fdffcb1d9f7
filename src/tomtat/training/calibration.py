"""What calibration goes on from: a run's weights, and candidates that were drawn and scored before."""

from collections.abc import Sequence
from pathlib import Path

from tomtat.candidate_file import FILE, Candidate, CandidateFile
from tomtat.config import RunConfig
from tomtat.errors import DataError
from tomtat.files import sha256_of
from tomtat.progress import Progress
from tomtat.ranking import likeness
from tomtat.run_folder import RunFolder
from tomtat.types import Example

SAME_FROM = 0.9
"""Likeness of two candidates from which the worse one teaches nothing new."""


def load_candidates(config: RunConfig, examples: list[Example], progress: Progress) -> list[list[Candidate]]:
    """Those of each training row that are worth ranking; no list at all in plain training."""
    if config.calibrate.run is None:
        return []
    folder = RunFolder.open(config.calibrate.run)
    file = CandidateFile.read(Path(config.calibrate.file or folder.path / FILE))
    found = file.of(examples)
    if file.header.get("weights_sha256") != _weights_sha256(folder):
        progress.note(f"Careful: the candidates in {file.path} are of other weights than those of {folder.path}")
    kept = [worth_ranking(row, config.calibrate.max_candidates) for row in found]
    count, rankable = sum(map(len, kept)), sum(len(row) > 1 for row in kept)
    progress.note(f"{count:,} candidates to rank; {rankable:,} of {len(kept):,} rows have a better and a worse one")
    if not rankable:
        raise DataError(f"{file.path}: no row has two candidates of different scores. Draw more, or hotter.")
    return kept


def start_weights(config: RunConfig) -> dict[str, str] | None:
    run = config.calibrate.run
    return {"run": run, "weights_sha256": _weights_sha256(RunFolder.open(run))} if run else None


def _weights_sha256(folder: RunFolder) -> str:
    return sha256_of(*sorted(folder.trained_path.glob("*.safetensors")))


def worth_ranking(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Different ones of different scores, the best first: the best, the worst, and some between by even steps."""
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: -one.score):
        if not kept or (
            one.score < kept[-1].score and all(likeness(one.text, other.text) < SAME_FROM for other in kept)
        ):
            kept.append(one)
    if len(kept) <= most:
        return kept
    return [kept[round(number * (len(kept) - 1) / (most - 1))] for number in range(most)]
