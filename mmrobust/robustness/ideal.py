"""The confidence of the best possible prediction, where the data knows the exact posterior of its labels.

An interval of the posterior is the shortest that holds the wanted probability, a set the smallest. Labels that lie on a
grid make both hold a little more than was wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Dataset, Posterior, Task
from mmrobust.measures.confidence import aurc, brier, calibration_error, log_loss
from mmrobust.measures.limit import weighted_median
from mmrobust.robustness.sweep import Grid, blocks_of, noisy_blocks, restrict

__all__ = ["ideal_confidence", "shortest_interval", "smallest_set"]


def ideal_confidence(
    dataset: Dataset, name: str, grid: Grid, coverage: float, modalities: Sequence[str] | None = None
) -> dict[str, Any] | None:
    """What a model could be sure of that made the best of its input, under the first draw at each rate.

    Args:
        dataset: Whose posterior is taken.
        name: The split.
        grid: What is tried.
        coverage: Of intervals and sets.
        modalities: What the model may look at; everything where None.

    Returns:
        `{clean: {measure: value}, noises: {noise: {measure: [r]}}}`; None where no posterior is known, and without the
        noises under which none is known.
    """
    split = restrict(dataset.splits[name], modalities)
    label, blocks = split.label, list(blocks_of(split))
    if label is None or dataset.posterior(name, blocks[0]) is None:
        return None

    def measured(batches: Iterator[Batch]) -> dict[str, float] | None:
        parts = [dataset.posterior(name, batch) for batch in batches]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        whole = Posterior(known[0].values.cpu(), torch.cat([part.weights.cpu() for part in known]))
        return _measures(dataset.task, whole, label, coverage)

    clean = measured(iter(blocks))
    assert clean is not None
    noises = {}
    for key, noise in grid.noises.items():
        scores = [
            clean if rate == 0 else measured(noisy_blocks(noise, key, rate, 0, grid.seed, blocks))
            for rate in grid.rates
        ]
        known = [score for score in scores if score is not None]
        if len(known) == len(scores):
            noises[key] = {measure: [score[measure] for score in known] for measure in clean}
    return {"clean": clean, "noises": noises}


def _measures(task: Task, posterior: Posterior, label: Tensor, coverage: float) -> dict[str, float]:
    values, weights = posterior.values.double(), posterior.weights.double()
    if task.kind == "regression":
        low, high = shortest_interval(values, weights, coverage)
        inside = (label.double() >= low - 1e-6) & (label.double() <= high + 1e-6)
        loss = (weighted_median(values, weights) - label.double()).abs()
        return {
            "aurc": aurc(low - high, loss),
            "coverage": inside.double().mean().item(),
            "width": (high - low).mean().item(),
        }
    p = torch.zeros(len(weights), task.outputs, dtype=torch.float64).index_add_(1, values.long(), weights)
    correct = p.argmax(1) == label
    kept = smallest_set(p, coverage)
    ece, debiased = calibration_error(p.amax(1), correct)
    return {
        "ece": ece,
        "ece_debiased": debiased,
        "nll": log_loss(p, label),
        "brier": brier(p, label),
        "aurc": aurc(p.amax(1), (~correct).double()),
        "coverage": kept.gather(1, label.long().unsqueeze(1)).double().mean().item(),
        "size": kept.sum(1).double().mean().item(),
    }


def shortest_interval(values: Tensor, weights: Tensor, coverage: float) -> tuple[Tensor, Tensor]:
    """The ends of the shortest interval that holds the wanted probability, `n` each.

    Args:
        values: `g`.
        weights: Probability of each value, `n g`.
        coverage: The wanted probability.
    """
    values, order = values.sort()
    total = weights[:, order].cumsum(1)
    before = torch.cat([torch.zeros_like(total[:, :1]), total[:, :-1]], 1)
    # For each first value, the first last value with which the probability is reached; g where it never is.
    last = torch.searchsorted(total.contiguous(), (before + coverage - 1e-12).contiguous())
    width = torch.where(last < len(values), values[last.clamp(max=len(values) - 1)] - values, torch.inf)
    first = width.argmin(1, keepdim=True)
    return values[first.squeeze(1)], values[last.gather(1, first).squeeze(1)]


def smallest_set(p: Tensor, coverage: float) -> Tensor:
    """Which classes belong to the smallest set that holds the wanted probability, `n c`, bool."""
    ordered, order = p.sort(1, descending=True)
    needed = ordered.cumsum(1) - ordered < coverage - 1e-12
    return torch.zeros_like(needed).scatter(1, order, needed)
