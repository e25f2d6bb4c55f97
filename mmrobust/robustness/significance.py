"""Many runs against one: scores of each seed on resampled test sets, and a paired test that holds for few seeds.

The test asks whether the difference of two runs would show again with other test samples and other training seeds. Both
sources of luck are estimated from pairs, the same samples, draws and seeds on both sides:

- samples: the variance of the mean difference over bootstrap resamples of the test set;
- seeds: the variance of the difference over k seeds, divided by k; or the same as all v runs of the study show it
  together (the residual of runs x seeds), where that is larger: few seeds may agree by chance.

Their sum is the variance of a t statistic with (v - 1)(k - 1) degrees of freedom. What seeds and samples do together is
counted in both, and the samples' many degrees of freedom are not counted: both err on the side of caution. A p-value so
made has no smallest step, as counted resamples have, so that Holm's correction over a table of forty comparisons does
not need ten thousand resamples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mmrobust.contracts import Task
from mmrobust.errors import MmrobustError
from mmrobust.measures import measure_many
from mmrobust.randomness import generator
from mmrobust.robustness import store
from mmrobust.robustness.sweep import CLEAN, auilc
from mmrobust.training import RunFolder

__all__ = ["Difference", "Resampled", "holm", "paired", "resample"]

_AT_ONCE = 2**21  # predictions gathered at a time


@dataclass(frozen=True)
class Resampled:
    """What each seed of a run scores on the test split and on resamples of it.

    Attributes:
        met: What the run was tested on; only runs that met the same can be compared.
        size: Samples of the split.
        values: For `clean` and each noise, of which the AUILC is taken: `{measure: {seed: 1 + resamples}}`, float64,
            the score on the split itself first.
        noises: What each noise was: use, options, rates, draws, seed.
    """

    met: tuple[tuple[str, ...], bytes]
    size: int
    values: Mapping[str, Mapping[str, Mapping[int, Tensor]]]
    noises: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """How much one run differs from another, and whether that can be told from luck.

    Attributes:
        value: Mean over the shared seeds.
        low: Lower end of its 95 % interval; None for fewer than two shared seeds.
        high: Upper end.
        p: Two-sided; None for fewer than two shared seeds.
        seeds: How many seeds all runs have.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds: int = 0


def resample(run: RunFolder, measures: Sequence[str], resamples: int = 200, seed: int = 0) -> Resampled:
    """Scores every seed of an evaluated run on resamples of the test split; the same ones for every run.

    Args:
        run: The run.
        measures: Their names.
        resamples: How many; 200 give a standard error to 5 %.
        seed: Source of the resamples.

    Raises:
        MmrobustError: The run is not evaluated, or its files are damaged.
    """
    try:
        told = json.loads(run.evaluation.read_text(encoding="utf-8"))
        task = Task(**{**told["task"], "names": tuple(told["task"]["names"])})
        saved = {k: store.read(run.predictions / f"seed-{k}.safetensors") for k in told["seeds"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmrobustError(f"{run.evaluation} is missing or damaged; run mmrobust evaluate {run.path}") from error
    first = next(iter(saved.values()))
    size = len(first.label)
    random = torch.randint(size, (resamples, size), generator=generator(seed, "resample"))
    index = torch.cat([torch.arange(size).unsqueeze(0), random])
    values: dict[str, dict[str, dict[int, Tensor]]] = {}
    for where in first.predictions:
        values[where] = {name: {} for name in measures}
        for k, one in saved.items():
            for name, value in _scores(task, one, where, measures, index).items():
                values[where][name][k] = value
    noises = {
        name: json.dumps([option, first.rates, first.draws, first.noise_seed], default=str)
        for name, option in first.options.items()
    }
    return Resampled((first.ids, first.label.numpy().tobytes()), size, values, noises)


def _scores(task: Task, saved: store.Saved, where: str, measures: Sequence[str], index: Tensor) -> dict[str, Tensor]:
    """The score on each resample, `resamples`: clean, or the area under the mean over the draws."""
    x = saved.predictions[where]
    parts: list[dict[str, Tensor]] = []
    for some in index.split(max(1, _AT_ONCE // x.numel())):
        found = measure_many(task, x[..., some, :], saved.label[some], measures)
        if where != CLEAN:  # r d b -> b
            found = {name: auilc(saved.rates, value.mean(1).movedim(0, -1)) for name, value in found.items()}
        parts.append(found)
    return {name: torch.cat([part[name] for part in parts]) for name in measures}


def paired(reference: Mapping[int, Tensor], others: Sequence[Mapping[int, Tensor]], size: int) -> list[Difference]:
    """How much each of several runs differs from one, over the seeds that all have.

    Args:
        reference: Scores of each seed on the split and its resamples, `1 + resamples`.
        others: Those of the other runs on the same resamples.
        size: Samples of the split.
    """
    seeds = [k for k in reference if all(k in other for other in others)]
    if not seeds or not others:
        return [Difference(float("nan")) for _ in others]
    table = torch.stack([torch.stack([run[k] for k in seeds]) for run in (reference, *others)])  # v k 1+resamples
    count, freedom = len(seeds), len(others) * (len(seeds) - 1)
    each = table[..., 0]
    residual = each - each.mean(0, keepdim=True) - each.mean(1, keepdim=True) + each.mean()
    pooled = 2 * residual.square().sum().item() / freedom if freedom else math.nan
    return [_difference(table[i] - table[0], pooled, freedom, count, size) for i in range(1, len(table))]


def _difference(table: Tensor, pooled: float, freedom: int, count: int, size: int) -> Difference:
    whole, again = table[:, 0], table[:, 1:].mean(0)
    again = again[again.isfinite()]
    value = whole.mean().item()
    if count < 2 or size < 2 or len(again) < 2 or not math.isfinite(value + pooled):
        return Difference(value, seeds=count)
    error = math.sqrt(again.var().item() + max(whole.var().item(), pooled) / count)
    if error == 0:  # the very same predictions
        return Difference(value, value, value, 1.0 if value == 0 else 0.0, count)
    reach = _critical(freedom) * error
    return Difference(value, value - reach, value + reach, two_sided(value / error, freedom), count)


def two_sided(t: float, freedom: float) -> float:
    """Probability that Student's t with so many degrees of freedom is at least as far from 0 as `t`."""
    # With t = sqrt(f) tan(u) the density is cos(u)^(f - 1) up to a factor, smooth on a finite range.
    log = lambda u: (freedom - 1) * torch.cos(u).clamp(min=1e-300).log()
    start = math.atan(abs(t) / math.sqrt(freedom))
    u = torch.linspace(start, math.pi / 2, 4097, dtype=torch.float64)
    factor = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    return min(1.0, 2 * torch.trapezoid((log(u) + factor).exp(), u).item())


@lru_cache
def _critical(freedom: float) -> float:
    """The t that is passed with a probability of 5 %, either side."""
    low, high = 0.0, 2000.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > 0.05 else (low, middle)
    return high


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values for being many (Holm, 1979); NaN stays NaN and does not count."""
    order = sorted((value, i) for i, value in enumerate(p) if value == value)
    corrected, largest = list(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected
