"""Promise: calibration errors, proper scores and risk-coverage curves are what independent computations give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss

from mmrobust.measures.confidence import aurc, brier, calibration_error, log_loss, risk_coverage


def draw(count: int, classes: int, seed: int, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, and labels drawn from them: calibrated where `sharpness` is 1, too sure where it is more."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), count)
    label = np.array([rng.choice(classes, p=row) for row in p])
    sharp = p**sharpness
    return torch.from_numpy(sharp / sharp.sum(1, keepdims=True)), torch.from_numpy(label)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(2, 5), st.integers(0, 9))
def test_proper_scores_and_errors_of_calibration(count: int, classes: int, seed: int) -> None:
    p, label = draw(count, classes, seed)
    assert log_loss(p, label) == pytest.approx(sklearn_log_loss(label, p, labels=range(classes)))
    truth = np.eye(classes)[label]
    assert brier(p, label) == pytest.approx(((p.numpy() - truth) ** 2).sum(1).mean())
    confidence, correct = p.numpy().max(1), p.numpy().argmax(1) == label.numpy()
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(15, count))
    by_hand = sum(len(i) / count * abs(confidence[i].mean() - correct[i].mean()) for i in parts)
    assert calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))[0] == pytest.approx(by_hand)


def test_the_debiased_error_is_that_of_endless_samples() -> None:
    """Few samples make the plain error of a calibrated model large; the debiased one stays near the truth."""
    for sharpness, truth in ((1.0, 0.0), (4.0, None)):
        p, label = draw(20_000, 4, 0, sharpness)
        endless = calibration_error(p.amax(1), p.argmax(1) == label)[0]
        truth = endless if truth is None else truth
        plain, debiased = zip(
            *(
                calibration_error(q.amax(1), q.argmax(1) == y)
                for q, y in (draw(300, 4, k, sharpness) for k in range(1, 60))
            ),
            strict=True,
        )
        assert abs(np.mean(debiased) - truth) < abs(np.mean(plain) - truth)
        # At an error of 0 one step takes away only a part of what luck adds.
        assert abs(np.mean(debiased) - truth) < (0.02 if sharpness > 1 else 0.6 * np.mean(plain))


def test_the_expected_error_of_a_bin_is_that_of_simulated_accuracies() -> None:
    """The normal approximation against 200,000 draws of a binomial bin."""
    count, confidence, accuracy = 40, 0.75, 0.7
    correct = torch.zeros(count, dtype=torch.bool)
    correct[: int(accuracy * count)] = True
    plain, debiased = calibration_error(torch.full((count,), confidence), correct, bins=1)
    draws = np.random.default_rng(0).binomial(count, accuracy, 200_000) / count
    assert plain == pytest.approx(0.05)
    assert debiased == pytest.approx(max(0.0, 2 * plain - np.abs(confidence - draws).mean()), abs=2e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 3)), min_size=1, max_size=40), st.randoms())
def test_the_risk_is_the_mean_over_all_orders_of_equal_confidence(pairs: list[tuple[int, float]], random) -> None:
    confidence = torch.tensor([float(c) for c, _ in pairs])
    loss = torch.tensor([x for _, x in pairs], dtype=torch.float64)
    coverage, risk = risk_coverage(confidence, loss)
    assert torch.allclose(coverage, torch.arange(1, len(pairs) + 1).double() / len(pairs))
    assert risk[-1].item() == pytest.approx(loss.mean().item())
    for c in {c for c, _ in pairs}:  # at the end of each group no order matters
        kept = [x for other, x in pairs if other >= c]
        assert risk[len(kept) - 1].item() == pytest.approx(float(np.mean(kept)))
    shuffled = list(range(len(pairs)))
    random.shuffle(shuffled)
    assert aurc(confidence[shuffled], loss[shuffled]) == pytest.approx(aurc(confidence, loss))


def test_the_area_without_ties_is_the_mean_of_the_running_risks() -> None:
    confidence, loss = torch.tensor([0.9, 0.2, 0.6]), torch.tensor([0.0, 1.0, 1.0])
    assert aurc(confidence, loss) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_without_samples_nothing_is_known() -> None:
    assert all(math.isnan(x) for x in calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool)))
