"""Promise: the difference that a study says it can show is the one that Welch's test shows four times in five."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmrobust.robustness.distributions import noncentral_tail
from mmrobust.robustness.power import detectable_difference, power_of


@pytest.mark.parametrize("freedom", [2, 4, 8, 38])
@pytest.mark.parametrize("shift", [-1.5, 0.0, 2.0, 6.0])
def test_the_noncentral_t_is_scipys(freedom: int, shift: float) -> None:
    for t in (0.5, 2.3, 4.3):
        right = stats.nct.sf(t, freedom, shift) if shift else stats.t.sf(t, freedom)
        assert noncentral_tail(t, freedom, shift) == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(("seeds", "alpha"), [(3, 0.05), (5, 0.05), (5, 0.05 / 8), (10, 0.01)])
def test_what_can_be_shown_is_shown_four_times_in_five(seeds: int, alpha: float) -> None:
    difference = detectable_difference(seeds, alpha)
    assert difference is not None and power_of(difference, seeds, alpha) == pytest.approx(0.8, abs=1e-6)
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(20_000, seeds)), rng.normal(difference, size=(20_000, seeds))
    p = stats.ttest_ind(first, second, axis=1).pvalue
    assert (p < alpha).mean() == pytest.approx(0.8, abs=0.01)


def test_more_seeds_show_less_and_one_shows_nothing() -> None:
    assert detectable_difference(1) is None
    sizes = [detectable_difference(n) or math.nan for n in (2, 3, 5, 10, 30)]
    assert sizes == sorted(sizes, reverse=True)
    assert power_of(0, 5) == pytest.approx(0.05, abs=1e-6)
    assert (detectable_difference(5, 0.05 / 10) or 0) > (detectable_difference(5) or math.inf)
