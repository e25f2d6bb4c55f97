"""Calibration of a trained model: temperature, conformal intervals and sets, and when to abstain.

A conformal interval or set holds the truth with a chosen probability, because its size is a quantile of the errors that
the model makes on other samples. A model that has lost half of its input makes other errors than one that sees all of
it, so the quantile is taken among samples that have lost as much (Mondrian conformal prediction): a *cell* is which
modalities are there at all, and the share of all steps that is lost. Cells are merged until each has enough samples.

Everything is fitted on the validation split alone, clean and under the recipe's own noises.

`calibration.json` holds

    format       1
    split        valid
    samples      how many it holds
    noises       {name: {use, options}}: those of the recipe, whatever else is evaluated
    rates, draws, noise_seed
    checkpoints  [{seed, epoch}]: of which models
    models       {seed, or "all" for the mean of all: a `Calibration`}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import mmrobust
from mmrobust.contracts import Task
from mmrobust.inference.ensemble import mean_prediction
from mmrobust.measures.confidence import risk_coverage
from mmrobust.training.folder import RunFolder, to_json

__all__ = [
    "ALL",
    "Calibration",
    "Cell",
    "conformal_level",
    "fit_calibration",
    "fit_temperature",
    "read_calibration",
    "write_calibration",
]

FORMAT = 1
ALL = "all"  # the key of the mean of all seeds' models
ENOUGH = 100  # samples of a cell
_EDGES = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], dtype=torch.float64)
_LEVELS = 400  # quantiles of the errors that are kept of each cell
_POINTS = 100  # of the risk-coverage curve that is kept


@dataclass(frozen=True)
class Cell:
    """Errors of validation samples that have lost as much.

    Attributes:
        present: The modalities of which something is there; None for any.
        low: The share of steps lost is more than this; -1 where nothing lost belongs to it.
        high: It is at most this.
        samples: How many different samples it holds.
        errors: Quantiles of their nonconformity at the levels 0, 1/400, ..., 1: the absolute error of a regression, one
            minus the probability of the true class.
    """

    present: tuple[str, ...] | None
    low: float
    high: float
    samples: int
    errors: tuple[float, ...]

    def bound(self, coverage: float) -> float:
        """The error that is not exceeded with the probability of `coverage`; infinite where too few samples say."""
        level = conformal_level(self.samples, coverage)
        return math.inf if level > 1 else self.errors[math.ceil(level * (len(self.errors) - 1) - 1e-9)]


@dataclass(frozen=True)
class Calibration:
    """What is known of a model's errors.

    Attributes:
        temperature: Divides the logits; 1 for a regression.
        cells: The finer ones first; the last ones hold any modalities.
        thresholds: Confidence above which a share 1/100, 2/100, ..., 1 of the validation samples lies.
        risks: Mean error of those samples: the absolute one, or the share of wrong classes.
        samples: Of the validation split.
    """

    temperature: float
    cells: tuple[Cell, ...]
    thresholds: tuple[float, ...]
    risks: tuple[float, ...]
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` gave.

        Raises:
            KeyError: A value is missing; or TypeError, where it is not what it has to be.
        """
        cells = [
            Cell(None if c["present"] is None else tuple(c["present"]), c["low"], c["high"], c["samples"],
                 tuple(c["errors"]))
            for c in values["cells"]
        ]  # fmt: skip
        return Calibration(
            values["temperature"], tuple(cells), tuple(values["thresholds"]), tuple(values["risks"]), values["samples"]
        )

    def bounds(self, lost: Mapping[str, Tensor], coverage: float) -> Tensor:
        """The error of each sample that is not exceeded with the probability of `coverage`, `n`.

        Args:
            lost: Share of each modality that each sample has lost, `{m: n}`.
            coverage: From 0 to 1.
        """
        share = torch.stack([x.double() for x in lost.values()]).mean(0)
        bounds = torch.full(share.shape, self.cells[-1].bound(coverage), dtype=torch.float64)
        for cell in reversed(self.cells):  # the finer ones last
            inside = (cell.low < share) & (share <= cell.high)
            if cell.present is not None:
                for m, x in lost.items():
                    inside &= (x < 1) == (m in cell.present)
            bounds[inside] = cell.bound(coverage)
        return bounds

    def threshold(self, *, risk: float | None = None, coverage: float | None = None) -> float:
        """The confidence below which to abstain.

        Args:
            risk: Largest mean error of what is still predicted; of all thresholds that keep it the lowest.
            coverage: Share of the validation samples that is still predicted.

        Returns:
            Infinite where no threshold keeps the risk.
        """
        if coverage is not None:
            return self.thresholds[min(_POINTS, max(1, math.ceil(coverage * _POINTS - 1e-9))) - 1]
        kept = [
            threshold
            for k, (threshold, mean) in enumerate(zip(self.thresholds, self.risks, strict=True), 1)
            if risk is not None and _careful(mean, self.samples * k / _POINTS) <= risk
        ]
        return kept[-1] if kept else math.inf


