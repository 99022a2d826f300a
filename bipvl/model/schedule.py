"""The learning-rate schedule of a training (paper, training protocol)."""

import math
from collections.abc import Callable

Schedule = Callable[[int, str], float]
"""(step, name of the parameter group) → factor of the group's peak learning rate."""


def cosine_schedule(steps: int, warmup: float) -> Schedule:
    """Cosine annealing to 0 over ``steps``; in a share ``warmup`` of them the rate first rises linearly."""
    rise = warmup * steps

    def factor(step: int, group: str) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))

    return factor
