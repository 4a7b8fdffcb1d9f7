"""Every generator of random numbers that training may draw from, whoever draws: dropout, libraries, our own code."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, process: int) -> None:
    """The first process draws what it would draw alone; of several, each drops out something else."""
    both = f"{seed}/{process}"
    random.seed(both)
    np.random.seed(np.random.SeedSequence([seed, process]).generate_state(4))
    torch.manual_seed(seed if process == 0 else random.Random(both).getrandbits(63))


def random_state() -> dict[str, Any]:
    """Where all of them stand in this process, as tensors, numbers and texts."""
    version, words, gauss = random.getstate()
    name, key, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, [int(word) for word in key], *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, key, *rest = state["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
