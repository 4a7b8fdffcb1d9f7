"""Trainings by `accelerate launch --use_fsdp`, and each once more with whole weights in all processes.

Given a file of settings by name; beside it are written the run folders NAME-fsdp and NAME-whole, and memory.json: what a
process held of the frozen weights between two steps, over what all of them take.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from accelerate import Accelerator

import tomtat
from tomtat.training.launch import fsdp_unsaid
from tomtat.training.loop import Trainer

step = Trainer._step
memory: dict[str, float] = {}


def measured_step(self: Trainer, rows: Sequence[int]) -> float:
    loss = step(self, rows)
    frozen = [weight for weight in self.model.network.parameters() if not weight.requires_grad]
    held = {weight.untyped_storage()._cdata: weight.untyped_storage().nbytes() for weight in frozen}
    own = self.shards.own_bytes if self.shards else 0
    name = f"{self.folder.path.name}-{self.accelerator.process_index}"
    memory[name] = (own + sum(held.values())) / sum(weight.nbytes for weight in frozen)
    return loss


Accelerator.end_training = lambda self: None  # it would part the processes after the first run
folder = Path(sys.argv[1]).parent
for name, settings in json.loads(Path(sys.argv[1]).read_text()).items():
    for way, context in (("fsdp", nullcontext), ("whole", fsdp_unsaid)):
        os.environ["TOMTAT_STATES"] = str(folder / f"states-{way}")
        with context(), patch.object(Trainer, "_step", measured_step):
            tomtat.finetune(settings=settings, out=folder / f"{name}-{way}")
(folder / f"memory-{os.environ['RANK']}.json").write_text(json.dumps(memory))
