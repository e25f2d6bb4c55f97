"""Promise: a difference is called one only where other samples and other seeds would show it again."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from mmrobust.errors import MmrobustError
from mmrobust.robustness.significance import _critical, holm, paired, resample, two_sided
from mmrobust.robustness.sweep import CLEAN
from mmrobust.training import RunFolder


def scores(shift: float, seeds: int, random: torch.Generator, index: torch.Tensor) -> dict[int, torch.Tensor]:
    """Mean scores of a made-up model whose seeds differ: on the split, then on each resample."""
    own = torch.randn(seeds, 1, generator=random) * 0.05 + shift
    each = own + 0.3 * torch.randn(seeds, index.shape[1], generator=random)
    return {k: each[k].double()[index].mean(-1) for k in range(seeds)}


def index_of(n: int, random: torch.Generator, resamples: int = 60) -> torch.Tensor:
    return torch.cat([torch.arange(n).unsqueeze(0), torch.randint(n, (resamples, n), generator=random)])


def test_students_t_is_scipys() -> None:
    for freedom in (1, 2, 4, 16, 300):
        for t in (0.0, 0.5, 2.0, 9.0):
            assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-4, abs=1e-9)
        assert _critical(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


@pytest.mark.parametrize(("runs", "seeds"), [(2, 3), (4, 2), (4, 5)])
def test_equal_models_are_seldom_told_apart(runs: int, seeds: int) -> None:
    random = torch.Generator().manual_seed(1)
    found = 0
    for _ in range(200):
        index = index_of(80, random)
        first, *others = (scores(0, seeds, random, index) for _ in range(runs))
        found += (paired(first, others, 80)[0].p or 0) < 0.05
    assert found / 200 <= 0.085  # 5 %, and what 200 trials may add


def test_a_large_difference_is_found_and_its_interval_holds_it() -> None:
    random = torch.Generator().manual_seed(2)
    index = index_of(200, random)
    first = scores(0, 5, random, index)
    better, same = paired(first, [scores(0.4, 5, random, index), first], 200)
    assert better.p is not None and better.p < 0.001
    assert better.low is not None and better.high is not None and 0 < better.low < 0.4 < better.high
    assert (same.value, same.p) == (0, 1)


def test_a_single_seed_and_strangers_tell_nothing() -> None:
    random = torch.Generator().manual_seed(3)
    index = index_of(50, random)
    one = scores(0, 1, random, index)
    alone = paired(one, [scores(5, 1, random, index)], 50)[0]
    assert alone.p is None and alone.low is None and alone.value == pytest.approx(5, abs=0.5)
    strangers = paired(one, [{7: one[0]}], 50)[0]
    assert math.isnan(strangers.value) and strangers.p is None
    assert paired(one, [], 50) == []


def test_only_shared_seeds_count() -> None:
    random = torch.Generator().manual_seed(4)
    index = index_of(50, random)
    full = scores(0, 5, random, index)
    other = scores(0.1, 5, random, index)
    some = {k: other[k] for k in (1, 3, 4)}
    found = paired(full, [some], 50)[0]
    assert found.seeds == 3
    assert found.value == pytest.approx(sum((other[k][0] - full[k][0]).item() for k in some) / 3)


def test_scores_of_a_run_are_its_evaluations(run: RunFolder) -> None:
    import json

    told = json.loads(run.evaluation.read_text())
    found = resample(run, ["mae", "acc2_non0"], resamples=3)
    for name in ("mae", "acc2_non0"):
        for k, seed in enumerate(told["seeds"]):
            assert found.values[CLEAN][name][seed][0].item() == pytest.approx(told["clean"][name]["each"][k])
            area = told["noises"]["frame_drop"]["auilc"][name]["each"][k]
            assert found.values["frame_drop"][name][seed][0].item() == pytest.approx(area)
            assert len(found.values[CLEAN][name][seed]) == 4
    run.evaluation.write_text("{")
    with pytest.raises(MmrobustError, match="missing or damaged"):
        resample(run, ["mae"])


def test_holm() -> None:
    # By hand: 0.01 * 4, 0.02 * 3, max(0.03 * 2, .06), max(0.04, .06).
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.02, math.nan])
    assert corrected[0] == 0.02 and math.isnan(corrected[1])
