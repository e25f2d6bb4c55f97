"""Promise: the calibration error is that of its definition, and a calibrated classifier has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from mmrobust.measures import reliability


@pytest.mark.parametrize("seed", range(4))
def test_bins_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, label = torch.tensor(rng.normal(size=(300, 2))) * 2, torch.tensor(rng.integers(0, 2, 300))
    found = reliability(logits, label)
    sure, guess = logits.softmax(-1).max(-1)
    accuracy, confidence = calibration_curve((guess == label).int(), sure, n_bins=10)
    full = found.count > 0
    assert found.accuracy[full].tolist() == pytest.approx(accuracy.tolist())
    assert found.confidence[full].tolist() == pytest.approx(confidence.tolist())
    weights = (found.count[full] / 300).numpy()
    assert found.error == pytest.approx(float((weights * np.abs(accuracy - confidence)).sum()))


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    torch.manual_seed(0)
    logits = torch.randn(100_000, 4).double() * 2
    label = torch.multinomial(logits.softmax(-1), 1).squeeze(-1)
    assert reliability(logits, label).error < 0.01
    assert reliability(10 * logits, label).error > 0.1  # ten times too sure
