"""Promise: a run is calibrated on its validation split alone, once; its confidence is measured under every noise."""

from __future__ import annotations

import json

import pytest
import torch

from mmrobust.errors import DamagedError
from mmrobust.inference.calibration import read_calibration
from mmrobust.robustness import evaluate
from mmrobust.robustness.confidence import calibrate, lost_shares
from mmrobust.robustness.grids import grid_of
from mmrobust.robustness.sweep import CLEAN, Grid, restrict, sweep
from mmrobust.training import RunFolder, load_trained, open_data, train


def test_the_evaluation_says_how_sure_the_models_are(run: RunFolder) -> None:
    told = json.loads(run.evaluation.read_text())["confidence"]
    assert told["coverage"] == 0.9 and set(told["clean"]) == {"aurc", "coverage", "width"}
    curve = told["noises"]["frame_drop"]["width"]
    assert len(curve["mean"]) == 3 and [len(row) for row in curve["each"][0]] == [1, 2, 2] and curve["n"] == 2
    assert curve["mean"][0] == pytest.approx(told["clean"]["width"]["mean"])
    assert 0 < curve["mean"][0] <= 6


def test_classes_have_errors_of_calibration_as_well(tiny: list[str], tmp_path) -> None:
    run = train("normtr", [*tiny, "data.classes=3", "train.epochs=1"], out=tmp_path / "run", quiet=True).folder
    told = evaluate(run, quiet=True)["confidence"]
    names = {"ece", "ece_debiased", "ece_uncalibrated", "nll", "brier", "aurc", "coverage", "size"}
    assert set(told["clean"]) == set(told["noises"]["frame_drop"]) == names
    assert 1 <= told["clean"]["size"]["mean"] <= 3 and 0 <= told["clean"]["ece"]["mean"] <= 1


def test_what_is_lost_is_what_the_sweep_has_erased(run: RunFolder) -> None:
    """Where nothing of a sample is lost its prediction is the clean one, and nowhere else."""
    dataset, _ = open_data(run)
    built = load_trained(run, 1, dataset=dataset)
    split = restrict(dataset.splits["test"], built.context.modalities)
    grid = Grid(grid_of(built)[0].noises, (0, 0.1, 1), 3)
    predicted, lost = sweep(built.model, split, grid), lost_shares(split, grid)
    whole = torch.stack(list(lost["frame_drop"].values())).mean(0)  # r d n
    assert whole.shape == (3, 3, 40) and (whole[0] == 0).all() and (whole[2] == 1).all()
    same = (predicted["frame_drop"] - predicted[CLEAN]).abs().amax(-1) < 1e-6
    assert torch.equal(same, whole == 0) and 0 < (whole[1] == 0).sum() < whole[1].numel()


def test_it_is_calibrated_on_the_validation_split_alone(run: RunFolder) -> None:
    there = read_calibration(run)
    assert there is not None
    about, models = there
    assert about["split"] == "valid" and about["samples"] == 16 and set(models) == {"1", "2", "all"}
    dataset, _ = open_data(run)
    built = {seed: load_trained(run, seed, dataset=dataset) for seed in (1, 2)}
    split = restrict(dataset.splits["valid"], built[1].context.modalities)
    grid = Grid(grid_of(built[1])[0].noises, about["rates"], about["draws"], about["noise_seed"])
    predictions = {seed: sweep(one.model, split, grid) for seed, one in built.items()}
    for key, again in calibrate(built[1].context.task, split, grid, predictions).items():
        assert models[key].cells[-1].errors == pytest.approx(again.cells[-1].errors, abs=1e-5)


def test_another_evaluation_takes_the_calibration_that_is_there(run: RunFolder) -> None:
    before = run.calibration.read_bytes()
    told = evaluate(run, ["evaluate.noise=[gaussian]", "evaluate.draws=1"], quiet=True)["confidence"]
    assert run.calibration.read_bytes() == before and list(told["noises"]) == ["gaussian"]
    run.calibration.unlink()
    evaluate(run, ["evaluate.noise=[gaussian]", "evaluate.draws=1"], quiet=True)
    assert run.calibration.read_bytes() == before  # by the recipe's own noises, whatever else is evaluated
    run.calibration.write_bytes(before.replace(b"1", b"2", 1))
    with pytest.raises(DamagedError, match=r"calibration\.json is damaged: .*mmrobust evaluate .* writes it again"):
        read_calibration(run)
    evaluate(run, quiet=True)
    assert run.calibration.read_bytes() == before


def test_the_split_that_chose_is_not_measured_by_its_own_errors(run: RunFolder) -> None:
    run.calibration.unlink()
    told = evaluate(run, ["evaluate.split=valid"], quiet=True)["confidence"]
    assert told["coverage"] is None and not run.calibration.exists()
