"""Promise: a study's tables have MultiBench's numbers as one gets them by hand, and none where there can be none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mmrobust.studies.comparing import _multibench

# Two seeds, rates 0, 0.5 and 1; two draws at 0.5.
LATE = [[[0.8], [0.6, 0.4], [0.2]], [[0.6], [0.6, 0.6], [0.2]]]  # mean curve 0.7, 0.55, 0.2
MODEL = [[[0.9], [0.8, 0.8], [0.7]], [[0.9], [0.5, 0.7], [0.7]]]  # mean curve 0.9, 0.7, 0.7
BROKEN = [[[0.9], [None, 0.8], [0.7]], [[0.9], [0.5, 0.7], [0.7]]]


def evaluations(measure: str, rates: list[float], **variants: Any) -> dict[str, Any]:
    return {
        name: {"rates": rates, "noises": {"drop": {"at": {measure: {"each": each}}}}} for name, each in variants.items()
    }


def filled(measure: str, rates: list[float], **variants: Any) -> dict[str, dict[str, Any]]:
    rows: dict[str, Any] = {name: {measure: {}} for name in variants}
    _multibench("drop", {measure: list(variants)}, rows, evaluations(measure, rates, **variants))
    return {name: row[measure] for name, row in rows.items()}


def test_by_hand() -> None:
    rows = filled("acc2_non0", [0, 0.5, 1], late=LATE, model=MODEL)
    # Late fusion begun at 0.9 is at 0.9, 0.75, 0.4; the model's seeds are 0.35 and 0.15 above it.
    assert rows["model"] == pytest.approx({
        "relative": 0.75, "relative_normalized": 1, "effective": -0.05 + 0.3, "effective_normalized": 1,
        "effective_std": 0.2 / math.sqrt(2),
    })  # fmt: skip
    # Begun at 0.7, its own seeds are 0.25 below and above it.
    assert rows["late"]["effective"] == 0 and rows["late"]["effective_std"] == pytest.approx(0.5 / math.sqrt(2))
    assert rows["late"]["relative"] == pytest.approx(0.5) and rows["late"]["relative_normalized"] == 0


def test_of_an_error_less_is_better() -> None:
    rows = filled("mae", [0, 0.5, 1], late=LATE, model=MODEL)
    assert rows["model"]["effective"] == pytest.approx(0.25)
    assert [rows[name]["effective_normalized"] for name in ("late", "model")] == [1, 0]
    assert [rows[name]["relative_normalized"] for name in ("late", "model")] == [1, 0]


def test_what_is_undefined_spoils_no_other() -> None:
    rows = filled("corr", [0, 0.5, 1], late=LATE, broken=BROKEN, model=MODEL)
    assert all(math.isnan(value) for value in rows["broken"].values())
    assert rows["model"]["effective"] == pytest.approx(0.25) and rows["model"]["effective_normalized"] == 1


def test_one_seed_has_no_spread() -> None:
    assert filled("mae", [0, 0.5, 1], late=LATE[:1], model=MODEL[:1])["model"]["effective_std"] is None


@pytest.mark.parametrize("rates", [[0.1, 0.5, 1], [0]])
def test_there_is_nothing_to_say_without_a_curve_from_the_clean_data_on(rates: list[float]) -> None:
    assert filled("mae", rates, late=LATE, model=MODEL) == {"late": {}, "model": {}}
