"""Whether a model knows how sure it can be: calibration, proper scores, and what is gained by abstaining.

Probabilities are `n c`, labels `n`; everything is computed in float64 and returned as a number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["aurc", "brier", "calibration_error", "log_loss", "risk_coverage"]

BINS = 15


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[float, float]:
    """Expected calibration error over bins of equally many samples, and its debiased form.

    The plain form is too large where bins are small: a calibrated model's accuracy in a bin differs from its confidence
    by luck. The debiased form (Kumar, Liang and Ma, 2019, for the absolute error) subtracts what is expected of that
    luck, by a normal approximation of each bin's accuracy.

    Args:
        confidence: Probability of the predicted class, `n`.
        correct: Whether it was right, `n`, bool.
        bins: How many; fewer where there are fewer samples.

    Returns:
        The error and the debiased error, both from 0 to 1; NaN without samples.
    """
    count = len(confidence)
    if not count:
        return math.nan, math.nan
    order = confidence.double().argsort(stable=True)
    plain = debiased = 0.0
    for index in order.tensor_split(min(bins, count)):
        p, y = confidence[index].double().mean(), correct[index].double().mean()
        gap, weight = (p - y).abs().item(), len(index) / count
        deviation = math.sqrt((y * (1 - y)).item() / len(index))
        plain += weight * gap
        debiased += weight * (2 * gap - _folded_mean(gap, deviation))
    return plain, max(0.0, debiased)


def _folded_mean(mean: float, deviation: float) -> float:
    """The expected absolute value of a normal variable."""
    if deviation == 0:
        return abs(mean)
    z = mean / deviation
    tail = deviation * math.sqrt(2 / math.pi) * math.exp(-z * z / 2)
    return tail + mean * math.erf(z / math.sqrt(2))


def log_loss(probabilities: Tensor, label: Tensor) -> float:
    """The mean negative logarithm of the true class's probability, in nats."""
    p = probabilities.double().gather(1, label.long().unsqueeze(1))
    return -p.clamp(min=torch.finfo(torch.float64).tiny).log().mean().item()


def brier(probabilities: Tensor, label: Tensor) -> float:
    """The mean squared distance of the probabilities from the true class's one-hot vector, 0 to 2."""
    truth = torch.nn.functional.one_hot(label.long(), probabilities.shape[1]).double()
    return (probabilities.double() - truth).square().sum(1).mean().item()


def risk_coverage(confidence: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of the most confident samples, for each share of samples that is kept.

    Samples of equal confidence have no order among each other: each counts with their mean loss.

    Args:
        confidence: Any number that rises with confidence, `n`.
        loss: Of each sample, `n`.

    Returns:
        Coverage `n`, from 1/n to 1, and risk `n`, float64.
    """
    _, group = confidence.double().neg().unique(sorted=True, return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1 if len(group) else 0, dtype=torch.float64)
    counts = torch.zeros_like(sums).scatter_add_(0, group, torch.ones_like(loss, dtype=torch.float64))
    means = sums.scatter_add(0, group, loss.double()) / counts
    ordered = means[group.sort(stable=True).values]
    number = torch.arange(1, len(loss) + 1, dtype=torch.float64)
    return number / max(len(loss), 1), ordered.cumsum(0) / number


def aurc(confidence: Tensor, loss: Tensor) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages; lower is better."""
    return risk_coverage(confidence, loss)[1].mean().item()
