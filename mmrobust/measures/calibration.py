"""Calibration: whether predictions that are 80 % sure are right in 80 % of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Reliability", "reliability"]


@dataclass(frozen=True)
class Reliability:
    """How sure a classifier was, and how often it was right, in bins of equal width.

    Attributes:
        count: Predictions in each bin, `k`.
        confidence: Their mean probability of the predicted class, `k`; NaN in an empty bin.
        accuracy: The share of them that is right, `k`; NaN in an empty bin.
        error: The expected calibration error: the mean distance of the two, weighted by the counts (Guo et al., 2017).
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor
    error: float


def reliability(logits: Tensor, label: Tensor, bins: int = 10) -> Reliability:
    """Compares confidence with accuracy.

    Args:
        logits: `n c`.
        label: Class numbers, `n`.
        bins: Bins of equal width over confidences from 0 to 1, each open below and closed above.
    """
    sure, guess = logits.double().softmax(-1).max(-1)
    right = (guess == label).double()
    place = torch.bucketize(sure, torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    total = lambda x: torch.zeros(bins, dtype=torch.float64).index_add_(0, place, x)
    count = total(torch.ones_like(sure))
    confidence, accuracy = total(sure) / count, total(right) / count
    error = (count * (confidence - accuracy).abs()).nansum().item() / len(sure)
    return Reliability(count, confidence, accuracy, error)
