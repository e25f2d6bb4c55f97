"""Promise: what is tested is what the run scored; exchanged predictions tell models apart only where they differ."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mmrobust.contracts import Task
from mmrobust.errors import MmrobustError
from mmrobust.robustness.resampling import Predicted, permute, predicted, resample
from mmrobust.robustness.store import Saved
from mmrobust.robustness.sweep import CLEAN
from mmrobust.training import RunFolder


def test_scores_of_a_run_are_its_evaluations(run: RunFolder) -> None:
    told = json.loads(run.evaluation.read_text())
    found = predicted(run)
    names = ["mae", "acc2_non0", "corr"]
    clean, noisy = (resample(found, where, names, resamples=3) for where in (CLEAN, "frame_drop"))
    for name in names:
        for k, seed in enumerate(told["seeds"]):
            assert clean[name][seed][0].item() == pytest.approx(told["clean"][name]["each"][k])
            area = told["noises"]["frame_drop"]["auilc"][name]["each"][k]
            assert noisy[name][seed][0].item() == pytest.approx(area)
            assert len(noisy[name][seed]) == 4
    again = resample(found, "frame_drop", names, resamples=3)
    assert all(torch.equal(again[name][1], noisy[name][1]) for name in names)
    assert permute(found, found, "frame_drop", ["mae"], swaps=20) == {"mae": 1.0}
    run.evaluation.write_text("{")
    with pytest.raises(MmrobustError, match="is damaged"):
        predicted(run)


def made_up(random: torch.Generator, label: torch.Tensor, error: float, seeds: int = 2) -> Predicted:
    """A model whose predictions are off by so much, clean and under a noise at two rates, three draws."""
    saved = {}
    own = torch.randn(len(label), 1, generator=random)
    for k in range(seeds):
        x = label.unsqueeze(-1) + error * (own + 0.3 * torch.randn(2, 3, len(label), 1, generator=random))
        ids = tuple(map(str, range(len(label))))
        saved[k] = Saved(ids, label, (0.0, 1.0), 3, 0, {"drop": {}}, {CLEAN: x[0, 0], "drop": x})
    return Predicted(Task("regression", 1, "regression"), saved)


def test_exchanges_find_what_is_there_and_seldom_what_is_not() -> None:
    random = torch.Generator().manual_seed(1)
    label = torch.randn(60, generator=random)
    first, worse = made_up(random, label, 0.5), made_up(random, label, 1.0)
    found = permute(first, worse, "drop", ["mae", "corr"], swaps=400)
    assert found["mae"] == pytest.approx(1 / 401) and found["corr"] is not None and found["corr"] < 0.05
    trials = [
        permute(made_up(random, label, 1), made_up(random, label, 1), CLEAN, ["mae"], 100)["mae"] for _ in range(200)
    ]
    share = sum(p is not None and p <= 0.05 for p in trials) / len(trials)
    assert 0.01 <= share <= 0.09


def test_an_exchange_is_of_whole_samples() -> None:
    """By hand: with two samples there are four choices, two of which leave the size of the difference as it is."""
    label = torch.zeros(2)
    one = lambda *x: Predicted(Task("regression", 1, "regression"), {1: Saved(
        ("a", "b"), label, (0.0,), 1, 0, {}, {CLEAN: torch.tensor(x).unsqueeze(-1)})})  # fmt: skip
    p = permute(one(0.0, 0.0), one(1.0, 3.0), CLEAN, ["mae"], swaps=4000)["mae"]
    assert p == pytest.approx(0.5, abs=0.04)


def test_runs_are_told_apart_by_what_they_met() -> None:
    random = torch.Generator().manual_seed(2)
    first = made_up(random, torch.randn(10, generator=random), 1)
    other = Predicted(first.task, {k: replace(s, noise_seed=7) for k, s in first.saved.items()})
    assert first.met == other.met and first.noises != other.noises and first.size == 10
