"""Promise: ranks are those of the tables, and their test and critical difference those of the literature."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from mmrobust.robustness.ranks import critical_difference, friedman, rank


def test_ranks_are_scipys() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.3, 0.9], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    assert rank(scores).tolist() == stats.rankdata(scores, axis=1).tolist()


def test_critical_differences_are_the_published_ones() -> None:
    """Demšar (2006), section 3.2.2: q at 5 % of two to ten models, and the example of 4 models on 14 data sets."""
    published = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
    for models, q in enumerate(published, 2):
        found = critical_difference(models, 10) / (models * (models + 1) / 60) ** 0.5
        assert found == pytest.approx(q, abs=0.0011)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_friedmans_test_is_scipys_where_there_are_many_noises() -> None:
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(40, 4, generator=random) + torch.tensor([0.0, 0.2, 0.4, 0.1])
    found = friedman(scores, higher=False)
    right = stats.friedmanchisquare(*scores.T.tolist()).pvalue
    assert 0.01 < right < 0.9 and found.p == pytest.approx(right, abs=0.02)
    assert sum(found.mean) == pytest.approx(10)


def test_the_best_has_rank_one_whichever_way_is_better() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4], [0.0, 0.7, 0.8]])
    assert friedman(scores, higher=False).mean == (1, 2, 3)
    assert friedman(scores, higher=True).mean == (3, 2, 1)
    # Three models in the same order three times: of 36 equally likely pairs of orders beside the first, 1 agrees, and
    # Friedman's statistic does not tell the six common orders apart.
    assert friedman(scores, higher=True).p == pytest.approx(1 / 36, abs=0.006)
    assert friedman(torch.ones(3, 3), higher=True).p == 1
