"""Promise: every measure equals scikit-learn's and the published scripts', and is defined where they are not."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from mmrobust.contracts import Task
from mmrobust.errors import DataError, DivergedError, UsageError
from mmrobust.measures import (
    MEASURES,
    check,
    constant_scores,
    describe,
    measure,
    measure_many,
    measures_of,
    primary,
)

MOSI = Task("regression", 1, "mosi", -3, 3)
SIMS = Task("regression", 1, "sims", -1, 1)
PLAIN = Task("regression", 1, "regression")
SIX = Task("classification", 6, "classification")
IEMOCAP = Task("multilabel", 8, "iemocap", names=("neutral", "happy", "sad", "angry"))


def mosi_labels(n: int, seed: int, step: float = 0.2, bound: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels on a grid as annotators give them, zeros and halves included, and predictions that know some of it."""
    rng = np.random.default_rng(seed)
    label = np.round(rng.integers(-round(bound / step), round(bound / step) + 1, n) * step, 6)
    guess = 0.7 * label + rng.normal(size=n) * bound / 3
    guess[::7] = np.round(guess[::7] * 2) / 2  # exact halves: ties of the rounding
    guess[::11] = 0
    return torch.tensor(guess[:, None], dtype=torch.float32), torch.tensor(label, dtype=torch.float32)


def published_mosi(y_pred: torch.Tensor, y_true: torch.Tensor) -> dict[str, float]:
    """MMSA's `__eval_mosei_regression` (Acc-3 as in TFR-Net's), with this package's names."""
    preds, truth = y_pred.view(-1).numpy(), y_true.view(-1).numpy()

    def multiclass(bound: float) -> float:
        p, t = np.clip(preds, -bound, bound), np.clip(truth, -bound, bound)
        return np.sum(np.round(p) == np.round(t)) / float(len(t))

    non_zeros = np.array([i for i, e in enumerate(truth) if e != 0])
    nz_truth, nz_preds = truth[non_zeros] > 0, preds[non_zeros] > 0
    truth2, preds2 = truth >= 0, preds >= 0
    return {
        "mae": np.mean(np.absolute(preds - truth)).astype(np.float64),
        "corr": np.corrcoef(preds, truth)[0][1],
        "acc7": multiclass(3.0),
        "acc5": multiclass(2.0),
        "acc3": multiclass(1.0),
        "acc2_has0": metrics.accuracy_score(preds2, truth2),
        "f1_has0": metrics.f1_score(truth2, preds2, average="weighted"),
        "acc2_non0": metrics.accuracy_score(nz_preds, nz_truth),
        "f1_non0": metrics.f1_score(nz_truth, nz_preds, average="weighted"),
    }


def published_sims(y_pred: torch.Tensor, y_true: torch.Tensor) -> dict[str, float]:
    """MMSA's `__eval_sims_regression`, with this package's names."""
    preds = np.clip(y_pred.view(-1).numpy(), -1.0, 1.0)
    truth = np.clip(y_true.view(-1).numpy(), -1.0, 1.0)

    def binned(x: np.ndarray, edges: list[float]) -> np.ndarray:
        out = x.copy()
        for i in range(len(edges) - 1):
            out[np.logical_and(x > edges[i], x <= edges[i + 1])] = i
        return out

    two, three, five = [-1.01, 0.0, 1.01], [-1.01, -0.1, 0.1, 1.01], [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01]
    same = lambda e: float(np.mean(np.round(binned(preds, e)) == np.round(binned(truth, e))))
    return {
        "sims_mae": np.mean(np.absolute(preds - truth)).astype(np.float64),
        "sims_corr": np.corrcoef(preds, truth)[0][1],
        "sims_acc5": same(five),
        "sims_acc3": same(three),
        "sims_acc2": same(two),
        "sims_f1": metrics.f1_score(binned(truth, two), binned(preds, two), average="weighted"),
    }


@pytest.mark.parametrize("seed", range(5))
def test_mosi_equals_the_published_script(seed: int) -> None:
    guess, label = mosi_labels(400, seed)
    ours = measure(MOSI, guess, label)
    assert list(ours) == measures_of(MOSI)
    assert ours == pytest.approx(published_mosi(guess, label), abs=2e-6)


