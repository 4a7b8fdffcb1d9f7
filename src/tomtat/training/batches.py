"""Which examples make up each optimizer step."""

import random
from collections.abc import Sequence

WINDOW = 16
"""Batches sorted by length together: enough that neighbours are alike, few enough that an epoch stays shuffled."""


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each optimizer step of an epoch; every row once. The same seed and epoch give the same batches."""
    generator = random.Random(f"{seed}/{epoch}")
    rows = list(range(len(lengths)))
    generator.shuffle(rows)
    window = batch_size * WINDOW
    by_length = [
        row
        for start in range(0, len(rows), window)
        for row in sorted(rows[start : start + window], key=lambda r: lengths[r])
    ]
    batches = [by_length[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    generator.shuffle(batches)
    return batches
