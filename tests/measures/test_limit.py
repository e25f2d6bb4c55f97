"""Promise: no decision that is made from the posterior alone scores better than the limit."""

from __future__ import annotations

import pytest
import torch

from mmrobust.contracts import Posterior, Task
from mmrobust.measures import describe, limit, measure
from mmrobust.measures.limit import weighted_median

MOSI = Task("regression", 1, "mosi", -3, 3)
SIMS = Task("regression", 1, "sims", -1, 1)
PLAIN = Task("regression", 1, "regression")
IEMOCAP = Task("multilabel", 8, "iemocap", names=("neutral", "happy", "sad", "angry"))


def world(n: int, seed: int) -> tuple[Posterior, torch.Tensor, torch.Tensor]:
    """Posteriors on a grid of [-3, 3], labels truly drawn from them, and a wrong but fair prediction."""
    torch.manual_seed(seed)
    values = torch.linspace(-3, 3, 61, dtype=torch.float64)
    centre, width = torch.rand(n, 1).double() * 6 - 3, 0.3 + torch.rand(n, 1).double()
    weights = torch.exp(-0.5 * ((values - centre) / width) ** 2)
    weights /= weights.sum(-1, keepdim=True)
    label = values[torch.multinomial(weights, 1).squeeze(-1)].float()
    return Posterior(values, weights), label, centre.clamp(-2.5, 2.5).float()


@pytest.mark.parametrize("task", [MOSI, SIMS, PLAIN], ids=lambda t: t.measures)
def test_no_other_decision_beats_the_limit(task: Task) -> None:
    posterior, label, centre = world(20_000, 0)
    best = limit(task, posterior, label)
    mean = (posterior.weights @ posterior.values)[:, None]
    torch.manual_seed(1)
    for guess in (centre, mean, mean * 1.1, mean + 0.1, mean + 0.2 * torch.randn_like(mean)):
        for name, value in measure(task, guess, label).items():
            gain = value - best[name] if describe(name).better == "higher" else best[name] - value
            assert gain < 0.003, name  # sampling error of 20 000 samples


@pytest.mark.parametrize("classes", [2, 6])
def test_no_other_class_beats_the_limit(classes: int) -> None:
    torch.manual_seed(0)
    task = Task("classification", classes, "classification")
    p = torch.softmax(1.5 * torch.randn(20_000, classes).double() + torch.linspace(0, 2, classes), -1)
    label = torch.multinomial(p, 1).squeeze(-1)
    # The nodes may stand in any order.
    order = torch.randperm(classes)
    best = limit(task, Posterior(order.double(), p[:, order]), label)
    assert best["accuracy"] == pytest.approx(measure(task, p, label)["accuracy"])
    for weights in (torch.ones(classes), torch.rand(classes) + 0.5, torch.linspace(1.3, 0.7, classes)):
        for name, value in measure(task, p * weights, label).items():
            assert value <= best[name] + 0.003, name


def test_guessing_at_random_does_not_beat_the_limit_where_nothing_is_known() -> None:
    """F1 pays for guessing: a model whose answers follow nothing but the length of a sample must not pass the limit."""
    torch.manual_seed(0)
    n = 20_000
    for classes in (2, 6):
        task, p = Task("classification", classes, "classification"), torch.rand(classes) + 0.5
        label = torch.multinomial(p, n, replacement=True)
        best = limit(task, Posterior(torch.arange(classes), (p / p.sum()).expand(n, -1)), label)
        for weights in (torch.ones(classes), p, p**2):
            guess = torch.nn.functional.one_hot(torch.multinomial(weights, n, replacement=True), classes).float()
            for name, value in measure(task, guess, label).items():
                assert value <= best[name] + 0.01, (classes, name)
    label = torch.randint(-3, 4, (n,)).float()
    best = limit(MOSI, Posterior(torch.arange(-3, 4), torch.full((n, 7), 1 / 7)), label)
    for name, value in measure(MOSI, torch.randn(n, 1), label).items():
        if name.startswith("f1"):
            assert value <= best[name] + 0.01, name


def test_the_threshold_is_the_best_of_all_thresholds() -> None:
    """On labels that follow the posterior exactly, no threshold of 200 tried has a higher weighted F1."""
    posterior, label, _ = world(20_000, 3)
    names = ["f1_has0", "f1_non0"]
    best = limit(MOSI, posterior, label, names)
    p = posterior.weights @ (posterior.values >= 0).double()
    for cut in torch.linspace(0.01, 0.99, 200):
        tried = measure(MOSI, (p - cut)[:, None], label, names)
        assert all(tried[name] <= best[name] + 0.003 for name in names)


def test_the_median_has_the_smallest_expected_distance() -> None:
    torch.manual_seed(0)
    values = torch.linspace(-3, 3, 31, dtype=torch.float64)[torch.randperm(31)]
    weights = torch.softmax(3 * torch.randn(50, 31).double(), -1)
    weights[0] = torch.nn.functional.one_hot(torch.tensor(30), 31).double()  # all mass on the last one
    chosen = weighted_median(values, weights)
    expected = (weights[:, :, None] * (values[:, None] - values).abs()).sum(1)  # n g, of every answer
    ours = (weights * (values - chosen[:, None]).abs()).sum(-1)
    assert torch.all(ours <= expected.min(-1).values + 1e-12)
    one = Posterior(torch.tensor([0.5]), torch.ones(4, 1))
    assert limit(MOSI, one, torch.zeros(4), ["mae"])["mae"] == pytest.approx(0.5)


def test_the_limit_of_several_decisions_is_not_known() -> None:
    assert limit(IEMOCAP, Posterior(torch.arange(2), torch.ones(3, 2) / 2), torch.zeros(3, 4)) == {}
