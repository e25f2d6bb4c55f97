"""The learning rate over the steps and epochs of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import torch

from mmrobust.recipe.optimization import Cosine, Linear, Plateau, Schedule

__all__ = ["factor", "plateau"]


def factor(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
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
    if isinstance(schedule, Cosine):
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if isinstance(schedule, Linear) else 1.0


def plateau(schedule: Plateau, lr: float, scores: Sequence[float | None], better: Literal["higher", "lower"]) -> float:
    """The learning rate after some epochs, as `torch.optim.lr_scheduler.ReduceLROnPlateau` lowers it.

    It follows from the scores alone, which a checkpoint keeps, so that a resumed run needs nothing else.

    Args:
        schedule: When and how far it falls.
        lr: Where it begins.
        scores: The validation score of each epoch; None where it is undefined.
        better: Which scores are better.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    mode: Literal["max", "min"] = "max" if better == "higher" else "min"
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, eps=0.0, **asdict(schedule))
    for score in scores:
        scheduler.step(math.nan if score is None else score)
    return optimizer.param_groups[0]["lr"]
