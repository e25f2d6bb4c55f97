"""The learning rate over the steps of a training."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["factor"]


def factor(schedule: Literal["cosine", "linear", "constant"], step: int, steps: int, warmup: float) -> float:
    """What the learning rate is multiplied with at one step.

    Args:
        schedule: How it falls after the warm-up: along half a cosine, along a line, or not at all.
        step: From 0.
        steps: Steps of the whole training.
        warmup: Share of the steps over which it first rises in a line, 0 to 1.

    Returns:
        Above 0 up to 1: the first step already learns, and so does the last.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0
