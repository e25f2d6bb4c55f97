"""Promise: a measure made of weighted means is the measure of the resampled predictions, for every measure there is."""

from __future__ import annotations

import pytest
import torch

from mmrobust.contracts import Task
from mmrobust.measures import measure_many, measures_of
from mmrobust.measures.classification import OF_TABLE
from mmrobust.measures.regression import OF_NUMBERS
from mmrobust.robustness.additive import additive

EMOTIONS = ("calm", "joy", "anger")


def weights_of(index: torch.Tensor) -> torch.Tensor:
    count = torch.zeros(index.shape, dtype=torch.float64)
    return count.scatter_add_(1, index, torch.ones_like(count)) / index.shape[1]


def check(task: Task, prediction: torch.Tensor, label: torch.Tensor, names: list[str]) -> None:
    n = len(label)
    index = torch.randint(n, (40, n), generator=torch.Generator().manual_seed(5))
    index[0] = torch.arange(n)
    taken = additive(task, prediction, label, names)
    for name in names:
        right = measure_many(task, prediction[..., index, :], label[index], [name])[name]
        found = taken[name](weights_of(index))
        assert found.shape == right.shape == (*prediction.shape[:-2], 40)
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_regression() -> None:
    random = torch.Generator().manual_seed(1)
    label = (torch.randn(50, generator=random) * 1.5).clamp(-3, 3)
    label[:9] = torch.tensor([0, 0, 1, 2, -1, -3, 0.5, 1.5, -2.5])
    guess = label + torch.randn(3, 2, 50, generator=random)
    guess[0, 0, 3:7] = torch.tensor([0.5, -0.5, 1.5, 2.5])  # halves, rounded to even
    check(Task("regression", 1, "regression"), guess.unsqueeze(-1), label, list(OF_NUMBERS))
    check(Task("regression", 1, "regression"), guess.unsqueeze(-1), label.sign(), ["f1_non0", "sims_acc5", "acc7"])


@pytest.mark.parametrize("offset", [0.0, 0.7, -2000.0])
def test_a_constant_prediction_correlates_with_nothing(offset: float) -> None:
    random = torch.Generator().manual_seed(2)
    label = torch.randn(50, generator=random)
    guess = torch.full((2, 50, 1), offset)
    guess[1] += offset * 3e-7 * torch.randint(-2, 3, (50, 1), generator=random)  # rounding
    check(Task("regression", 1, "regression"), guess, label, ["corr"])
    check(Task("regression", 1, "regression"), torch.randn(50, 1, generator=random), torch.full((50,), 0.3), ["corr"])


@pytest.mark.parametrize("classes", [2, 7])
def test_classification(classes: int) -> None:
    random = torch.Generator().manual_seed(3)
    label = torch.randint(classes - 1, (30,), generator=random)  # one class is never true
    check(
        Task("classification", classes, "classification"),
        torch.randn(2, 30, classes, generator=random),
        label,
        list(OF_TABLE),
    )


def test_several_decisions() -> None:
    random = torch.Generator().manual_seed(4)
    task = Task("multilabel", 6, measures="iemocap", names=EMOTIONS)
    label = (torch.rand(30, 3, generator=random) < 0.3).long()
    check(task, torch.randn(2, 30, 6, generator=random), label, measures_of(task))


def test_several_targets() -> None:
    random = torch.Generator().manual_seed(5)
    task = Task("regression", 3, "regression", names=("valence", "arousal", "dominance"))
    label = torch.randn(30, 3, generator=random)
    check(task, torch.randn(2, 30, 3, generator=random), label, measures_of(task))
