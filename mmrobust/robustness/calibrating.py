"""The part of an evaluation that calibrates the models on the validation split, once for the checkpoints of a run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import Split
from mmrobust.errors import DamagedError
from mmrobust.inference.calibration import Calibration, read_calibration, write_calibration
from mmrobust.model.assemble import Built
from mmrobust.model.model import Model, Tick
from mmrobust.robustness.confidence import (
    COVERAGE,
    NOISE_SEED,
    calibrate,
    can_be_calibrated,
    lost_shares,
    measure_confidence,
)
from mmrobust.robustness.grids import grid_of
from mmrobust.robustness.ideal import ideal_confidence
from mmrobust.robustness.sweep import Grid, restrict, sweep
from mmrobust.training import Checkpoints, RunFolder
from mmrobust.training.folder import to_json

__all__ = ["Calibrating"]


@dataclass
class Calibrating:
    """Calibrates the models of a run while it is evaluated, or takes the calibration that is there.

    Attributes:
        run: The run.
        built: Its recipe and data.
        split: The validation split; None where there is none, or it is the one that is evaluated.
        grid: The recipe's own noises, whatever noises are evaluated.
        about: What `calibration.json` says of itself.
        known: The calibrations that are there already for these checkpoints.
        predictions: What each seed's model has predicted.
    """

    run: RunFolder
    built: Built
    split: Split | None
    grid: Grid
    about: dict[str, Any]
    known: dict[str, Calibration] | None
    predictions: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunFolder, built: Built, seeds: Sequence[int]) -> Calibrating:
        """What is to be calibrated of a run.

        Args:
            run: The run.
            built: Its recipe with changes of the evaluation, and its data.
            seeds: Those that are evaluated.
        """
        own = replace(built, recipe=run.load_recipe())
        grid, parts = grid_of(own)
        settings = own.recipe.evaluate
        grid = Grid(grid.noises, grid.rates, min(settings.draws, 2), NOISE_SEED)
        valid = built.dataset.splits.get("valid")
        usable = valid is not None and valid.label is not None and built.recipe.evaluate.split != "valid"
        split = restrict(valid, built.context.modalities) if usable and valid is not None else None
        best = {seed: Checkpoints(run.seed(seed)).best().state.best.get("epoch") for seed in seeds}
        about = {
            "split": "valid",
            "samples": 0 if split is None else len(split),
            "noises": parts,
            "rates": list(grid.rates),
            "draws": grid.draws,
            "noise_seed": grid.seed,
            "checkpoints": [{"seed": seed, "epoch": epoch} for seed, epoch in best.items()],
        }
        there = None
        with contextlib.suppress(DamagedError):  # it is written again
            there = read_calibration(run)
        same = there is not None and {key: there[0].get(key) for key in about} == _plain(about)
        return cls(run, built, split, grid, about, there[1] if there is not None and same else None)

    @property
    def passes(self) -> int:
        """Samples that each seed's model has still to predict."""
        if self.split is None or self.known is not None or not can_be_calibrated(self.built.context.task):
            return 0
        return len(self.split) * self.grid.cells

    def predict(self, seed: int, model: Model, batch_size: int, device: torch.device, tick: Tick) -> None:
        """Lets a seed's model predict the validation split."""
        if self.passes:
            assert self.split is not None
            self.predictions[seed] = sweep(
                model, self.split, self.grid, batch_size=batch_size, device=device, tick=tick
            )

    def confidence(
        self, split: Split, grid: Grid, predictions: Mapping[int, Mapping[str, Tensor]]
    ) -> dict[str, Any] | None:
        """Writes `calibration.json` where it is new, and measures the confidence of the evaluated predictions.

        Args:
            split: The evaluated split.
            grid: What was tried on it.
            predictions: Of each seed.
        """
        task = self.built.context.task
        if not can_be_calibrated(task) or split.label is None:
            return None
        if self.predictions:
            assert self.split is not None
            self.known = calibrate(task, self.split, self.grid, self.predictions)
            write_calibration(self.run, self.about, self.known)
        measured = measure_confidence(task, split.label, grid, predictions, lost_shares(split, grid), self.known)
        name, modalities = self.built.recipe.evaluate.split, self.built.context.modalities
        ideal = ideal_confidence(self.built.dataset, name, grid, COVERAGE, modalities)
        return {**measured, "ideal": ideal}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(to_json(values))
