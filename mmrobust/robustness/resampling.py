"""Scores of trained models on resamples of the test split, and on exchanged predictions, from `predictions/`.

Both are paired: every run meets the same resamples and the same exchanges, of the same samples and the same draws of
the noise. They are quick because every measure is a function of sums over samples (`mmrobust.robustness.additive`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrobust.contracts import Task
from mmrobust.contracts.randomness import generator
from mmrobust.errors import MmrobustError
from mmrobust.robustness import store
from mmrobust.robustness.additive import Additive, additive
from mmrobust.robustness.sweep import CLEAN, auilc
from mmrobust.training import RunFolder

__all__ = ["Predicted", "permute", "predicted", "resample"]

_AT_ONCE = 500  # exchanges


@dataclass(frozen=True)
class Predicted:
    """What every seed of a run predicted on the test split.

    Attributes:
        task: What was to be predicted.
        saved: The predictions of each seed.
    """

    task: Task
    saved: Mapping[int, store.Saved]

    @property
    def first(self) -> store.Saved:
        """Those of the first seed; all met the same."""
        return next(iter(self.saved.values()))

    @property
    def size(self) -> int:
        """Samples of the split."""
        return len(self.first.label)

    @property
    def met(self) -> tuple[tuple[str, ...], bytes]:
        """What the run was tested on; only runs that met the same can be compared."""
        return self.first.ids, self.first.label.numpy().tobytes()

    @property
    def noises(self) -> dict[str, str]:
        """What each noise was: use, options, rates, draws, seed."""
        one = self.first
        return {
            name: json.dumps([option, one.rates, one.draws, one.noise_seed], default=str)
            for name, option in one.options.items()
        }


def predicted(run: RunFolder) -> Predicted:
    """Reads the predictions of an evaluated run.

    Raises:
        MmrobustError: The run is not evaluated, or its files are damaged.
    """
    try:
        evaluation = run.read_evaluation()
        if evaluation is None:
            raise MmrobustError(f"{run.path} is not evaluated; run mmrobust evaluate {run.path}")
        task = Task(**{**evaluation["task"], "names": tuple(evaluation["task"]["names"])})
        saved = {k: store.load(run, evaluation, k) for k in evaluation["seeds"]}
    except (KeyError, TypeError) as error:
        raise run.damaged(run.evaluation, "it lacks a value") from error
    return Predicted(task, saved)


def resample(
    run: Predicted, where: str, measures: Sequence[str], resamples: int = 1000, seed: int = 0
) -> dict[str, dict[int, Tensor]]:
    """Scores every seed on resamples of the test split, drawn with replacement; the same ones for every run.

    Args:
        run: The run.
        where: `clean`, or a noise, of which the area under the curve is taken.
        measures: Their names.
        resamples: How many; 1000 give a standard error to 2 %.
        seed: Source of the resamples.

    Returns:
        `{measure: {seed: 1 + resamples}}`, float64, the score on the split itself first.
    """
    random = torch.randint(run.size, (resamples, run.size), generator=generator(seed, "resample"))
    index = torch.cat([torch.arange(run.size).unsqueeze(0), random])
    weights = torch.zeros(index.shape, dtype=torch.float64)
    weights.scatter_add_(1, index, torch.ones_like(weights)).div_(run.size)
    values: dict[str, dict[int, Tensor]] = {name: {} for name in measures}
    for k, saved in run.saved.items():
        for name, taken in _taken(run.task, saved, where, measures).items():
            values[name][k] = _area(saved, where, taken(weights))
    return values


def permute(
    first: Predicted, second: Predicted, where: str, measures: Sequence[str], swaps: int = 2000, seed: int = 0
) -> dict[str, float | None]:
    """Tests whether two runs' trained models differ, by exchanging their predictions of randomly chosen samples.

    If they do not differ, then who predicted what of a sample is arbitrary, and exchanges change the difference of the
    scores as often upwards as downwards. A sample's predictions are exchanged together, of all seeds, rates and draws.
    The seeds are taken as they are: what is found holds for these trained models and other samples.

    Args:
        first: A run.
        second: Another that met the same samples and noise.
        where: `clean`, or a noise, of which the area under the curve is taken.
        measures: Their names.
        swaps: How many exchanges; the smallest possible p-value is one over that number plus one.
        seed: Source of the exchanges.

    Returns:
        The two-sided p-value of each measure, None where the score is undefined.
    """
    seeds = [k for k in first.saved if k in second.saved]
    random = generator(seed, "exchange")
    chosen = torch.rand(swaps, first.size, generator=random) < 0.5
    chosen = torch.cat([torch.zeros(1, first.size, dtype=torch.bool), chosen]).double() / first.size
    found = dict.fromkeys(measures, torch.zeros(len(chosen), dtype=torch.float64))
    for k in seeds:
        ours = _taken(first.task, first.saved[k], where, measures)
        theirs = _taken(second.task, second.saved[k], where, measures)
        for name in measures:
            found[name] = found[name] + _exchanged(first.saved[k], where, ours[name], theirs[name], chosen)
    result: dict[str, float | None] = {}
    for name, value in found.items():
        there, again = value[0].abs(), value[1:].abs()
        # What is undefined after an exchange counts as far apart.
        beyond = (~(again < there * (1 - 1e-12))).sum().item()
        result[name] = (1 + beyond) / (1 + swaps) if seeds and there.isfinite() else None
    return result


def _exchanged(saved: store.Saved, where: str, ours: Additive, theirs: Additive, chosen: Tensor) -> Tensor:
    """The difference of the scores for each choice of samples, `s n` to `s`."""
    shift = theirs.parts - ours.parts
    parts = []
    for some in chosen.split(_AT_ONCE):
        moved = torch.einsum("...nq,sn->...sq", shift, some)
        new = theirs.finish(theirs.parts.mean(-2, keepdim=True) - moved)
        old = ours.finish(ours.parts.mean(-2, keepdim=True) + moved)
        parts.append(_area(saved, where, new) - _area(saved, where, old))
    return torch.cat(parts)


def _taken(task: Task, saved: store.Saved, where: str, measures: Sequence[str]) -> dict[str, Additive]:
    return additive(task, saved.predictions[where], saved.label, measures)


def _area(saved: store.Saved, where: str, values: Tensor) -> Tensor:
    """Clean scores as they are, `b`; else the area under the mean over the draws, `r d b` to `b`."""
    return values if where == CLEAN else auilc(saved.rates, values.mean(1).movedim(0, -1))
