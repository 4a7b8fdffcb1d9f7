"""How the learning rate moves over a run."""

import math
from collections.abc import Callable


def rate_factor(schedule: str, steps: int, warmup: float) -> Callable[[int], float]:
    """Share of the full rate for each step, counted from 0.

    The rate rises over the first `warmup` of all steps, and the first step already has its part of it: one that starts
    at zero, as Transformers' do, goes through a whole batch and changes nothing. Then it stays, or falls towards zero.
    """
    rising = math.ceil(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        done = (step - rising) / max(1, steps - rising)
        falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return max(0.0, falls[schedule])

    return factor