def conformal_level(samples: int, coverage: float) -> float:
    """The level of the quantile of so many errors that covers one more error with the probability of `coverage`."""
    return math.ceil((samples + 1) * coverage - 1e-9) / samples if samples else math.inf


def _careful(mean: float, count: float) -> float:
    """A mean error as it would be with one more sample that is entirely wrong."""
    return (mean * count + 1) / (count + 1)


def fit_temperature(outputs: Tensor, label: Tensor, task: Task) -> float:
    """The temperature under which the true classes are most probable.

    Args:
        outputs: Logits of each model, `s n c`.
        label: `n`.
        task: A classification.
    """
    label = label.long().unsqueeze(1)

    def loss(logarithm: float) -> float:
        p = mean_prediction(task, outputs, math.exp(logarithm)).gather(1, label)
        return -p.clamp(min=1e-300).log().mean().item()

    low, high = math.log(0.05), math.log(20.0)
    ratio = (math.sqrt(5) - 1) / 2  # golden section: the loss has one minimum
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > 1e-3:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return math.exp((low + high) / 2)


def fit_calibration(
    task: Task, outputs: Tensor, label: Tensor, lost: Mapping[str, Tensor], sample: Tensor
) -> Calibration:
    """Learns a model's errors.

    Args:
        task: A regression of one number, or a classification.
        outputs: Of each model, `s n c`, of validation samples, clean and noisy.
        label: `n`.
        lost: Share of each modality that each has lost, `{m: n}`.
        sample: Which sample each is, `n`: several may be one sample under several noises.
    """
    temperature = 1.0 if task.kind == "regression" else fit_temperature(outputs, label, task)
    predicted = mean_prediction(task, outputs, temperature)
    errors = nonconformity(task, predicted, label)
    cells = _cells(errors, lost, sample)
    thrown = Calibration(temperature, cells, (), (), int(sample.max()) + 1)
    confidence = confidence_of(task, predicted, thrown.bounds(lost, 0.9))
    thresholds, risks = _curve(confidence, loss_of(task, predicted, label))
    return Calibration(temperature, cells, thresholds, risks, thrown.samples)


def nonconformity(task: Task, predicted: Tensor, label: Tensor) -> Tensor:
    """How ill each label fits what was predicted, `n`, float64."""
    if task.kind == "regression":
        return (predicted[:, 0] - label.double()).abs()
    return 1 - predicted.gather(1, label.long().unsqueeze(1)).squeeze(1)


def confidence_of(task: Task, predicted: Tensor, bounds: Tensor) -> Tensor:
    """A number that rises with confidence, `n`: the highest probability, or minus half the width of the interval."""
    return -bounds if task.kind == "regression" else predicted.amax(1)


def loss_of(task: Task, predicted: Tensor, label: Tensor) -> Tensor:
    """The absolute error of a regression, 1 for a wrong class, `n`, float64."""
    if task.kind == "regression":
        return (predicted[:, 0] - label.double()).abs()
    return (predicted.argmax(1) != label).double()


