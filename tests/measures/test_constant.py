"""Promise: the constant prediction is scikit-learn's dummy, and a model at chance scores no better than it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import dummy, metrics

from mmrobust.contracts import Task
from mmrobust.measures import constant_prediction, constant_scores


@pytest.mark.parametrize("seed", range(5))
def test_the_median_of_the_training_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.normal(size=40 + seed), rng.normal(size=30)
    oracle = dummy.DummyRegressor(strategy="median").fit(np.zeros((len(train), 1)), train)
    expected = metrics.mean_absolute_error(test, oracle.predict(np.zeros((30, 1))))
    task = Task("regression", 1, "regression")
    scores = constant_scores(task, torch.tensor(train), torch.tensor(test))
    assert scores["mae"] == pytest.approx(expected) and scores["corr"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_most_frequent_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.integers(0, 4, 50) ** 2 % 5, rng.integers(0, 4, 40)
    oracle = dummy.DummyClassifier(strategy="most_frequent").fit(np.zeros((50, 1)), train)
    guess = oracle.predict(np.zeros((40, 1)))
    task = Task("classification", 5, "classification")
    scores = constant_scores(task, torch.tensor(train), torch.tensor(test))
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(test, guess))
    assert scores["f1"] == pytest.approx(metrics.f1_score(test, guess, average="weighted", zero_division=0))
    assert scores["balanced_accuracy"] in (0, pytest.approx(1 / len(set(test))))


def test_the_more_frequent_answer_to_each_decision() -> None:
    task = Task("multilabel", 6, "iemocap", names=("a", "b", "c"))
    train = torch.tensor([[1, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]])
    assert constant_prediction(task, train).unflatten(0, (3, 2)).argmax(-1).tolist() == [1, 0, 0]
    scores = constant_scores(task, train, torch.tensor([[1, 0, 0], [0, 0, 1]]))
    assert [scores[f"accuracy.{name}"] for name in "abc"] == [0.5, 1, 0.5]
