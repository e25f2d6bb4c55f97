"""Promise: intervals and sets hold the truth as often as they say, whatever was lost; other toolkits give the same."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.contracts import Task
from mmrobust.inference.calibration import (
    Calibration,
    Cell,
    conformal_level,
    covered,
    fit_calibration,
    fit_temperature,
    interval_of,
    sets_of,
)
from mmrobust.inference.ensemble import mean_prediction

NUMBER = Task("regression", 1, "mosi", -3.0, 3.0)
CLASSES = Task("classification", 4, "classification")


def regression(count: int, seed: int, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions `1 n 1` and labels: the more is lost, the larger the error."""
    random = torch.Generator().manual_seed(seed)
    label = torch.rand(count, generator=random) * 6 - 3
    noise = torch.randn(count, generator=random) * (0.2 + shares)
    return (label + noise).reshape(1, -1, 1), label


def classification(count: int, seed: int, heat: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `1 n c` and labels drawn from them at a temperature."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 4, generator=random)
    label = torch.multinomial((logits / heat).softmax(-1), 1, generator=random).squeeze(1)
    return logits.unsqueeze(0), label


def lost_of(shares: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"text": shares, "audio": shares}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 600), st.floats(0.05, 0.99), st.integers(0, 5))
def test_the_bound_is_the_conformal_order_statistic_or_hardly_more(count: int, coverage: float, seed: int) -> None:
    """Split conformal prediction takes the ceil((n + 1) coverage)-th smallest error."""
    outputs, label = regression(count, seed, torch.zeros(count))
    fitted = fit_calibration(NUMBER, outputs, label, lost_of(torch.zeros(count)), torch.arange(count))
    errors = (outputs[0, :, 0].double() - label.double()).abs().sort().values
    rank = math.ceil((count + 1) * coverage - 1e-9)
    bound = fitted.cells[-1].bound(coverage)
    if rank > count:
        assert bound == math.inf
    else:  # 401 quantiles are kept
        assert errors[rank - 1] <= bound <= errors[min(count - 1, rank + count // 400)]


def test_intervals_are_those_of_crepes() -> None:
    crepes = pytest.importorskip("crepes")
    shares = torch.linspace(0, 1, 400)
    outputs, label = regression(400, 3, shares)
    residuals = (label.double() - outputs[0, :, 0].double()).numpy()
    fitted = fit_calibration(NUMBER, outputs, label, lost_of(torch.zeros(400)), torch.arange(400))
    for coverage in (0.5, 0.8, 0.9, 0.95):
        theirs = crepes.ConformalRegressor().fit(residuals).predict_int(np.zeros(1), confidence=coverage)[0]
        assert theirs[1] == pytest.approx(fitted.cells[-1].bound(coverage))
    # By what was lost: two cells, each with its own errors.
    bins = np.repeat([0, 1], 200)
    lost = lost_of(torch.tensor(bins) * 0.5)
    fitted = fit_calibration(NUMBER, outputs, label, lost, torch.arange(400))
    theirs = crepes.ConformalRegressor().fit(residuals, bins=bins).predict_int(np.zeros(2), bins=np.array([0, 1]))
    ours = fitted.bounds(lost_of(torch.tensor([0.0, 0.5])), 0.95)
    assert theirs[:, 1] == pytest.approx(ours.numpy(), abs=0.1) and ours[1] > ours[0]


def test_sets_are_those_of_mapie() -> None:
    pytest.importorskip("mapie")
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        """Has its probabilities already."""

        classes_ = np.arange(4)
        n_features_in_ = 4

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

        def __sklearn_is_fitted__(self):
            return True

    outputs, label = classification(400, 1)
    fitted = fit_calibration(CLASSES, outputs, label, lost_of(torch.zeros(400)), torch.arange(400))
    known = mean_prediction(CLASSES, outputs, fitted.temperature)
    new = mean_prediction(CLASSES, classification(300, 2)[0], fitted.temperature)
    for coverage in (0.8, 0.9, 0.95):
        theirs = SplitConformalClassifier(Given(), confidence_level=coverage, conformity_score="lac", prefit=True)
        theirs.conformalize(known.numpy(), label.numpy())
        sets = theirs.predict_set(new.numpy())[1][:, :, 0]
        ours = sets_of(new, fitted.bounds(lost_of(torch.zeros(300)), coverage)).numpy()
        some = sets.any(1)  # ours are never empty
        assert (ours[some] == sets[some]).all() and (ours[~some].sum(1) == 1).all()


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_holds_whatever_was_lost(coverage: float) -> None:
    shares = torch.rand(20000, generator=torch.Generator().manual_seed(9))
    outputs, label = regression(20000, 0, shares)
    fitted = fit_calibration(NUMBER, outputs, label, lost_of(shares), torch.arange(20000))
    new = torch.rand(20000, generator=torch.Generator().manual_seed(8))
    predicted, truth = regression(20000, 5, new)
    bounds = fitted.bounds(lost_of(new), coverage)
    inside, width = covered(NUMBER, predicted[0].double(), truth, bounds)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        some = (new > low) & (new <= low + 0.2)
        assert inside[some].double().mean().item() == pytest.approx(coverage, abs=0.02)
    assert width[new > 0.75].mean() > 2 * width[new < 0.25].mean()


def test_modalities_that_are_gone_have_cells_of_their_own() -> None:
    """Audio alone errs more than text alone, and is told apart from it at the same share of steps lost."""
    count = 2000
    random = torch.Generator().manual_seed(0)
    text_gone = torch.rand(count, generator=random) < 0.5
    lost = {"text": text_gone.double(), "audio": (~text_gone).double()}
    label = torch.rand(count, generator=random) * 6 - 3
    error = torch.randn(count, generator=random) * torch.where(text_gone, 1.0, 0.1)
    fitted = fit_calibration(NUMBER, (label + error).reshape(1, -1, 1), label, lost, torch.arange(count))
    bounds = fitted.bounds({"text": torch.tensor([1.0, 0.0]), "audio": torch.tensor([0.0, 1.0])}, 0.9)
    assert bounds[0] == pytest.approx(1.645, abs=0.15) and bounds[1] == pytest.approx(0.1645, abs=0.015)
    never_seen = fitted.bounds({"text": torch.tensor([1.0]), "audio": torch.tensor([1.0])}, 0.9)
    assert never_seen[0] >= bounds[1]  # what no cell is of its own belongs to that of any modalities


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_one_the_labels_were_drawn_at(heat: float) -> None:
    outputs, label = classification(20000, 0, heat)
    assert fit_temperature(outputs, label, CLASSES) == pytest.approx(heat, rel=0.06)


def test_whoever_abstains_keeps_the_risk_or_the_share() -> None:
    outputs, label = classification(4000, 0)
    lost = lost_of(torch.zeros(4000))
    fitted = fit_calibration(CLASSES, outputs, label, lost, torch.arange(4000))
    new, truth = classification(20000, 1)
    p = mean_prediction(CLASSES, new, fitted.temperature)
    kept = p.amax(1) >= fitted.threshold(coverage=0.7)
    assert kept.double().mean().item() == pytest.approx(0.7, abs=0.03)
    everything = (p.argmax(1) != truth).double().mean().item()
    for risk in (0.05, 0.1):
        kept = p.amax(1) >= fitted.threshold(risk=risk)
        assert (p.argmax(1) != truth)[kept].double().mean().item() <= risk + 0.01 < everything
        assert kept.double().mean() > 0.1
    assert fitted.threshold(risk=1e-6) == math.inf and fitted.threshold(risk=0.9) <= p.amax(1).min() + 0.2


def test_few_samples_promise_nothing() -> None:
    outputs, label = regression(5, 0, torch.zeros(5))
    fitted = fit_calibration(NUMBER, outputs, label, lost_of(torch.zeros(5)), torch.arange(5))
    assert conformal_level(5, 0.9) > 1 and fitted.bounds(lost_of(torch.zeros(1)), 0.9)[0] == math.inf
    assert interval_of(NUMBER, 1.0, math.inf) == (-3.0, 3.0)
    assert sets_of(torch.tensor([[0.7, 0.1, 0.1, 0.1]]), torch.tensor([math.inf])).all()


def test_one_sample_under_many_noises_counts_once() -> None:
    outputs, label = regression(600, 0, torch.zeros(600))
    repeated = torch.arange(30).repeat(20)
    fitted = fit_calibration(NUMBER, outputs, label, lost_of(torch.zeros(600)), repeated)
    assert fitted.cells[-1].samples == 30 and fitted.samples == 30
    assert fitted.cells[-1].bound(0.9) > Cell(None, -1, 1, 600, fitted.cells[-1].errors).bound(0.9)


def test_it_comes_back_from_json() -> None:
    outputs, label = classification(300, 0)
    fitted = fit_calibration(CLASSES, outputs, label, lost_of(torch.rand(300)), torch.arange(300))
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
