"""Linear probes: what can still be read from frozen features (Alain and Bengio, 2016).

NORM-TR's adversaries are meant to take the modality and the noise out of the NRGF. A fresh linear classifier, trained
on features of the training split and measured on the test split, measures how far they have come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Probe", "fit", "probe", "probe_stages"]

PENALTY = 1e-3


@dataclass(frozen=True)
class Probe:
    """How well a linear probe reads something.

    Attributes:
        accuracy: On the test split.
        train: On the training split.
        chance: Of the most frequent class.
        samples: Rows of the test split.
    """

    accuracy: float
    train: float
    chance: float
    samples: int


def probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> Probe:
    """Trains a linear classifier on frozen features and measures it on others.

    Args:
        x: `n d`.
        y: `n`, class numbers from 0.
        test_x: `k d`.
        test_y: `k`.
    """
    classes = int(y.max()) + 1
    middle, spread = x.double().mean(0), x.double().std(0).clamp(min=1e-6)
    scaled = lambda t: (t.double() - middle) / spread
    weight, bias = fit(scaled(x), y, classes)
    right = lambda a, b: ((scaled(a) @ weight + bias).argmax(-1) == b).double().mean().item()
    chance = torch.bincount(test_y, minlength=classes).max().item() / len(test_y)
    return Probe(right(test_x, test_y), right(x, y), chance, len(test_y))


def fit(x: Tensor, y: Tensor, classes: int, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L2 penalty, from zero, by L-BFGS: deterministic.

    Args:
        x: `n d`, float64, each column of about unit variance.
        y: `n`.
        classes: How many.
        penalty: Half of it times the squared weights is added to the mean loss.

    Returns:
        Weights `d c` and biases `c`.
    """
    with torch.enable_grad():
        weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
        bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def probe_stages(features: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> list[dict[str, Any]]:
    """How well a fresh linear probe reads the modality, and whether noise was added, from each stage's features.

    Args:
        features: Pooled, `{split: {stage: {modality: n d}}}`, of `train`, `noisy train`, `test` and `noisy test`.
    """
    stages = [stage for stage, streams in features["test"].items() if streams]
    rows = []
    for stage in stages:
        streams = features["test"][stage]
        if len(streams) > 1 and len({x.shape[1] for x in streams.values()}) == 1:
            train, test = ([*features[split][stage].values()] for split in ("train", "test"))
            rows.append(_row("modality", stage, train, test))
    for stage in stages:
        train, test = (
            [torch.cat([*features[name][stage].values()], -1) for name in (split, f"noisy {split}")]
            for split in ("train", "test")
        )
        rows.append(_row("noise", stage, train, test))
    return rows


def _row(asks: str, stage: str, train: Sequence[Tensor], test: Sequence[Tensor]) -> dict[str, Any]:
    """One probe: which of several groups of rows, each `n d`, a row belongs to."""
    return {"asks": asks, "reads": stage, **vars(probe(*_stacked(train), *_stacked(test)))}


def _stacked(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Groups of rows one under the other, and which group each is of."""
    return torch.cat(list(groups)), torch.cat([torch.full((len(x),), i) for i, x in enumerate(groups)])
