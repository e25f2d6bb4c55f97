"""Measures as functions of sums over samples, so that thousands of resamples cost one product of matrices.

Every measure of `mmrobust.measures` is a function of the mean of something that each sample has by itself: an absolute
error, a hit, products for a correlation, whether a class is true, predicted, or both. The mean over a resample is then
a mean with weights. A test holds this to `mmrobust.measures.measure_many`, measure by measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmrobust.contracts import Task
from mmrobust.measures import SIMS_EDGES, targets_of

__all__ = ["Additive", "additive"]

_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Additive:
    """A measure of some predictions, taken apart.

    Attributes:
        parts: What each sample has, `... n q`, float64.
        finish: Makes the measure of the mean of the parts, `... q` to `...`.
    """

    parts: Tensor
    finish: Callable[[Tensor], Tensor]

    def __call__(self, weights: Tensor) -> Tensor:
        """The measure on resamples, `... b`, of weights `b n` that sum to 1."""
        return self.finish(torch.einsum("...nq,bn->...bq", self.parts, weights))


def additive(task: Task, prediction: Tensor, label: Tensor, names: Sequence[str]) -> dict[str, Additive]:
    """Takes measures apart.

    Args:
        task: What was to be predicted.
        prediction: `... n c`.
        label: `n` or `n k`.
        names: Which measures.
    """
    if task.kind == "regression":
        dtype = torch.float64 if prediction.dtype == label.dtype == torch.float64 else torch.float32
        if task.outputs > 1:
            guess, truth = torch.broadcast_tensors(prediction.to(dtype), label.to(dtype))
            return {name: _target(task, name, guess, truth) for name in names}
        guess, truth = torch.broadcast_tensors(prediction.squeeze(-1).to(dtype), label.to(dtype))
        return {name: _real(name, guess, truth) for name in names}
    if task.kind == "classification":
        guess, truth = torch.broadcast_tensors(prediction.argmax(-1), label.long())
        return {name: Additive(_classes(guess, truth, task.outputs), _OF_CLASSES[name]) for name in names}
    guess, truth = torch.broadcast_tensors(prediction.unflatten(-1, (-1, 2)).argmax(-1), label.long())
    decisions = task.names or tuple(str(k) for k in range(task.outputs // 2))
    found = {}
    for name in names:
        base, dot, decision = name.partition(".")
        if dot:
            k = decisions.index(decision)
            found[name] = Additive(_classes(guess[..., k], truth[..., k], 2), _OF_CLASSES[base])
        else:
            parts = torch.cat([_classes(guess[..., k], truth[..., k], 2) for k in range(len(decisions))], -1)
            found[name] = Additive(parts, _mean_of(_OF_CLASSES[base.removesuffix("_mean")], len(decisions)))
    return found


def _target(task: Task, name: str, guess: Tensor, truth: Tensor) -> Additive:
    """A measure of one of several targets, or its mean over them, from `... n k` twice."""
    base, dot, target = name.partition(".")
    if dot:
        k = targets_of(task).index(target)
        return _real(base, guess[..., k], truth[..., k])
    each = [_real(base.removesuffix("_mean"), guess[..., k], truth[..., k]) for k in range(task.outputs)]
    return Additive(torch.cat([one.parts for one in each], -1), _mean_of(each[0].finish, len(each)))


def _real(name: str, guess: Tensor, truth: Tensor) -> Additive:
    if name.startswith("sims_"):
        guess, truth, name = guess.clamp(-1, 1), truth.clamp(-1, 1), name.removeprefix("sims_")
        if name in ("acc5", "acc3", "acc2", "f1"):
            bins = 2 if name == "f1" else int(name[-1])
            edges = torch.tensor(SIMS_EDGES[bins][1:-1], dtype=guess.dtype)
            number = lambda x: torch.bucketize(x.contiguous(), edges)
            return Additive(_classes(number(guess), number(truth), bins), _f1 if name == "f1" else _accuracy)
    if name == "mae":
        return Additive((guess.double() - truth.double()).abs().unsqueeze(-1), lambda mean: mean[..., 0])
    if name == "rmse":
        return Additive((guess.double() - truth.double()).square().unsqueeze(-1), lambda mean: mean[..., 0].sqrt())
    if name == "corr":
        a, b = guess.double(), truth.double()
        return Additive(torch.stack([a, b, a * a, b * b, a * b], -1), _corr)
    if name in ("acc7", "acc5", "acc3"):
        bound = int(name[-1]) // 2
        same = guess.clamp(-bound, bound).round() == truth.clamp(-bound, bound).round()
        return Additive(same.double().unsqueeze(-1), lambda mean: mean[..., 0])
    rule, sides, *swapped = name.split("_")  # acc2_has0, f1_non0_swapped, ...
    if sides == "has0":
        parts = _classes((guess >= 0).long(), (truth >= 0).long(), 2)
    else:
        parts = _classes((guess > 0).long(), (truth > 0).long(), 2) * (truth != 0).unsqueeze(-1)
    return Additive(parts, _accuracy if rule == "acc2" else _f1_swapped if swapped else _f1)


def _corr(mean: Tensor) -> Tensor:
    a, b, aa, bb, ab = mean.unbind(-1)
    of_a, of_b = (aa - a * a).clamp(min=0), (bb - b * b).clamp(min=0)
    value = ((ab - a * b) / (of_a * of_b).sqrt()).clamp(-1, 1)
    # Constant is what differs by no more than rounding does; see `mmrobust.measures`.
    value = torch.where(of_a <= (16 * _EPS) ** 2 * aa, torch.zeros_like(value), value)
    return value.masked_fill(of_b <= (16 * _EPS) ** 2 * bb, torch.nan)


def _classes(guess: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Of each class: whether it is predicted rightly, whether it is true, whether it is predicted; `... n 3k`."""
    predicted, true = one_hot(guess, classes), one_hot(truth, classes)
    return torch.cat([predicted * true, true, predicted], -1).double()


def _accuracy(mean: Tensor) -> Tensor:
    right, true, _ = mean.chunk(3, -1)
    return right.sum(-1) / true.sum(-1)


def _balanced_accuracy(mean: Tensor) -> Tensor:
    right, true, _ = mean.chunk(3, -1)
    return (right / true.clamp(min=1e-300)).sum(-1) / (true > 0).sum(-1)


def _each_f1(mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    right, true, predicted = mean.chunk(3, -1)
    return 2 * right / (true + predicted).clamp(min=1e-300), true, predicted


def _f1(mean: Tensor) -> Tensor:
    f1, true, _ = _each_f1(mean)
    return (f1 * true).sum(-1) / true.sum(-1)


def _f1_swapped(mean: Tensor) -> Tensor:
    f1, _, predicted = _each_f1(mean)
    return (f1 * predicted).sum(-1) / predicted.sum(-1)


def _f1_macro(mean: Tensor) -> Tensor:
    f1, true, predicted = _each_f1(mean)
    return f1.sum(-1) / ((true + predicted) > 0).sum(-1)


_OF_CLASSES = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "f1_swapped": _f1_swapped,
}


def _mean_of(finish: Callable[[Tensor], Tensor], count: int) -> Callable[[Tensor], Tensor]:
    return lambda mean: torch.stack([finish(part) for part in mean.chunk(count, -1)], -1).mean(-1)
