"""Promise: what is called better is better, as often as the level says, and a single seed never is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from mmrobust.contracts import Task
from mmrobust.errors import MmrobustError, UsageError
from mmrobust.measures import measure_many
from mmrobust.robustness import compare, evaluate
from mmrobust.robustness.significance import Comparison, bootstrap, holm
from mmrobust.robustness.store import read, save
from mmrobust.training import RunFolder

TASK = Task("regression", 1, "regression")


def mae(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return measure_many(TASK, p, y, ["mae"])["mae"]


def test_holm() -> None:
    # By hand: 0.01 * 4, 0.02 * 3, max(0.03 * 2, .06), max(0.04, .06).
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.02, math.nan])
    assert corrected[0] == 0.02 and math.isnan(corrected[1])


def test_a_difference_of_nothing_is_rarely_called_one() -> None:
    """Of 200 pairs of equally good runs of four seeds, about one in twenty looks different at 5 %."""
    random = torch.Generator().manual_seed(0)
    found = 0
    for trial in range(200):
        label = torch.randn(60, generator=random)
        runs = []
        for _ in range(2):
            skill = 1 + 0.2 * torch.randn(4, 1, 1, generator=random)  # seeds differ
            runs.append(label[:, None] + skill * torch.randn(4, 60, 1, generator=random))
        *_, p = bootstrap(mae, runs[0], runs[1], label, resamples=200, seed=trial)
        found += p < 0.05
    assert found <= 24  # 12 %: four seeds are few, and the bootstrap is known to be a little bold with few


def test_the_interval_holds_the_difference() -> None:
    torch.manual_seed(0)
    label = torch.randn(300)
    good, bad = (label[:, None] + s * torch.randn(5, 300, 1) for s in (0.5, 0.8))
    a, b, difference, low, high, p = bootstrap(mae, bad, good, label, resamples=500)
    assert difference == pytest.approx(b - a) and low < difference < high < 0
    assert p == pytest.approx(2 / 501)  # the least that 500 resamples can say
    assert bootstrap(mae, bad, good, label, resamples=500) == (a, b, difference, low, high, p)


def test_a_run_compared_with_itself_is_no_better(run: RunFolder, tmp_path: Path) -> None:
    rows = compare(run, run, ["mae", "acc7"], resamples=50)
    assert [(row.where, row.measure) for row in rows] == [
        ("clean", "mae"), ("clean", "acc7"), ("frame_drop", "mae"), ("frame_drop", "acc7"),
    ]  # fmt: skip
    assert all(row.difference == 0 and row.better is None for row in rows)
    told = json.loads(run.evaluation.read_text())
    assert rows[0].a == pytest.approx(told["clean"]["mae"]["mean"])
    assert rows[2].a == pytest.approx(told["noises"]["frame_drop"]["auilc"]["mae"]["mean"])


def other(run: RunFolder, path: Path) -> RunFolder:
    """A run that is right: its predictions are the labels, nearly."""
    copy = RunFolder(Path(shutil.copytree(run.path, path)))
    for seed in (1, 2):
        file = copy.predictions / f"seed-{seed}.safetensors"
        saved = read(file)
        right = {k: saved.label[:, None] + 0.1 * v.tanh() for k, v in saved.predictions.items()}
        save(file, type(saved)(**{**saved.__dict__, "predictions": right}))
    return copy


def test_a_better_run_is_found(run: RunFolder, tmp_path: Path) -> None:
    rows = compare(run, other(run, tmp_path / "right"), ["mae", "corr"], resamples=400)
    assert [row.better for row in rows] == ["b"] * 4
    assert all(row.p_holm >= row.p for row in rows)
    assert [row.better for row in compare(tmp_path / "right", run, ["mae", "corr"], resamples=400)] == ["a"] * 4


def test_a_single_seed_is_never_called_better(run: RunFolder, tmp_path: Path) -> None:
    row = Comparison("clean", "mae", 1.0, 0.1, -0.9, -0.95, -0.85, 1e-4, 1e-4, (1, 5))
    assert row.better is None
    right = other(run, tmp_path / "right")
    shutil.rmtree(run.seed(2))
    evaluate(run, quiet=True)
    assert [row.better for row in compare(run, right, ["mae"], resamples=100)] == [None, None]


def test_runs_that_met_something_else_are_not_compared(run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "copy")))
    evaluate(copy, ["evaluate.draws=1"], quiet=True)
    with pytest.raises(UsageError, match="numbers of draws are not the same"):
        compare(run, copy)
    evaluate(copy, ["evaluate.split=valid"], quiet=True)
    with pytest.raises(UsageError, match="samples are not the same"):
        compare(run, copy)
    copy.evaluation.unlink()
    with pytest.raises(MmrobustError, match="evaluate the run first"):
        compare(run, copy)
