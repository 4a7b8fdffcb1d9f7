"""The training loop.

The loss is a mean over the whole effective batch (objectives.py says of what: real target tokens, or rows): each
micro-batch's sum is divided by the weight of all micro-batches and all processes, and gradients are summed. So neither
the cut into micro-batches nor the number of processes changes what a step does.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tomtat.batching import micro_batches
from tomtat.config import RunConfig
from tomtat.errors import Interrupted, RunError, TomtatError
from tomtat.files import is_disk_full, recover_folder, replace_folder
from tomtat.models import SummarizerModel
from tomtat.models.adapters import save_adapter
from tomtat.models.attention import quick_attention
from tomtat.models.dropout import quick_dropout
from tomtat.models.fused import fused_lora
from tomtat.models.loading import TrainedInfo
from tomtat.models.quick_layers import quick_layers
from tomtat.models.shards import Shards
from tomtat.progress import Progress
from tomtat.quiet import quiet_transformers
from tomtat.run_folder import RunFolder
from tomtat.training.batches import epoch_batches
from tomtat.training.cache import open_states
from tomtat.training.checkpoints import save_checkpoint
from tomtat.training.interrupt import stop_on_signal
from tomtat.training.judging import Judge
from tomtat.training.masters import MasterWeights
from tomtat.training.objectives import CrossEntropy, TrainingData, objective_for
from tomtat.training.random_numbers import random_state, seed_all, set_random_state
from tomtat.training.schedule import rate_factor


@dataclass(frozen=True)
class Place:
    """How far a run has come; what a checkpoint stores besides tensors."""

    epoch: int = 1
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Over the epoch so far."""
    weight: int = 0
    """What `loss_sum` is divided by."""
    epoch_seconds: float = 0.0
    best: float = -math.inf
    """How well the kept weights were judged."""
    best_epoch: int = 0
    metric_rows: int = 0

    @property
    def epochs_without_gain(self) -> int:
        return self.epoch - 1 - self.best_epoch


@dataclass(frozen=True)
class Judgement:
    """What validation data say of the weights as they are."""

    loss: float | None
    """Mean per target token, in nats; None without validation rows."""
    score: float | None
    """Mean ROUGE of greedy summaries, where the choice is made by it."""

    @property
    def value(self) -> float | None:
        """Larger is better."""
        if self.score is not None:
            return self.score
        return -self.loss if self.loss is not None else None

    def __str__(self) -> str:
        loss = f", validation loss {self.loss:.3f}" if self.loss is not None else ""
        return loss + (f", ROUGE of validation summaries {self.score:.2f}" if self.score is not None else "")


