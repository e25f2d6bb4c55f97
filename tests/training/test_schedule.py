"""The learning rate rises over the warm-up, falls as the schedule says, and is never zero."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrobust.training.schedule import factor


@given(st.sampled_from(["cosine", "linear", "constant"]), st.integers(1, 500), st.floats(0, 1), st.integers(0, 499))
def test_stays_above_zero_and_at_most_one(schedule, steps, warmup, step):
    assert 0 < factor(schedule, step % steps, steps, warmup) <= 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rises_in_a_line_then_never_again(schedule):
    values = [factor(schedule, i, 100, 0.1) for i in range(100)]
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert values[10] == 1
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))


def test_cosine_and_linear_are_half_way_at_the_middle():
    assert factor("cosine", 50, 100, 0) == pytest.approx(0.5)
    assert factor("linear", 50, 100, 0) == 0.5
    assert factor("cosine", 99, 100, 0) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
