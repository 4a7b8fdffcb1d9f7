"""Does an exported model say what the run says? Ten inputs, greedy, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tomtat.data import load_examples
from tomtat.errors import ModelError
from tomtat.exporting.runners import Runner, torch_runner, until_end
from tomtat.models import Encoded, SummarizerModel
from tomtat.models.decoding import NEAR_TIE
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.quiet import quiet_transformers
from tomtat.types import Source

INPUTS = ("chats@validation[:6]", "chats@train[:4]")
"""Bundled conversations: six and four. Nothing is chosen or reported by them, so training rows serve as well."""


@dataclass(frozen=True)
class Check:
    """How summaries of an exported model compare with the run's own."""

    count: int
    same: int
    near_ties: int
    """Differing summaries that part ways at two tokens with nearly the same logit."""
    first_difference: tuple[str, str] | None
    """The run's summary and the exported model's, where they differ for no such reason."""
    rouge_l: float
    """ROUGE-L F x100 between the two sets of summaries."""

    @property
    def passes(self) -> bool:
        return self.same + self.near_ties == self.count

    def __str__(self) -> str:
        ties = f" ({self.near_ties} more part at a near-tie of two tokens)" if self.near_ties else ""
        told = "" if self.same == self.count else f"; ROUGE-L between the two sets {self.rouge_l:.1f}"
        return f"{self.same} of {self.count} summaries the same{ties}{told}"


def inputs() -> list[Source]:
    return [example.source for spec in INPUTS for example in load_examples(spec)]


def check(
    model: SummarizerModel, exported: Runner, max_source_tokens: int, new_tokens: int, progress: Progress
) -> Check:
    """Summaries of the ten inputs by the run's model and by what was exported."""
    rows = [model.encode(source_text(source), None, max_source_tokens) for source in inputs()]
    ends = model.end_token_ids()
    progress.note(f"checking: {len(rows)} summaries by the run, then by what was exported")
    ours, theirs = (
        [until_end(ids, ends) for ids in runner(rows, new_tokens)] for runner in (torch_runner(model), exported)
    )
    return _compare(model, rows, list(zip(ours, theirs, strict=True)))


def _compare(model: SummarizerModel, rows: Sequence[Encoded], pairs: Sequence[tuple[list[int], list[int]]]) -> Check:
    texts = [(_text(model, ours), _text(model, theirs)) for ours, theirs in pairs]
    parting = [number for number, (ours, theirs) in enumerate(texts) if ours != theirs]
    ties = [number for number in parting if _logit_gap(model, rows[number], *pairs[number]) < NEAR_TIE]
    unexplained = [number for number in parting if number not in ties]
    return Check(
        count=len(rows),
        same=len(rows) - len(parting),
        near_ties=len(ties),
        first_difference=texts[unexplained[0]] if unexplained else None,
        rouge_l=_rouge_l(texts),
    )


def _text(model: SummarizerModel, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()


@torch.inference_mode()
def _logit_gap(model: SummarizerModel, row: Encoded, ours: Sequence[int], theirs: Sequence[int]) -> float:
    """By how much the run's model prefers its own token where the two part ways."""
    both = list(zip(ours, theirs, strict=False))
    place = next((number for number, (a, b) in enumerate(both) if a != b), None)
    if place is None:
        return float("inf")  # one stopped where the other went on, with no end token
    logits, _ = model.target_logits([Encoded(row.prompt_ids, list(ours[: place + 1]))])
    return float(logits[-1, ours[place]] - logits[-1, theirs[place]])


def _rouge_l(texts: Sequence[tuple[str, str]]) -> float:
    from tomtat.metrics.rouge import Rouge

    rouge = Rouge("unicode")
    return sum(rouge.row(theirs, [ours])["rougeL"][0] for ours, theirs in texts) / len(texts)


def require_same_tokens(model: SummarizerModel, tokenizer: Any, what: str) -> None:
    """The tokenizer beside the exported weights cuts text as the run's does."""
    texts = [source_text(source) for source in inputs()]
    with quiet_transformers():  # these texts are not cut to the model's length, and need not be
        ours, theirs = ([cut(text)["input_ids"] for text in texts] for cut in (model.tokenizer, tokenizer))
    if ours != theirs:
        raise ModelError(f"The tokenizer of {what} cuts text otherwise than the run's. Export --to merged instead.")
