"""Measures of a table of confusion, `... classes classes`, the truth first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["OF_TABLE", "accuracy", "balanced_accuracy", "confusion", "f1_of_classes", "f1_swapped", "f1_weighted"]


def confusion(truth: Tensor, guess: Tensor, classes: int, keep: Tensor | None = None) -> Tensor:
    """How often each class was predicted as each class.

    Args:
        truth: Class numbers, `... n`.
        guess: Predicted class numbers, `... n`.
        classes: How many classes there are.
        keep: True where a sample counts, `... n`; all count where None.

    Returns:
        Counts, `... classes classes`, float64; rows are true classes, columns are predicted ones.
    """
    cell = truth * classes + guess
    count = torch.ones_like(cell, dtype=torch.float64) if keep is None else keep.double()
    table = torch.zeros(*cell.shape[:-1], classes * classes, dtype=torch.float64, device=cell.device)
    return table.scatter_add_(-1, cell, count).unflatten(-1, (classes, classes))


def accuracy(table: Tensor) -> Tensor:
    """The share of samples that are on the diagonal, `...`."""
    return table.diagonal(dim1=-2, dim2=-1).sum(-1) / table.sum((-2, -1))


def balanced_accuracy(table: Tensor) -> Tensor:
    """The mean recall of the classes that are true at least once, `...`; the field calls it UA or UAR."""
    true = table.sum(-1)
    recall = table.diagonal(dim1=-2, dim2=-1) / true.clamp(min=1e-300)
    return recall.sum(-1) / (true > 0).sum(-1)


def f1_of_classes(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The F1 of each class, how often it is true, how often it is predicted, each `... classes`."""
    true, predicted = table.sum(-1), table.sum(-2)
    f1 = 2 * table.diagonal(dim1=-2, dim2=-1) / (true + predicted).clamp(min=1e-300)
    return f1, true, predicted


def f1_weighted(table: Tensor) -> Tensor:
    """The mean F1 of the classes, weighted by how often each is true, `...`."""
    f1, true, _ = f1_of_classes(table)
    return (f1 * true).sum(-1) / true.sum(-1)


def f1_swapped(table: Tensor) -> Tensor:
    """The mean F1 of the classes, weighted by how often each is predicted, `...`."""
    f1, _, predicted = f1_of_classes(table)
    return (f1 * predicted).sum(-1) / predicted.sum(-1)


def f1_macro(table: Tensor) -> Tensor:
    """The plain mean F1 of the classes that are true or predicted at least once, `...`."""
    f1, true, predicted = f1_of_classes(table)
    return f1.sum(-1) / ((true + predicted) > 0).sum(-1)


OF_TABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1_weighted,
    "f1_macro": f1_macro,
    "f1_swapped": f1_swapped,
}
