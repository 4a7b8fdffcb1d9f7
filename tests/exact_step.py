"""One optimizer step of a run over its first eight rows: the loss, and the gradient of the whole batch.

Called by tests, and started by `accelerate launch` with a file of settings, to do the same in several processes.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import tomtat
from tomtat.training import loop
from tomtat.training.loop import Place, Trainer

EXACT = {
    "model.precision": "fp32",
    "model.device": "cpu",
    "train.batch_size": 8,
    "train.epochs": 1,
    "train.max_grad_norm": 1e9,  # what is clipped would be compared, else
    "lora.rank": 4,
    "lora.alpha": 4.0,
    "lora.init": False,  # B is not zero, so that A has a gradient
}


def first_step(
    settings: dict[str, Any], out: Path, pieces: int | None = None, order: Sequence[int] = range(8)
) -> tuple[float, torch.Tensor]:
    """Mean loss and the gradient as one vector; `pieces` cuts the batch as it comes, in place of the token budget."""
    caught: dict[str, Any] = {}

    def one_step(self: Trainer) -> Place:
        def catch(*_: object) -> None:
            caught["gradient"] = torch.cat([p.grad.flatten().clone() for p in self.masters.parameters()])

        self.optimizer.register_step_pre_hook(catch)
        caught["loss"] = self._step(list(order))
        return self.place

    def cut(rows: Sequence[int], lengths: Sequence[int], budget: int) -> list[Sequence[int]]:
        size = -(-len(rows) // (pieces or 1))
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    with (
        patch.object(Trainer, "_run", one_step),
        patch.object(loop, "micro_batches", cut if pieces else loop.micro_batches),
    ):
        tomtat.finetune(settings=settings, out=out)
    return caught["loss"], caught["gradient"]


if __name__ == "__main__":
    from accelerate import Accelerator

    Accelerator.end_training = lambda self: None  # it would part the processes after the first run
    for name, settings in json.loads(Path(sys.argv[1]).read_text()).items():
        folder = Path(sys.argv[1]).parent
        result = first_step(settings, folder / f"two-{name}")
        torch.save(result, folder / f"{name}-{torch.distributed.get_rank()}.pt")
