"""Which of several models is the better one over several noises: mean ranks and what difference of them is critical.

After Demšar (2006), with noises in the place of data sets: Friedman's test asks whether the models differ at all,
Nemenyi's critical difference says how far two mean ranks have to lie apart. Both take the noises for independent, which
noises on one data set, met by the same trained models, are not quite: they tell over which of *these* noises a model
leads, not that it would lead on other data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrobust.contracts.randomness import generator
from mmrobust.robustness.distributions import range_quantile

__all__ = ["Ranks", "critical_difference", "friedman", "rank"]


@dataclass(frozen=True)
class Ranks:
    """How several models stand over several noises.

    Attributes:
        mean: Mean rank of each model, 1 for the best.
        p: Friedman's test: whether so different ranks could be luck.
        critical: How far apart two mean ranks have to be to be told from luck, 5 %.
    """

    mean: tuple[float, ...]
    p: float
    critical: float


def friedman(scores: Tensor, higher: bool, permutations: int = 10_000) -> Ranks:
    """Ranks models by their scores under each noise.

    Friedman's statistic is compared with what it is after the ranks of each noise were shuffled, since its usual
    distribution does not hold for a handful of noises.

    Args:
        scores: `noises models`, finite, at least 2 of each.
        higher: Whether higher scores are better.
        permutations: How many.
    """
    ranks = rank(-scores if higher else scores)
    count, models = ranks.shape
    spread = lambda x: (x.mean(-2) - (models + 1) / 2).square().sum(-1)  # Friedman's statistic but for a factor
    order = torch.rand(permutations, count, models, generator=generator(0, "friedman")).argsort(-1)
    again = spread(ranks.expand(permutations, count, models).gather(-1, order))
    beyond = (again >= spread(ranks) - 1e-9).sum().item()
    p = (1 + beyond) / (1 + permutations)
    return Ranks(tuple(ranks.mean(0).tolist()), p, critical_difference(models, count))


def rank(scores: Tensor) -> Tensor:
    """The rank of each score in its row, 1 for the lowest, float64; equal scores share the mean of their ranks."""
    below = (scores.unsqueeze(-2) < scores.unsqueeze(-1)).sum(-1)
    same = (scores.unsqueeze(-2) == scores.unsqueeze(-1)).sum(-1)
    return below + (same.double() + 1) / 2


def critical_difference(models: int, noises: int) -> float:
    """Nemenyi's critical difference at 5 % (Demšar, 2006, section 3.2.2)."""
    return range_quantile(models) / math.sqrt(2) * math.sqrt(models * (models + 1) / (6 * noises))
