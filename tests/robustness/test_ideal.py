"""Promise: the best possible prediction's intervals and sets are the shortest, and cover what the posterior says."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust import recipe as recipes
from mmrobust.data.synthetic import SyntheticAffect
from mmrobust.robustness.grids import grid_of
from mmrobust.robustness.ideal import ideal_confidence, shortest_interval, smallest_set
from mmrobust.robustness.sweep import Grid
from mmrobust.training import RunFolder, load_trained, open_data


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=7), st.floats(0.1, 0.99))
def test_no_shorter_interval_or_set_holds_as_much(counts: list[int], coverage: float) -> None:
    weights = torch.tensor([counts], dtype=torch.float64) / sum(counts)
    values = torch.tensor([float(i * i) for i in range(len(counts))], dtype=torch.float64)
    low, high = (end.item() for end in shortest_interval(values, weights, coverage))
    mass = lambda a, b: weights[0][(values >= a) & (values <= b)].sum().item()
    assert mass(low, high) >= coverage - 1e-9
    for a, b in itertools.combinations_with_replacement(values.tolist(), 2):
        assert b - a >= high - low or mass(a, b) < coverage
    kept = smallest_set(weights, coverage)[0]
    assert weights[0][kept].sum() >= coverage - 1e-9
    fewer = int(kept.sum()) - 1
    assert fewer == 0 or weights[0].sort(descending=True).values[:fewer].sum() < coverage


@pytest.mark.parametrize("classes", [None, 4])
def test_the_posterior_covers_what_it_says_at_every_rate(run: RunFolder, classes: int | None) -> None:
    """On the grid of labels somewhat more; the more is erased, the wider."""
    noise = grid_of(load_trained(run, 1, dataset=open_data(run)[0]))[0].noises
    data = SyntheticAffect(
        train=10, valid=10, test=3000, length=12, text=8, audio=6, vision=6, classes=classes, informative=0.5
    )
    found = ideal_confidence(data, "test", Grid(noise, (0, 0.3, 0.6, 1)), 0.9)
    assert found is not None
    scores = found["noises"]["frame_drop"]
    for covered in scores["coverage"]:
        assert 0.885 < covered <= (0.96 if classes is None else 1)  # a set of few classes holds more than it has to
    size = scores["width" if classes is None else "size"]
    assert size == sorted(size) and size[-1] > 1.2 * size[0]
    assert scores["aurc"] == sorted(scores["aurc"])
    if classes:
        assert max(scores["ece_debiased"]) < 0.03  # the posterior is calibrated


def test_it_stands_beside_the_model(run: RunFolder) -> None:
    told = json.loads(run.evaluation.read_text())["confidence"]["ideal"]
    assert set(told["clean"]) == {"aurc", "coverage", "width"} and len(told["noises"]["frame_drop"]["width"]) == 3


def test_other_noise_and_other_data_have_none(run: RunFolder) -> None:
    built = load_trained(run, 1, dataset=open_data(run)[0])
    other = replace(built, recipe=recipes.load(run.resolved, ["evaluate.noise=[gaussian]"]))
    found = ideal_confidence(built.dataset, "test", Grid(grid_of(other)[0].noises, (0, 0.5)), 0.9)
    assert found is not None and found["noises"] == {}
