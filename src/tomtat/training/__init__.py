"""Fine-tuning: one straight loop, the batches it takes, the weights it trains, the checkpoints it leaves."""

from tomtat.training.finetune import calibrate, finetune, resume

__all__ = ["calibrate", "finetune", "resume"]
