"""How sure the models of a run can be under noise: calibrated on the validation split, measured on the evaluated one.

`evaluation.json` holds under `confidence`

    coverage     0.9: what intervals and sets aim at
    clean        {measure: {mean, std, n, each}}
    noises       {name: {measure: {mean: [r], std: [r], n, each: [seed][rate][draw]}}}
    ideal        {clean: {measure: x}, noises: {name: {measure: [r]}}}: of the exact posterior, where the data knows it

Measures of classes: `ece` and `ece_debiased` (calibrated), `ece_uncalibrated`, `nll`, `brier`, `aurc` (area under the
risk-coverage curve), `coverage` and `size` of the sets. Of a regression: `coverage` and `width` of intervals, `aurc`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import Split, Task
from mmrobust.inference.calibration import (
    ALL,
    Calibration,
    confidence_of,
    covered,
    fit_calibration,
    loss_of,
)
from mmrobust.inference.ensemble import mean_prediction
from mmrobust.measures.confidence import aurc, brier, calibration_error, log_loss
from mmrobust.robustness.sweep import CLEAN, Grid, blocks_of, noisy_blocks

__all__ = [
    "COVERAGE",
    "Lost",
    "calibrate",
    "can_be_calibrated",
    "lost_shares",
    "measure_confidence",
]

COVERAGE = 0.9
NOISE_SEED = 1  # another one than the evaluation's, so that a sample of both splits does not meet the same noise

Lost = dict[str, dict[str, Tensor]]


def can_be_calibrated(task: Task) -> bool:
    """Whether there are intervals or sets for a task: a regression of one number, or one class of several."""
    return task.kind == "classification" or (task.kind == "regression" and task.outputs == 1)


def lost_shares(split: Split, grid: Grid) -> Lost:
    """The share of each modality's steps that noise destroys, degrades or moves, in the draws that `sweep` makes.

    Returns:
        `{noise: {m: r d n}}`, and `{clean: {m: n}}`; 1 where a sample has no step of a modality.
    """
    blocks = list(blocks_of(split))
    clean = {m: _share(torch.zeros_like(s.mask), s.mask) for m, s in split.features.items()}
    result: Lost = {CLEAN: clean}
    for name, noise in grid.noises.items():
        shown = [block.outline() for block in blocks] if noise.constant else blocks
        draws = grid.draws_of(noise)
        rows: dict[str, list[Tensor]] = {m: [] for m in clean}
        for rate in grid.rates:
            for m, share in clean.items():
                if rate == 0:
                    rows[m].append(share.expand(grid.draws, -1))
            if rate == 0:
                continue
            each: dict[str, list[Tensor]] = {m: [] for m in clean}
            for draw in range(draws):
                noisy = list(noisy_blocks(noise, name, rate, draw, grid.seed, shown))
                for m in clean:
                    each[m].append(torch.cat([_share(b.erased[m], b.features[m].mask) for b in noisy]))
            for m in clean:
                rows[m].append(torch.stack(each[m]).expand(grid.draws, -1))
        result[name] = {m: torch.stack(some) for m, some in rows.items()}
    return result


def _share(erased: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(1)
    return torch.where(count > 0, (erased & mask).sum(1) / count.clamp(min=1), 1.0).double()


@dataclass(frozen=True)
class _Table:
    """Clean and noisy predictions of a split, one under the other.

    Attributes:
        outputs: `n c`.
        lost: `{m: n}`.
        sample: Which sample each is, `n`.
    """

    outputs: Tensor
    lost: dict[str, Tensor]
    sample: Tensor


def _flat(predictions: Mapping[str, Tensor], lost: Lost, rates: Sequence[float]) -> _Table:
    """Each clean sample once, and each noisy one; what stands at rate 0 of a noise is the clean one again."""
    clean = predictions[CLEAN]
    above = [i for i, rate in enumerate(rates) if rate > 0]
    outputs, shares = [clean], {m: [share] for m, share in lost[CLEAN].items()}
    for name, values in predictions.items():
        if name != CLEAN:
            outputs.append(values[above].flatten(0, 2))
            for m, share in lost[name].items():
                shares[m].append(share[above].flatten())
    whole = torch.cat(outputs)
    sample = torch.arange(len(clean)).repeat(len(whole) // len(clean))
    return _Table(whole, {m: torch.cat(some) for m, some in shares.items()}, sample)


def calibrate(
    task: Task, split: Split, grid: Grid, predictions: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, Calibration]:
    """Learns the errors of each seed's model, and of the mean of all.

    Args:
        task: What is predicted.
        split: The validation split.
        grid: The noises that it met.
        predictions: What `sweep` gave for each seed.

    Returns:
        By seed, and under `all` for the mean of several.
    """
    assert split.label is not None
    lost = lost_shares(split, grid)
    tables = {seed: _flat(some, lost, grid.rates) for seed, some in predictions.items()}
    models = {str(seed): table.outputs.unsqueeze(0) for seed, table in tables.items()}
    if len(tables) > 1:
        models[ALL] = torch.stack([table.outputs for table in tables.values()])
    one = next(iter(tables.values()))
    label = split.label[one.sample]
    return {key: fit_calibration(task, outputs, label, one.lost, one.sample) for key, outputs in models.items()}


def measure_confidence(
    task: Task,
    label: Tensor,
    grid: Grid,
    predictions: Mapping[int, Mapping[str, Tensor]],
    lost: Lost,
    calibrations: Mapping[str, Calibration] | None,
) -> dict[str, Any]:
    """What `evaluation.json` holds under `confidence`.

    Args:
        task: What is predicted.
        label: `n`.
        grid: What was tried.
        predictions: What `sweep` gave for each seed.
        lost: What `lost_shares` gives for the same.
        calibrations: By seed; None where there was no validation split.
    """
    seeds = list(predictions)
    none = Calibration(1.0, (), (), (), 0)

    def one(seed: int, outputs: Tensor, shares: Mapping[str, Tensor]) -> dict[str, float]:
        return _measures(task, outputs, label, shares, none if calibrations is None else calibrations[str(seed)])

    clean = [one(seed, predictions[seed][CLEAN], lost[CLEAN]) for seed in seeds]
    noises = {}
    for name in grid.noises:
        draws = [1 if rate == 0 else grid.draws for rate in grid.rates]
        each = [
            [
                [
                    one(seed, predictions[seed][name][r, d], {m: x[r, d] for m, x in lost[name].items()})
                    for d in range(count)
                ]
                for r, count in enumerate(draws)
            ]
            for seed in seeds
        ]
        noises[name] = {
            key: _over_rates([[[cell[key] for cell in row] for row in rows] for rows in each]) for key in clean[0]
        }
    return {
        "coverage": COVERAGE if calibrations else None,
        "clean": {key: _over_seeds([scores[key] for scores in clean]) for key in clean[0]},
        "noises": noises,
    }


def _measures(
    task: Task, outputs: Tensor, label: Tensor, lost: Mapping[str, Tensor], calibration: Calibration
) -> dict[str, float]:
    """Every measure of confidence of one model under one draw."""
    predicted = mean_prediction(task, outputs.unsqueeze(0), calibration.temperature)
    scores: dict[str, float] = {}
    if task.kind == "classification":
        raw = mean_prediction(task, outputs.unsqueeze(0))
        correct = predicted.argmax(1) == label
        scores["ece"], scores["ece_debiased"] = calibration_error(predicted.amax(1), correct)
        scores["ece_uncalibrated"] = calibration_error(raw.amax(1), correct)[0]
        scores["nll"], scores["brier"] = log_loss(predicted, label), brier(predicted, label)
    if not calibration.cells:
        if task.kind == "classification":
            scores["aurc"] = aurc(predicted.amax(1), loss_of(task, predicted, label))
        return scores
    bounds = calibration.bounds(lost, COVERAGE)
    scores["aurc"] = aurc(confidence_of(task, predicted, bounds), loss_of(task, predicted, label))
    inside, size = covered(task, predicted, label, bounds)
    scores["coverage"] = inside.double().mean().item()
    scores["width" if task.kind == "regression" else "size"] = size.mean().item()
    return scores


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    x = torch.tensor(values, dtype=torch.float64)
    return {"mean": x.mean().item(), "std": x.std().item() if len(x) > 1 else None, "n": len(x), "each": x.tolist()}


def _over_rates(each: list[list[list[float]]]) -> dict[str, Any]:
    """From `[seed][rate][draw]`: mean and deviation over the seeds of the mean over the draws, at each rate."""
    curves = torch.tensor([[sum(row) / len(row) for row in rows] for rows in each], dtype=torch.float64)
    std = curves.std(0).tolist() if len(each) > 1 else [None] * curves.shape[1]
    return {"mean": curves.mean(0).tolist(), "std": std, "n": len(each), "each": each}
