"""The constant prediction: what a model scores that has learned the labels of the training split and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mmrobust.contracts import Task
from mmrobust.measures.scores import measure

__all__ = ["constant_prediction", "constant_scores"]


def constant_prediction(task: Task, label: Tensor) -> Tensor:
    """The best prediction that is the same for every sample, `c`.

    The median of the labels for a regression, the most frequent class for a classification, and for several decisions
    the more frequent answer to each.

    Args:
        task: What is to be predicted.
        label: Labels of the training split, `n`, or `n k` for several decisions or targets.
    """
    if task.kind == "regression":
        return label.double().reshape(len(label), -1).quantile(0.5, dim=0)
    if task.kind == "classification":
        return one_hot(torch.bincount(label.long(), minlength=task.outputs).argmax(), task.outputs).double()
    return one_hot((label.double().mean(0) > 0.5).long(), 2).double().flatten()


def constant_scores(task: Task, train: Tensor, label: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """The scores of the constant prediction.

    Args:
        task: What is to be predicted.
        train: Labels of the training split, `n` or `n k`.
        label: Labels of the split that is scored, `m` or `m k`.
        names: Which measures; the task's own set where None.
    """
    same = constant_prediction(task, train).expand(len(label), -1)
    return measure(task, same, label, names)