def _curve(confidence: Tensor, loss: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Thresholds and risks at 1/100, 2/100, ... of the samples."""
    _, risk = risk_coverage(confidence, loss)
    ordered = confidence.sort(descending=True).values
    at = [max(0, math.ceil(k * len(ordered) / _POINTS) - 1) for k in range(1, _POINTS + 1)]
    return tuple(ordered[at].tolist()), tuple(risk[at].tolist())


def _cells(errors: Tensor, lost: Mapping[str, Tensor], sample: Tensor) -> tuple[Cell, ...]:
    names = list(lost)
    shares = torch.stack([lost[m].double() for m in names], 1)  # n m
    total = shares.mean(1)
    place = torch.bucketize(total, _EDGES)  # 0 where nothing is lost
    there = shares < 1
    patterns, pattern = there.unique(dim=0, return_inverse=True)
    cells: list[Cell] = []
    if len(patterns) > 1:
        for k, row in enumerate(patterns.tolist()):
            chosen = pattern == k
            if len(sample[chosen].unique()) >= ENOUGH:
                present = tuple(m for m, yes in zip(names, row, strict=True) if yes)
                cells += _merged(errors[chosen], place[chosen], sample[chosen], present)
    return (*cells, *_merged(errors, place, sample, None))


def _merged(errors: Tensor, place: Tensor, sample: Tensor, present: tuple[str, ...] | None) -> list[Cell]:
    """Neighbouring shares together until each cell has enough samples."""
    groups: list[tuple[int, int]] = []
    first = 0
    for last in range(len(_EDGES)):
        chosen = (place >= first) & (place <= last)
        if len(sample[chosen].unique()) >= ENOUGH:
            groups.append((first, last))
            first = last + 1
    if not groups:
        groups = [(0, len(_EDGES) - 1)]
    groups[-1] = (groups[-1][0], len(_EDGES) - 1)  # what is left over at the end
    cells = []
    for first, last in groups:
        chosen = (place >= first) & (place <= last)
        levels = torch.linspace(0, 1, _LEVELS + 1, dtype=torch.float64)
        ordered = errors[chosen].sort().values
        at = (levels * len(ordered)).ceil().long().clamp(1, len(ordered)) - 1  # the smallest error that reaches it
        low = -1.0 if first == 0 else _EDGES[first - 1].item()
        cells.append(Cell(present, low, _EDGES[last].item(), len(sample[chosen].unique()), tuple(ordered[at].tolist())))
    return cells


def interval_of(task: Task, value: float, bound: float) -> tuple[float, float]:
    """The interval around a predicted number, within what the labels can be."""
    low = -math.inf if task.low is None else task.low
    high = math.inf if task.high is None else task.high
    return max(low, value - bound), min(high, value + bound)


def sets_of(predicted: Tensor, bounds: Tensor) -> Tensor:
    """Which classes belong to the set of each sample, `n c`, bool; the most probable one always does."""
    kept = 1 - predicted <= bounds.unsqueeze(1)
    return kept.scatter(1, predicted.argmax(1, keepdim=True), True)


def covered(task: Task, predicted: Tensor, label: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each interval or set holds the truth, `n`, and how wide or large it is, `n`, float64."""
    if task.kind == "regression":
        ends = [interval_of(task, x, b) for x, b in zip(predicted[:, 0].tolist(), bounds.tolist(), strict=True)]
        low, high = torch.tensor(ends, dtype=torch.float64).T
        return (label.double() >= low) & (label.double() <= high), high - low
    sets = sets_of(predicted, bounds)
    return sets.gather(1, label.long().unsqueeze(1)).squeeze(1), sets.sum(1).double()


def write_calibration(run: RunFolder, about: Mapping[str, Any], models: Mapping[str, Calibration]) -> None:
    """Writes `calibration.json`.

    Args:
        run: The run.
        about: What it says of itself.
        models: By seed, and under `all`.

    Raises:
        WriteError: It cannot be written.
    """
    values = {"format": FORMAT, "mmrobust": mmrobust.__version__, **about}
    values["models"] = {key: calibration.to_dict() for key, calibration in models.items()}
    run.write(run.calibration, to_json(values, indent=1) + "\n")


def read_calibration(run: RunFolder) -> tuple[dict[str, Any], dict[str, Calibration]] | None:
    """What `calibration.json` says of itself, and the calibrations; None where there is none.

    Raises:
        DamagedError: The file is not the one that was written.
    """
    values = run.read_json(run.calibration)
    if values is None or values.get("format") != FORMAT:
        return None
    try:
        models = {key: Calibration.from_dict(one) for key, one in values.pop("models").items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise run.damaged(run.calibration, "a value is missing or of another kind") from error
    return values, models