class Trainer:
    """One run: a model whose trainable weights are chosen, its data, and the folder it is kept in."""

    def __init__(
        self,
        model: SummarizerModel,
        data: TrainingData,
        config: RunConfig,
        folder: RunFolder,
        trained_info: TrainedInfo,
        accelerator: Any,
        progress: Progress,
        initial_adapter: Path | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.settings = config.train
        self.folder = folder
        self.trained_info = trained_info
        self.accelerator = accelerator
        self.progress = progress
        self.initial_adapter = initial_adapter
        self.shards = shards
        with self._together():
            self.frozen = open_states(model, data.seen_each_epoch, config.train, progress)
        self.objective = objective_for(model, data, config.calibrate, self.frozen)
        by_rouge = self.settings.choose_by == "rouge" and bool(data.validation)
        self.judge = Judge(model, data, config, trained_info.decoding) if by_rouge else None
        self.steps_per_epoch = math.ceil(len(data.train) / self.settings.batch_size)
        self.masters = MasterWeights(model.network)
        self.optimizer = torch.optim.AdamW(
            self.masters.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        steps = self.steps_per_epoch * self.settings.epochs
        factor = rate_factor(self.settings.schedule, steps, self.settings.warmup)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.place = Place()
        seed_all(config.seed, accelerator.process_index)

    def run(self) -> Place:
        """Train to the end from wherever we are. Raises Interrupted after a signal, the checkpoint written."""
        network = self.model.network
        with quick_attention(), quick_layers(network), quick_dropout(network), fused_lora(network):
            return self._run()

    def _run(self) -> Place:
        if self.config.calibrate.run and not self.place.metric_rows:
            self._judge_start()
        done = (self.place.epoch - 1) * len(self.data.train) + self.place.step_in_epoch * self.settings.batch_size
        total = len(self.data.train) * self.settings.epochs
        with (
            self._full_disk_told(),
            stop_on_signal() as stop,
            self.progress.task("training", total, done=done) as advance,
        ):
            saved_at = time.monotonic()
            while self.place.epoch <= self.settings.epochs and not self._is_patience_over():
                batches = epoch_batches(
                    self.objective.rough_lengths, self.settings.batch_size, self.config.seed, self.place.epoch
                )
                for rows in batches[self.place.step_in_epoch :]:
                    loss = self._step(rows)
                    advance(len(rows), f"loss {loss:.3f}")
                    if self._any_process(stop.requested):
                        self._checkpoint()
                        raise self._interrupted()
                    # All processes write or none: each adds its random numbers, and their clocks differ.
                    if self._any_process(time.monotonic() - saved_at > 60 * self.settings.checkpoint_minutes):
                        self._checkpoint()
                        saved_at = time.monotonic()
                self._end_epoch()
                self._checkpoint()
                saved_at = time.monotonic()
                pauses = stop.requested or self.progress.pauses_after(self.place.epoch - 1)
                if self._any_process(pauses) and self.place.epoch <= self.settings.epochs:
                    raise self._interrupted()
        return self.place

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"Stopped at step {self.place.step} of {self.steps_per_epoch * self.settings.epochs}, "
            f"checkpoint written. Go on with: tomtat train --resume {self.folder.path}"
        )

    def _step(self, rows: Sequence[int]) -> float:
        """One optimizer step over an effective batch; returns its mean loss."""
        started = time.monotonic()
        self.model.network.train()
        weight = self.objective.weight(rows)
        loss_sum = 0.0
        with self._together():
            for piece in micro_batches(self._share(rows), self.objective.lengths, self.settings.micro_batch_tokens):
                loss = self.objective.loss_sum(piece)
                (loss / weight).backward()
                self.masters.collect_gradients()
                loss_sum += loss.item()
        loss_sum = self._sum_over_processes(loss_sum)
        self._require_finite(loss_sum, "loss")
        learning_rate = self.scheduler.get_last_lr()[0]
        grad_norm = self._update()
        seconds = time.monotonic() - started
        self.place = replace(
            self.place,
            step=self.place.step + 1,
            step_in_epoch=self.place.step_in_epoch + 1,
            loss_sum=self.place.loss_sum + loss_sum,
            weight=self.place.weight + weight,
            epoch_seconds=self.place.epoch_seconds + seconds,
        )
        self._log(
            kind="step",
            step=self.place.step,
            epoch=self.place.epoch,
            loss=loss_sum / weight,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            seconds=seconds,
        )
        return loss_sum / weight

    def _update(self) -> float:
        parameters = self.masters.parameters()
        if self.accelerator.num_processes > 1:
            # Adapters are small: one sum over all processes per step is cheaper than DDP's buckets, and exact whatever
            # share of the rows each process has.
            for parameter in parameters:
                gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                parameter.grad = self.accelerator.reduce(gradient, reduction="sum")
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        self._require_finite(float(grad_norm), "gradient")
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.masters.publish()
        return float(grad_norm)

    def _require_finite(self, value: float, what: str) -> None:
        """Stop before a step or a save that would put NaN into the weights; the last checkpoint is still good."""
        if not math.isfinite(value):
            raise TomtatError(
                f"The {what} is {value} near step {self.place.step + 1}. "
                "Lower train.learning_rate, or try model.precision=fp32."
            )

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and write the epoch's row."""
        place = self.place
        judged = self._judge()
        is_best = self._keep_if_best(judged, place.epoch)
        train_loss = place.loss_sum / place.weight
        self._log(
            kind="epoch",
            epoch=place.epoch,
            train_loss=train_loss,
            validation_loss=judged.loss,
            **self._score_of(judged),
            seconds=place.epoch_seconds,
            examples_per_second=len(self.data.train) / place.epoch_seconds,
            is_best=is_best,
        )
        best = " (best so far)" if is_best and judged.value is not None else ""
        self.progress.note(f"epoch {place.epoch}/{self.settings.epochs}: training loss {train_loss:.3f}{judged}{best}")
        self.place = replace(
            self.place,
            epoch=place.epoch + 1,
            step_in_epoch=0,
            loss_sum=0.0,
            weight=0,
            epoch_seconds=0.0,
        )

    def _judge_start(self) -> None:
        """What calibration goes on from is kept unless it finds something better."""
        judged = self._judge()
        self._keep_if_best(judged, epoch=0)
        self._log(kind="start", validation_loss=judged.loss, **self._score_of(judged))
        if judged.value is not None:
            self.progress.note(f"before the first step{judged}")

    def _judge(self) -> Judgement:
        judged = Judgement(self._validation_loss(), self._validation_score())
        if judged.loss is not None:
            self._require_finite(judged.loss, "validation loss")
        return judged

    def _keep_if_best(self, judged: Judgement, epoch: int) -> bool:
        # Without validation rows the last epoch is the one kept.
        is_best = judged.value is None or judged.value > self.place.best
        if is_best:
            self._save_trained()
            best = self.place.best if judged.value is None else judged.value
            self.place = replace(self.place, best=best, best_epoch=epoch)
        return is_best

    @staticmethod
    def _score_of(judged: Judgement) -> dict[str, float]:
        return {} if judged.score is None else {"validation_rouge": judged.score}

    @torch.inference_mode()
    def _validation_loss(self) -> float | None:
        """Mean loss per target token, in nats."""
        rows = self.data.validation
        if not rows:
            return None
        self.model.network.eval()
        objective = CrossEntropy(self.model, rows, self.frozen)
        pieces = micro_batches(self._share(range(len(rows))), objective.lengths, self.settings.micro_batch_tokens)
        with self._together():
            loss_sum = sum(objective.loss_sum(piece).item() for piece in pieces)
        return self._sum_over_processes(loss_sum) / sum(len(row.target_ids) for row in rows)

    def _validation_score(self) -> float | None:
        """Mean ROUGE of greedy summaries, where the choice is made by it."""
        if self.judge is None:
            return None
        count = len(self.judge.rows)
        with self._together():
            score_sum = self.judge.score_sum(self._share(range(count)))
        return self._sum_over_processes(score_sum) / count

    def _is_patience_over(self) -> bool:
        patience = self.settings.patience
        if not patience or not self.data.validation or self.place.epochs_without_gain < patience:
            return False
        self.progress.note(f"nothing better on validation data for {patience} epochs: stopping early")
        return True

    def _save_trained(self) -> None:
        if not self.accelerator.is_main_process:
            return
        is_lora = self.model.peft is not None
        path = self.folder.adapter_path if is_lora else self.folder.model_path
        with replace_folder(path) as new, self.masters.in_network(), quiet_transformers():
            if is_lora:
                save_adapter(self.model.peft, new, self.initial_adapter)
            else:
                self.model.network.save_pretrained(new)
                self.model.save_tokenizer(new)
            self.trained_info.save(new)

    def _checkpoint(self) -> None:
        random_numbers = self._gather(random_state())
        if not self.accelerator.is_main_process:
            return
        state = {
            "place": asdict(self.place),
            "masters": self.masters.state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random_numbers,
        }
        self.folder.sync_metrics()
        save_checkpoint(self.folder.checkpoints_path, self.place.step, state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint; metrics written after it are cut."""
        self.place = Place(**state["place"])
        self.masters.load(state["masters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        random_numbers = state["random"]
        if self.accelerator.process_index < len(random_numbers):  # of more processes than before, the others begin anew
            set_random_state(random_numbers[self.accelerator.process_index])
        if self.accelerator.is_main_process:
            recover_folder(self.folder.adapter_path if self.model.peft is not None else self.folder.model_path)
            self.folder.keep_metrics(self.place.metric_rows)

    @contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise RunError(
                f"No room left on the disk of {self.folder.path} after step {self.place.step}; what was saved before "
                f"is whole. Make room, then go on: tomtat train --resume {self.folder.path}"
            ) from None

    def _log(self, **row: Any) -> None:
        self.place = replace(self.place, metric_rows=self.place.metric_rows + 1)
        if self.accelerator.is_main_process:
            self.folder.log(row)
        numbers = {f"{row['kind']}/{name}": value for name, value in row.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=self.place.step)

    def _together(self) -> AbstractContextManager[None]:
        """Around all that runs the network."""
        return self.shards.together() if self.shards else nullcontext()

    def _share(self, rows: Sequence[int]) -> Sequence[int]:
        """This process's part of some rows."""
        return rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def _sum_over_processes(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.model.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))

    def _gather(self, value: Any) -> list[Any]:
        """One process's value each, in their order."""
        if self.accelerator.num_processes == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def _any_process(self, flag: bool) -> bool:
        return self._sum_over_processes(float(flag)) > 0
