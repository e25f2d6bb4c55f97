"""Promise: marked is the best and what cannot be told from it; a dagger holds for all comparisons together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmrobust.contracts import Task
from mmrobust.robustness.resampling import Predicted
from mmrobust.robustness.store import Saved
from mmrobust.robustness.sweep import CLEAN
from mmrobust.studies.differences import compare_with_reference, correct, mark_at_chance, mark_best
from mmrobust.training import Meter

TASK = Task("regression", 1, "regression")
LABEL = torch.randn(120, generator=torch.Generator().manual_seed(0))


def model(error: float, seeds: int = 5, start: int = 0, bias: float = 0.0) -> Predicted:
    """A model whose predictions are off by a normal error of that size, anew with each seed."""
    saved = {}
    for k in range(1, seeds + 1):
        random = torch.Generator().manual_seed(1000 * start + k)
        guess = LABEL.unsqueeze(-1) + error * torch.randn(len(LABEL), 1, generator=random) + bias
        ids = tuple(map(str, range(len(LABEL))))
        saved[k] = Saved(ids, LABEL, (0.0,), 1, 0, {}, {CLEAN: guess})
    return Predicted(TASK, saved)


def compared(**models: Predicted) -> dict[str, Any]:
    """The table of clean scores of several models, the first one the reference."""
    rows: dict[str, Any] = {}
    for name, one in models.items():
        each = torch.stack([(s.predictions[CLEAN].squeeze(-1) - LABEL).abs().mean() for s in one.saved.values()])
        rows[name] = {"mae": {"mean": each.mean().item(), "p": None, "p_holm": None, "best": False,
                              "significant": False, "at_chance": None, "difference": None}}  # fmt: skip
    with Meter("compare", len(models), quiet=True) as meter:
        samples = compare_with_reference(CLEAN, list(models), rows, models, meter)
    mark_best(rows, samples, len(LABEL))
    return rows


def test_the_best_and_what_cannot_be_told_from_it_are_marked_and_losers_are_not() -> None:
    rows = compared(good=model(0.5, start=1), twin=model(0.5, start=2), bad=model(1.5, start=3))
    assert {name: row["mae"]["best"] for name, row in rows.items()} == {"good": True, "twin": True, "bad": False}
    assert rows["bad"]["mae"]["p"] < 0.001 and rows["twin"]["mae"]["p"] > 0.05


def test_a_single_seed_is_never_marked() -> None:
    rows = compared(good=model(0.5, 1, start=1), bad=model(1.5, 1, start=3))
    assert not any(row["mae"]["best"] for row in rows.values()) and rows["bad"]["mae"]["p"] is None
    rows = compared(good=model(0.5, 5, start=1), bad=model(1.5, 5, start=3), lucky=model(0.45, 1, start=4))
    assert not any(row["mae"]["best"] for row in rows.values())  # the best of all has one seed: nothing can be said


def test_of_equal_models_all_are_marked_in_most_studies() -> None:
    """Holm over all pairs keeps the chance that a single equal model is left out at 5 %, or a little above."""
    left_out = 0
    for trial in range(60):
        models = {f"m{i}": model(0.8, 3, start=10 + 7 * trial + i) for i in range(5)}
        left_out += not all(row["mae"]["best"] for row in compared(**models).values())
    assert left_out <= 8


def test_holm_runs_over_the_primary_measure_in_all_tables_and_nothing_else() -> None:
    score = lambda p: {"p": p, "p_holm": None, "significant": False}
    tables = [
        {"rows": {"a": {"mae": score(None), "corr": score(None)}, "b": {"mae": score(0.01), "corr": score(0.001)}}},
        {"rows": {"a": {"mae": score(None), "corr": score(None)}, "b": {"mae": score(0.04), "corr": score(0.001)}}},
    ]
    assert correct(tables, "mae") == 2
    assert [table["rows"]["b"]["mae"]["p_holm"] for table in tables] == pytest.approx([0.02, 0.04])
    assert all(table["rows"]["b"]["mae"]["significant"] for table in tables)
    assert all(row["corr"]["p_holm"] is None and not row["corr"]["significant"]
               for table in tables for row in table["rows"].values())  # fmt: skip


@pytest.mark.parametrize(
    ("error", "bias", "expected"),
    [(0.3, 0.0, False), (3.0, 0.0, True), (0.0, 5.0, True)],
    ids=["learned", "worse than constant", "off by five"],
)
def test_a_model_is_at_chance_where_it_is_not_better_than_the_constant(
    error: float, bias: float, expected: bool
) -> None:
    one = model(error, bias=bias)
    constant = {"constant": {"prediction": [LABEL.median().item()]}}
    rows: dict[str, Any] = {"m": {"mae": {"at_chance": None}}}
    mark_at_chance(rows, {"m": one}, {"m": constant})
    assert rows["m"]["mae"]["at_chance"] is expected
    rows = {"m": {"mae": {"at_chance": None}}}
    mark_at_chance(rows, {"m": one}, {"m": {}})  # an evaluation of an older version
    assert rows["m"]["mae"]["at_chance"] is None


def test_one_that_says_the_constant_but_for_luck_is_at_chance() -> None:
    saved = {}
    for k in range(1, 6):
        random = torch.Generator().manual_seed(k)
        guess = LABEL.median() + 0.3 * torch.randn(len(LABEL), 1, generator=random)
        saved[k] = Saved(tuple(map(str, range(len(LABEL)))), LABEL, (0.0,), 1, 0, {}, {CLEAN: guess})
    rows: dict[str, Any] = {"m": {"mae": {"at_chance": None}}}
    mark_at_chance(rows, {"m": Predicted(TASK, saved)}, {"m": {"constant": {"prediction": [LABEL.median().item()]}}})
    assert rows["m"]["mae"]["at_chance"] is True