@pytest.mark.parametrize("seed", range(5))
def test_sims_equals_the_published_script(seed: int) -> None:
    guess, label = mosi_labels(400, seed, step=0.1, bound=1.0)
    guess[::5] = torch.tensor(0.1) * torch.randint(-10, 11, guess[::5].shape)  # on the edges of the bins
    assert measure(SIMS, guess, label) == pytest.approx(published_sims(guess, label), abs=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_regression_equals_scipy_and_scikit_learn(seed: int) -> None:
    guess, label = (x.double() for x in mosi_labels(200, seed))
    flat = guess[:, 0]
    expected = {
        "mae": metrics.mean_absolute_error(label, flat),
        "rmse": metrics.root_mean_squared_error(label, flat),
        "corr": stats.pearsonr(flat, label)[0],
    }
    assert measure(PLAIN, guess, label) == pytest.approx(expected, abs=1e-12)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_classification_equals_scikit_learn(data: st.DataObject) -> None:
    """Absent classes, classes never predicted, single samples: whatever hypothesis finds."""
    n = data.draw(st.integers(1, 30))
    draw = st.lists(st.integers(0, 5), min_size=n, max_size=n)
    truth, guess = data.draw(draw), data.draw(draw)
    logits = torch.nn.functional.one_hot(torch.tensor(guess), 6).float() + 0.1 * torch.rand(n, 6)
    ours = measure(SIX, logits, torch.tensor(truth), ["accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_swapped"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": metrics.accuracy_score(truth, guess),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
            "f1": metrics.f1_score(truth, guess, average="weighted"),
            "f1_macro": metrics.f1_score(truth, guess, average="macro"),
            "f1_swapped": metrics.f1_score(guess, truth, average="weighted"),
        }
    assert ours == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_iemocap_equals_mults_script(seed: int) -> None:
    torch.manual_seed(seed)
    label = (torch.rand(300, 4) < torch.tensor([0.5, 0.3, 0.2, 0.1])).long()
    logits = torch.randn(300, 8) + torch.nn.functional.one_hot(label, 2).flatten(1)
    ours = measure(IEMOCAP, logits, label)
    for k, name in enumerate(IEMOCAP.names):
        guess = np.argmax(logits.view(-1, 4, 2).numpy()[:, k], axis=1)
        assert ours[f"f1.{name}"] == pytest.approx(metrics.f1_score(label[:, k], guess, average="weighted"))
        assert ours[f"accuracy.{name}"] == pytest.approx(metrics.accuracy_score(label[:, k], guess))
    assert ours["f1_mean"] == pytest.approx(np.mean([ours[f"f1.{name}"] for name in IEMOCAP.names]))
    assert ours["accuracy_mean"] == pytest.approx(np.mean([ours[f"accuracy.{name}"] for name in IEMOCAP.names]))


def test_swapped_f1_flatters_a_collapsed_model_and_ours_does_not() -> None:
    """The mistake of older scripts, as FINDINGS gives it: 0.583 for 0.240."""
    label = torch.tensor([1.0] * 412 + [-1.0] * 588)
    collapsed = torch.ones(1000, 1)
    ours = measure(MOSI, collapsed, label, ["f1_has0", "f1_has0_swapped"])
    assert ours["f1_has0"] == pytest.approx(0.240, abs=1e-3)
    assert ours["f1_has0_swapped"] == pytest.approx(0.583, abs=1e-3)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.floats(-100, 100))
@settings(max_examples=40, deadline=None)
def test_corr_does_not_see_scale_or_shift(seed: int, scale: float, shift: float) -> None:
    guess, label = (x.double() for x in mosi_labels(50, seed))
    plain = measure(PLAIN, guess, label)["corr"]
    assert measure(PLAIN, guess * scale, label)["corr"] == pytest.approx(plain, abs=1e-9)
    assert measure(PLAIN, guess + shift, label)["corr"] == pytest.approx(plain, abs=1e-6)
    assert measure(PLAIN, -guess, label)["corr"] == pytest.approx(-plain, abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_order_of_samples_and_leading_dimensions_change_nothing(seed: int) -> None:
    guess, label = mosi_labels(60, seed)
    other, _ = mosi_labels(60, seed + 1)
    many = measure_many(MOSI, torch.stack([guess, other]), label)
    turned = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    for name in measures_of(MOSI):
        one = measure(MOSI, guess, label)[name]
        assert many[name][0].item() == pytest.approx(one, abs=1e-12)
        assert many[name][1].item() == pytest.approx(measure(MOSI, other, label)[name], abs=1e-12)
        assert measure(MOSI, guess[turned], label[turned])[name] == pytest.approx(one, abs=1e-9)


def test_the_truth_itself_scores_best() -> None:
    _, label = mosi_labels(100, 0)
    perfect = measure(MOSI, label[:, None], label)
    for name, value in perfect.items():
        assert value == (0 if name == "mae" else pytest.approx(1)), name


def test_constant_predictions_correlate_with_nothing() -> None:
    label = torch.linspace(-3, 3, 50)
    assert measure(MOSI, torch.full((50, 1), 0.3), label)["corr"] == 0
    rounding = 0.3 + torch.randn(50, 1) * 3e-8  # what another order of summation does to equal numbers
    assert measure(MOSI, rounding, label)["corr"] == 0
    assert measure(MOSI, label[:, None] * 1e-20, label)["corr"] == pytest.approx(1)  # tiny is not constant


def test_what_cannot_be_told_is_nan() -> None:
    guess = torch.tensor([[0.1], [-0.2], [0.5]])
    scores = measure(MOSI, guess, torch.zeros(3))
    assert math.isnan(scores["corr"])
    assert math.isnan(scores["acc2_non0"]) and math.isnan(scores["f1_non0"])
    assert scores["acc2_has0"] == pytest.approx(2 / 3)
    assert math.isnan(measure(MOSI, guess[:1], torch.ones(1))["corr"])


def test_bad_input_is_told() -> None:
    label = torch.zeros(3)
    with pytest.raises(DataError, match="no samples"):
        measure(MOSI, torch.zeros(0, 1), torch.zeros(0))
    with pytest.raises(DataError, match="do not fit"):
        measure(MOSI, torch.zeros(2, 1), label)
    with pytest.raises(DataError, match="2 labels are not finite"):
        measure(MOSI, torch.zeros(3, 1), torch.tensor([0.0, torch.nan, torch.inf]))
    with pytest.raises(DivergedError, match="1 of 3 predictions"):
        measure(MOSI, torch.tensor([[0.0], [torch.nan], [1.0]]), label)
    with pytest.raises(DataError, match="not in 0 to 5"):
        measure(SIX, torch.zeros(3, 6), torch.tensor([0, 6, 1]))
    with pytest.raises(UsageError, match="did you mean 'acc7'"):
        check(MOSI, ["acc-7"])
    with pytest.raises(UsageError, match="cannot be taken on a classification task"):
        check(SIX, ["mae"])
    with pytest.raises(UsageError, match="did you mean 'mosi'"):
        measures_of(Task("regression", 1, "mosie"))
    with pytest.raises(UsageError, match="are for regression"):
        measures_of(Task("classification", 2, "mosi"))


@pytest.mark.parametrize("task", [MOSI, SIMS, PLAIN, SIX, IEMOCAP], ids=lambda t: t.measures)
def test_every_name_is_described_and_the_primary_is_one_of_them(task: Task) -> None:
    names = measures_of(task)
    assert primary(task) in names and primary(task) in MEASURES
    for name in names:
        found = describe(name)
        assert found.name == name and found.label and found.doc and found.better in ("higher", "lower")
    assert describe("mae").improves(0.5, 0.6) and not describe("acc7").improves(0.5, 0.6)
    assert describe("mae").improves(0.5, math.nan) and not describe("mae").improves(math.nan, 0.5)


def test_numbers_are_shown_as_tables_give_them() -> None:
    assert describe("acc7").show(0.43649) == "43.6"
    assert describe("mae").show(0.61249) == "0.612"
    assert describe("corr").show(-0.0001) == "0.000"
    assert describe("corr").show(-0.25) == "-0.250"
    assert describe("mae").show(None) == describe("mae").show(math.nan) == "–"
    assert describe("f1.happy").title == "F1, happy, % ↑" and describe("mae").title == "MAE ↓"


def test_several_targets_are_scored_each_and_on_average() -> None:
    """Each as a regression of its own, and their plain mean; the constant prediction is each target's median."""
    random = torch.Generator().manual_seed(0)
    task = Task("regression", 2, "regression", names=("valence", "arousal"))
    guess, truth = torch.randn(40, 2, generator=random), torch.randn(40, 2, generator=random)
    scores = measure(task, guess, truth)
    assert list(scores) == measures_of(task) and primary(task) == "mae_mean"
    for k, name in enumerate(task.names):
        alone = measure(PLAIN, guess[:, k : k + 1], truth[:, k])
        assert {base: scores[f"{base}.{name}"] for base in alone} == pytest.approx(alone)
    for base in ("mae", "rmse", "corr"):
        assert scores[f"{base}_mean"] == pytest.approx((scores[f"{base}.valence"] + scores[f"{base}.arousal"]) / 2)
    median = constant_scores(task, truth, truth, ["mae.arousal"])
    assert median["mae.arousal"] == pytest.approx((truth[:, 1] - truth[:, 1].quantile(0.5)).abs().mean().item())
    assert describe("corr.arousal").title == "Corr, arousal ↑" and describe("mae_mean").better == "lower"
    with pytest.raises(UsageError, match="the measures of 'mosi' are for one target, but the data has 2"):
        measures_of(Task("regression", 2, "mosi"))
    with pytest.raises(DataError, match="do not fit labels"):
        measure(task, guess, truth[:, 0])
