"""Promise: MultiBench's measures are those of its paper and its script, to the digit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrobust.robustness.multibench import effective_robustness, normalized, relative_robustness

LEVELS = [i / 10 for i in range(10)]
curves = st.lists(st.floats(0, 1), min_size=10, max_size=10)


def test_by_hand() -> None:
    rates = [0, 0.5, 1]
    model, baseline = torch.tensor([0.8, 0.7, 0.4]), torch.tensor([0.6, 0.4, 0.3])
    assert relative_robustness(rates, model).item() == pytest.approx((1.5 + 1.1) / 4)
    # Lifted to 0.8, the baseline is at 0.8, 0.6, 0.5.
    assert effective_robustness(rates, model, baseline).item() == pytest.approx(0.1 - 0.1, abs=1e-7)
    assert effective_robustness(rates, baseline, baseline).item() == 0


@given(curves, curves)
def test_as_the_formulas_of_the_script(model: list[float], baseline: list[float]) -> None:
    f, lf = np.array(model), np.array(baseline)
    area = sum((f[i] + f[i + 1]) * 0.1 / 2 for i in range(9))
    above = np.sum(f - (lf + (f[0] - lf[0])))
    x, y = torch.tensor(model, dtype=torch.float64), torch.tensor(baseline, dtype=torch.float64)
    assert relative_robustness(LEVELS, x).item() == pytest.approx(area, abs=1e-12)
    assert effective_robustness(LEVELS, x, y).item() == pytest.approx(above, abs=1e-12)


@given(curves, curves, st.floats(-1, 1))
def test_a_better_clean_score_makes_no_model_effectively_robust(f: list[float], lf: list[float], by: float) -> None:
    x, y = torch.tensor(f, dtype=torch.float64), torch.tensor(lf, dtype=torch.float64)
    lifted = effective_robustness(LEVELS, x + by, y)
    assert lifted.item() == pytest.approx(effective_robustness(LEVELS, x, y).item(), abs=1e-9)


def test_several_models_at_once_and_from_least_to_most() -> None:
    rates = [0, 0.5]
    both = torch.tensor([[[0.9, 0.5], [0.9, 0.8]], [[0.7, 0.6], [0.5, 0.5]]])
    assert effective_robustness(rates, both, torch.tensor([0.5, 0.3])).shape == (2, 2)
    assert normalized(torch.tensor([2.0, 6.0, 3.0])).tolist() == [0, 1, 0.25]
    assert normalized(torch.tensor([2.0, 6.0, 3.0]), higher=False).tolist() == [1, 0, 0.75]
    assert normalized(torch.tensor([2.0, 2.0])).isnan().all()
    left_out = normalized(torch.tensor([2.0, torch.nan, 6.0, 3.0]))
    assert left_out[1].isnan() and left_out[[0, 2, 3]].tolist() == [0, 1, 0.25]
    assert normalized(torch.tensor([torch.nan])).isnan().all()


def test_a_curve_without_its_clean_score_is_refused() -> None:
    with pytest.raises(ValueError, match="from the clean data on"):
        relative_robustness([0.1, 0.2], torch.ones(2))
    with pytest.raises(ValueError, match="3 rates and 2 values"):
        effective_robustness([0, 0.1, 0.2], torch.ones(3), torch.ones(2))
