"""The three distributions that tests need: Student's t, and the range of several normal variables."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

__all__ = ["normal_tail", "quantile", "range_quantile", "two_sided"]


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
