"""What difference a number of seeds can show, before anything is trained.

The power of Welch's test of two means whose seeds scatter alike, each over `n` seeds: with a true difference of `d`
standard deviations the statistic is noncentral t with `2n - 2` degrees of freedom and a shift of `d * sqrt(n / 2)`.
The test split's own sampling comes on top of it, so what can be shown is at least as large as is said here.
"""

from __future__ import annotations

import math
from functools import lru_cache

from mmrobust.robustness.distributions import noncentral_tail, quantile

__all__ = ["detectable_difference", "power_of"]


def power_of(difference: float, seeds: int, alpha: float = 0.05) -> float:
    """Probability that the two-sided test shows a true difference.

    Args:
        difference: In standard deviations of a single seed's score.
        seeds: Of each of the two models, at least 2.
        alpha: Probability of showing a difference where there is none.
    """
    freedom = 2 * seeds - 2
    reach, shift = quantile(alpha / 2, freedom), difference * math.sqrt(seeds / 2)
    return noncentral_tail(reach, freedom, shift) + noncentral_tail(reach, freedom, -shift)


@lru_cache(maxsize=256)
def detectable_difference(seeds: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest true difference that the test shows with the given probability.

    Args:
        seeds: Of each of the two models.
        alpha: Of the test; 0.05 divided by the number of comparisons is the first step of Holm's correction.
        power: Probability of showing the difference.

    Returns:
        In standard deviations of a single seed's score; None for a single seed, which can show nothing.
    """
    if seeds < 2:
        return None
    low, high = 0.0, 1.0
    while power_of(high, seeds, alpha) < power:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle, seeds, alpha) >= power else (middle, high)
    return high
