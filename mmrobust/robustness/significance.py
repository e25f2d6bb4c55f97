"""Whether the difference of two runs would show again with other test samples and other training seeds.

Two kinds of luck are estimated (k seeds of each run, scores y on the same n samples):

- seeds: the variance of each run's scores over its own seeds, divided by k. Each run has its own, so a run that
  scatters three times as much as another takes nothing from the test's validity (Welch, 1947);
- samples: the variance of the mean difference over paired bootstrap resamples of the test set, B. What one seed's model
  and the samples do together is in the seeds' variance already. It also makes the variance b of a single seed's
  difference larger than that of the mean of k, so (b - B) / (k - 1) is its share in B, and is taken away.

Their sum is the variance of a t statistic whose degrees of freedom are Satterthwaite's. A p-value so made has no
smallest step, as counted resamples have. In simulations without a difference, 3 to 7 % of the tests find one at 5 %
with three seeds or more; with two it is 2 to 9 %, most where one run scatters three times as much as the other
(`tests/robustness/test_significance.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrobust.robustness.distributions import quantile, two_sided

__all__ = ["Difference", "holm", "interval", "paired", "seeds_needed"]

_MOST = 1000  # seeds; more are not planned


@dataclass(frozen=True)
class Difference:
    """How much one run differs from another, and whether that can be told from luck.

    Attributes:
        value: Mean over the shared seeds.
        low: Lower end of its 95 % interval; None for fewer than two shared seeds.
        high: Upper end.
        p: Two-sided; None for fewer than two shared seeds.
        seeds: How many seeds both runs have.
        samples: Variance that the samples give the mean difference.
        spread: Variance of each run's scores over the seeds.
        size: Samples of the split.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: int = 0
    samples: float = math.nan
    spread: tuple[float, float] = (math.nan, math.nan)
    size: int = 0


def paired(reference: Mapping[int, Tensor], other: Mapping[int, Tensor], size: int) -> Difference:
    """How much a run differs from another, over the seeds that both have.

    Args:
        reference: Scores of each seed on the split and its resamples, `1 + resamples`.
        other: Those of the other run on the same resamples.
        size: Samples of the split.
    """
    seeds = [k for k in reference if k in other]
    if not seeds:
        return Difference(math.nan)
    first, second = (torch.stack([run[k] for k in seeds]) for run in (reference, other))  # k 1+resamples
    table, count = second - first, len(seeds)
    value = table[:, 0].mean().item()
    again = table[:, 1:]
    again = again[:, again.isfinite().all(0)]
    if count < 2 or size < 2 or again.shape[1] < 2 or not math.isfinite(value):
        return Difference(value, seeds=count)
    of_mean, of_one = again.mean(0).var().item(), again.var(1).mean().item()
    samples = max(0.0, of_mean - (of_one - of_mean) / (count - 1))
    spread = first[:, 0].var().item(), second[:, 0].var().item()
    variance, freedom = _together(samples, spread, count, size)
    if variance == 0:  # the very same predictions
        return Difference(value, value, value, 1.0 if value == 0 else 0.0, count, samples, spread, size)
    error = math.sqrt(variance)
    reach = quantile(0.025, freedom) * error
    p = two_sided(value / error, freedom)
    return Difference(value, value - reach, value + reach, p, count, samples, spread, size)


def _together(samples: float, spread: Sequence[float], count: int, size: int) -> tuple[float, float]:
    """Variance of the mean difference over so many seeds, and its degrees of freedom (Satterthwaite, 1946)."""
    each = [one / count for one in spread]
    variance = samples + sum(each)
    below = samples**2 / (size - 1) + sum(one**2 for one in each) / (count - 1)
    return variance, variance**2 / below if below > 0 else math.inf


def seeds_needed(found: Difference, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """How many seeds of each run would tell them apart, if they truly differ by as much as was found.

    The smallest k whose test has the power: `|d| >= (t(1 - alpha/2) + t(power)) * sqrt(samples + spread / k)`, both t
    at the degrees of freedom of k seeds. One comparison, not corrected for others. It is as rough as the difference and
    the spread that it is made of.

    Args:
        found: The difference, with its two kinds of luck.
        power: Probability of finding it.
        alpha: Probability of finding one where there is none.

    Returns:
        At least 2; None where 1000 do not suffice (the test split is too small), or nothing is known.
    """
    if not math.isfinite(found.samples) or found.value == 0:
        return None

    def enough(count: int) -> bool:
        variance, freedom = _together(found.samples, found.spread, count, found.size)
        freedom = min(1000.0, max(1.0, float(math.floor(freedom))))
        return abs(found.value) >= (quantile(alpha / 2, freedom) + quantile(1 - power, freedom)) * math.sqrt(variance)

    if not enough(_MOST):
        return None
    low, high = 1, _MOST  # `high` is enough, `low` is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean over seeds or folds: mean -/+ t * s / sqrt(n), n - 1 degrees of freedom.

    Args:
        values: One score of each seed or fold, `n`.
        level: How often the interval holds the true mean, where the scores are normal.

    Returns:
        Its ends; None for a single score, or where a score is undefined.
    """
    n = len(values)
    if n < 2 or not all(math.isfinite(value) for value in values):
        return None
    x = torch.tensor(values, dtype=torch.float64)
    mean, reach = x.mean().item(), quantile((1 - level) / 2, n - 1) * x.std().item() / math.sqrt(n)
    return mean - reach, mean + reach


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm, 1979); NaN stays NaN and does not count."""
    order = sorted((value, i) for i, value in enumerate(p) if value == value)
    corrected, largest = list(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected
