"""The learning rate rises over the warm-up, falls as the schedule says, and is never zero."""

import itertools
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrobust.recipe.optimization import Constant, Cosine, Linear, Plateau
from mmrobust.training.schedule import factor, plateau


@given(
    st.sampled_from([Cosine(), Linear(), Constant(), Plateau()]),
    st.integers(1, 500),
    st.floats(0, 1),
    st.integers(0, 499),
)
def test_stays_above_zero_and_at_most_one(schedule, steps, warmup, step):
    assert 0 < factor(schedule, step % steps, steps, warmup) <= 1


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Constant()])
def test_rises_in_a_line_then_never_again(schedule):
    values = [factor(schedule, i, 100, 0.1) for i in range(100)]
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert values[10] == 1
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))


def test_cosine_and_linear_are_half_way_at_the_middle():
    assert factor(Cosine(), 50, 100, 0) == pytest.approx(0.5)
    assert factor(Linear(), 50, 100, 0) == 0.5
    assert factor(Cosine(), 99, 100, 0) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


@given(
    st.lists(st.one_of(st.none(), st.floats(-5, 5)), max_size=30),
    st.sampled_from(["higher", "lower"]),
    st.builds(
        Plateau, factor=st.floats(0.1, 0.9), patience=st.integers(0, 3), threshold=st.floats(0, 0.5),
        threshold_mode=st.sampled_from(["rel", "abs"]), cooldown=st.integers(0, 2), min_lr=st.sampled_from([0.0, 0.05]),
    ),
)  # fmt: skip
def test_plateau_is_torch_s_whether_it_is_resumed_or_not(scores, better, schedule):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    mode = "max" if better == "higher" else "min"
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, eps=0.0, **asdict(schedule))
    for i, score in enumerate(scores):
        assert plateau(schedule, 0.1, scores[:i], better) == optimizer.param_groups[0]["lr"]
        reference.step(math.nan if score is None else score)


def test_plateau_waits_for_its_patience():
    schedule = Plateau(factor=0.5, patience=1)
    assert [plateau(schedule, 1.0, [3.0] * n, "lower") for n in range(6)] == [1, 1, 1, 0.5, 0.5, 0.25]
    assert plateau(schedule, 1.0, [3.0, 2.0, 1.0, 0.5], "lower") == 1
