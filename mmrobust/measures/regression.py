"""Measures of a predicted number: `guess` and `truth` are both `... n`, the result is `...`, float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmrobust.measures.classification import accuracy, confusion, f1_swapped, f1_weighted

__all__ = ["OF_NUMBERS", "SIMS_EDGES", "bins"]

SIMS_EDGES = {
    2: (-1.01, 0.0, 1.01),
    3: (-1.01, -0.1, 0.1, 1.01),
    5: (-1.01, -0.7, -0.1, 0.1, 0.7, 1.01),
}


def _mae(guess: Tensor, truth: Tensor) -> Tensor:
    return (guess.double() - truth.double()).abs().mean(-1)


def _rmse(guess: Tensor, truth: Tensor) -> Tensor:
    return (guess.double() - truth.double()).square().mean(-1).sqrt()


def _constant(x: Tensor) -> Tensor:
    """True where the values of `... n` differ by no more than rounding does."""
    spread = x.amax(-1) - x.amin(-1)
    return spread <= 64 * torch.finfo(x.dtype).eps * x.abs().amax(-1)


def _corr(guess: Tensor, truth: Tensor) -> Tensor:
    a, b = guess.double(), truth.double()
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    # Each is scaled by its own largest value first: squares of tiny numbers would vanish.
    a = a / a.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    b = b / b.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    value = ((a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()).clamp(-1, 1)
    value = torch.where(_constant(guess), torch.zeros_like(value), value)
    return value.masked_fill(_constant(truth), torch.nan)


def _rounded(bound: int) -> Callable[[Tensor, Tensor], Tensor]:
    def same(guess: Tensor, truth: Tensor) -> Tensor:
        equal = guess.clamp(-bound, bound).round() == truth.clamp(-bound, bound).round()
        return equal.double().mean(-1)

    return same


def bins(x: Tensor, edges: Sequence[float]) -> Tensor:
    """The number of the bin (a, b] that each value of `...` lies in, from 0."""
    return torch.bucketize(x.contiguous(), torch.tensor(edges[1:-1], dtype=x.dtype, device=x.device))


def _has0(guess: Tensor, truth: Tensor) -> Tensor:
    return confusion((truth >= 0).long(), (guess >= 0).long(), 2)


def _non0(guess: Tensor, truth: Tensor) -> Tensor:
    return confusion((truth > 0).long(), (guess > 0).long(), 2, truth != 0)


def _sims(count: int) -> Callable[[Tensor, Tensor], Tensor]:
    def table(guess: Tensor, truth: Tensor) -> Tensor:
        edges = SIMS_EDGES[count]
        return confusion(bins(truth.clamp(-1, 1), edges), bins(guess.clamp(-1, 1), edges), count)

    return table


OF_NUMBERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": _mae,
    "rmse": _rmse,
    "corr": _corr,
    "acc7": _rounded(3),
    "acc5": _rounded(2),
    "acc3": _rounded(1),
    "acc2_has0": lambda guess, truth: accuracy(_has0(guess, truth)),
    "f1_has0": lambda guess, truth: f1_weighted(_has0(guess, truth)),
    "acc2_non0": lambda guess, truth: accuracy(_non0(guess, truth)),
    "f1_non0": lambda guess, truth: f1_weighted(_non0(guess, truth)),
    "f1_has0_swapped": lambda guess, truth: f1_swapped(_has0(guess, truth)),
    "f1_non0_swapped": lambda guess, truth: f1_swapped(_non0(guess, truth)),
    "sims_mae": lambda guess, truth: _mae(guess.clamp(-1, 1), truth.clamp(-1, 1)),
    "sims_corr": lambda guess, truth: _corr(guess.clamp(-1, 1), truth.clamp(-1, 1)),
    "sims_acc5": lambda guess, truth: accuracy(_sims(5)(guess, truth)),
    "sims_acc3": lambda guess, truth: accuracy(_sims(3)(guess, truth)),
    "sims_acc2": lambda guess, truth: accuracy(_sims(2)(guess, truth)),
    "sims_f1": lambda guess, truth: f1_weighted(_sims(2)(guess, truth)),
}
