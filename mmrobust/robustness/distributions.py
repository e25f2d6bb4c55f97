"""The distributions that tests need: Student's t, central and not, and the range of several normal variables."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

__all__ = ["noncentral_tail", "normal_tail", "quantile", "range_quantile", "two_sided"]


def normal_tail(z: float) -> float:
    """Probability that a standard normal variable is above `z`."""
    return math.erfc(z / math.sqrt(2)) / 2


def two_sided(t: float, freedom: float) -> float:
    """Probability that Student's t with so many degrees of freedom is at least as far from 0 as `t`."""
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function by its continued fraction (DLMF 8.17.22, by Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # on the other side the fraction converges quickly
        return 1 - _beta(1 - x, b, a)
    fraction, c, d = 1.0, 1.0, 0.0
    for j in range(1, 1000):
        m = j // 2
        if j % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + term * d) or 1e-300)
        c = (1 + term / c) or 1e-300
        fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    size = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(size) / (a * fraction)


@lru_cache(maxsize=4096)
def quantile(tail: float, freedom: float) -> float:
    """The t that is passed, upwards, with a probability of `tail` (below one half)."""
    low, high = 0.0, 20_000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > 2 * tail else (low, middle)
    return high


def noncentral_tail(t: float, freedom: float, shift: float) -> float:
    """Probability that (Z + shift) / S is above `t`, where S squared is chi-squared over its degrees of freedom.

    The noncentral t distribution, from its definition: the mean over S of the probability that Z exceeds t S - shift.

    Args:
        t: The threshold.
        freedom: Degrees of freedom of S, at least 1.
        shift: Mean of the numerator.
    """
    s = torch.linspace(0, 1 + 12 / math.sqrt(freedom), 20_001, dtype=torch.float64)[1:]
    constant = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    density = torch.exp(constant + (freedom - 1) * s.log() - freedom * s.square() / 2)
    above = torch.special.ndtr(shift - t * s)
    return torch.trapezoid(density * above, s).item()


@lru_cache(maxsize=64)
def range_quantile(count: int, tail: float = 0.05) -> float:
    """The range that `count` standard normal variables pass with a probability of `tail`.

    The studentized range for infinitely many degrees of freedom, from its definition: the probability of a range under
    q is `k` times the integral of `phi(z) (Phi(z) - Phi(z - q))^(k - 1)`.
    """
    z = torch.linspace(-9, 9, 4097, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 20.0
    for _ in range(60):
        q = (low + high) / 2
        inside = (torch.special.ndtr(z) - torch.special.ndtr(z - q)).clamp(min=0) ** (count - 1)
        below = count * torch.trapezoid(density * inside, z).item()
        low, high = (q, high) if below < 1 - tail else (low, q)
    return high
