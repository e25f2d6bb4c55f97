"""The scores of predictions, computed over a whole split at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrobust.contracts import Task
from mmrobust.errors import DataError, DivergedError
from mmrobust.measures.classification import OF_TABLE, accuracy, confusion, f1_weighted
from mmrobust.measures.regression import OF_NUMBERS
from mmrobust.measures.sets import check, decisions_of, measures_of, targets_of

__all__ = ["measure", "measure_many"]


def measure(task: Task, prediction: Tensor, label: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """The scores of one set of predictions.

    Args:
        task: What was to be predicted.
        prediction: What a model returned, `n c` (`n 1` or `n` for regression).
        label: The truth, `n` (`n k` for several decisions or targets).
        names: Which measures; the task's own set where None.

    Returns:
        A value for each name, in their order; NaN where the measure is undefined (see the module).

    Raises:
        DataError: There are no samples, the shapes do not fit, or a label is not finite.
        DivergedError: A prediction is not finite.
        UsageError: A measure is unknown or does not fit the task.
    """
    if task.kind == "regression" and prediction.dim() == 1:
        prediction = prediction.unsqueeze(-1)
    return {name: value.item() for name, value in measure_many(task, prediction, label, names).items()}


def measure_many(
    task: Task, prediction: Tensor, label: Tensor, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The scores of many sets of predictions at once.

    Args:
        task: What was to be predicted.
        prediction: `... n c`, any leading dimensions.
        label: `n` or `n k` for all of them, or with leading dimensions of its own that broadcast.
        names: Which measures; the task's own set where None.

    Returns:
        A float64 tensor of the leading dimensions for each name.

    Raises:
        DataError: See `measure`.
        DivergedError: See `measure`.
        UsageError: See `measure`.
    """
    names = measures_of(task) if names is None else check(task, names)
    prediction, label = prediction.detach(), label.detach()
    _check(task, prediction, label)
    if task.kind == "regression":
        # 0.1 in float32 is not 0.1 in float64: both sides are compared with an edge in the coarser of the two.
        dtype = torch.float64 if prediction.dtype == label.dtype == torch.float64 else torch.float32
        if task.outputs > 1:
            guess, truth = torch.broadcast_tensors(prediction.to(dtype), label.to(dtype))
            return _of_targets(task, guess.transpose(-1, -2), truth.transpose(-1, -2), names)
        guess, truth = torch.broadcast_tensors(prediction.squeeze(-1).to(dtype), label.to(dtype))
        return {name: OF_NUMBERS[name](guess, truth) for name in names}
    if task.kind == "classification":
        guess = prediction.argmax(-1)
        guess, truth = torch.broadcast_tensors(guess, label.long())
        table = confusion(truth, guess, task.outputs)
        return {name: OF_TABLE[name](table) for name in names}
    guess = prediction.unflatten(-1, (-1, 2)).argmax(-1)
    guess, truth = torch.broadcast_tensors(guess, label.long())
    table = confusion(truth.transpose(-1, -2), guess.transpose(-1, -2), 2)
    return _decided(task, table, names)


def _of_targets(task: Task, guess: Tensor, truth: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Scores of several targets from `... k n` twice: of each, and the plain mean over them."""
    of = {target: k for k, target in enumerate(targets_of(task))}
    result = {}
    for name in names:
        base, dot, target = name.partition(".")
        if dot:
            result[name] = OF_NUMBERS[base](guess[..., of[target], :], truth[..., of[target], :])
        else:
            result[name] = OF_NUMBERS[base.removesuffix("_mean")](guess, truth).mean(-1)
    return result


def _decided(task: Task, table: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Scores of several two-way decisions from `... k 2 2`."""
    each = {"accuracy": accuracy(table), "f1": f1_weighted(table)}
    of = {decision: k for k, decision in enumerate(decisions_of(task))}
    result = {}
    for name in names:
        base, dot, decision = name.partition(".")
        result[name] = each[base][..., of[decision]] if dot else each[base.removesuffix("_mean")].mean(-1)
    return result


def _check(task: Task, prediction: Tensor, label: Tensor) -> None:
    tail = 2 if task.kind == "multilabel" or (task.kind == "regression" and task.outputs > 1) else 1
    rows = prediction.shape[-2] if prediction.dim() > 1 else -1
    if label.dim() < tail or prediction.dim() < 2 or label.shape[-tail] != rows or prediction.shape[-1] != task.outputs:
        raise DataError(
            f"predictions of shape {tuple(prediction.shape)} do not fit labels of shape {tuple(label.shape)}: "
            f"a {task.kind} task needs (samples, {task.outputs}) and a label for each sample"
        )
    if rows == 0:
        raise DataError("there is nothing to measure: the split holds no samples")
    if task.kind == "regression":
        if not label.isfinite().all():
            raise DataError(f"{int((~label.isfinite()).sum())} labels are not finite numbers")
    else:
        top = 2 if task.kind == "multilabel" else task.outputs
        if bool(((label < 0) | (label >= top)).any()):
            raise DataError(f"labels lie between {label.min().item()} and {label.max().item()}, not in 0 to {top - 1}")
    if not prediction.isfinite().all():
        bad = ~prediction.isfinite().flatten(0, -2).all(-1)
        raise DivergedError(f"{int(bad.sum())} of {len(bad)} predictions are not finite: the model has diverged")
