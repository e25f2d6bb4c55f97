"""Whether one run is better than another, or only luckier: on the same samples, under the same noise.

The paired bootstrap draws samples anew, the same ones for both runs, and training seeds anew, for each run its own.
Of k seeds k - 1 are drawn, with which the variance of their mean comes out right (Rao and Wu, 1988) where k drawn
seeds would make it too small. A run of a single seed says nothing about how much seeds differ: then intervals hold for
these very weights only, and no run is called better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmrobust.contracts import Task
from mmrobust.errors import MmrobustError, UsageError
from mmrobust.measures import check, describe, measure_many
from mmrobust.randomness import generator
from mmrobust.robustness import store
from mmrobust.robustness.sweep import CLEAN, auilc
from mmrobust.training import RunFolder

__all__ = ["Comparison", "bootstrap", "compare", "holm"]

_AT_ONCE = 2**22  # predictions gathered at a time


@dataclass(frozen=True)
class Comparison:
    """One measure of two runs, a and b.

    Attributes:
        where: `clean`, or the name of a noise, of which the AUILC is compared.
        measure: Its name.
        a: Mean over a's seeds.
        b: Mean over b's seeds.
        difference: b - a.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p: Two-sided probability of a difference at least as large if there were none.
        p_holm: The same, corrected by Holm's method for all comparisons made together.
        seeds: Number of seeds of a and of b.
    """

    where: str
    measure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: tuple[int, int]

    @property
    def better(self) -> str | None:
        """`a` or `b` where the corrected test says so at 5 %; None otherwise, and wherever a run has a single seed."""
        if min(self.seeds) < 2 or not self.p_holm < 0.05:
            return None
        return "b" if describe(self.measure).improves(self.b, self.a) else "a"


def compare(
    a: str | Path | RunFolder,
    b: str | Path | RunFolder,
    measures: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Comparison]:
    """Compares two evaluated runs: clean scores, and the area under the curve of each noise.

    Args:
        a: A run.
        b: Another run, evaluated on the same samples, rates and draws.
        measures: Which ones; all that the evaluation of a has where None.
        resamples: Of the bootstrap.
        seed: Source of the resamples.

    Raises:
        UsageError: The runs did not meet the same samples or the same noise.
        MmrobustError: A run is not evaluated, or its files are damaged.
    """
    (task, names, saved_a), (_, _, saved_b) = _read(RunFolder.open(a)), _read(RunFolder.open(b))
    names = names if measures is None else check(task, measures)
    for key in ("ids", "rates", "draws", "noise_seed", "options"):
        if getattr(saved_a[0], key) != getattr(saved_b[0], key):
            raise UsageError(f"the two runs cannot be compared: their {_WORDS[key]} are not the same")
    if not torch.equal(saved_a[0].label, saved_b[0].label):
        raise UsageError("the two runs cannot be compared: their labels are not the same")

    rows: list[tuple[str, str, tuple[float, float, float, float, float, float]]] = []
    for where in saved_a[0].predictions:
        of_a, of_b = (torch.stack([one.predictions[where] for one in saved]) for saved in (saved_a, saved_b))
        for name in names:
            if where == CLEAN:
                score = lambda p, y, name=name: measure_many(task, p, y, [name])[name]
            else:
                # seeds r d b n c: the mean over the draws, the area over the rates
                score = lambda p, y, name=name: auilc(
                    saved_a[0].rates, measure_many(task, p, y, [name])[name].mean(2).movedim(1, -1)
                )
            label = saved_a[0].label
            rows.append((where, name, bootstrap(score, of_a, of_b, label, resamples, seed)))
    corrected = holm([found[-1] for _, _, found in rows])
    seeds = (len(saved_a), len(saved_b))
    return [
        Comparison(where, name, *found, p_holm, seeds)
        for (where, name, found), p_holm in zip(rows, corrected, strict=True)
    ]


_WORDS = {
    "ids": "samples",
    "rates": "rates",
    "draws": "numbers of draws",
    "noise_seed": "noise seeds",
    "options": "noises",
}


def bootstrap(
    score: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, label: Tensor, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float, float, float, float]:
    """The paired bootstrap of one score.

    Args:
        score: Maps predictions `seeds ... resamples n c` and labels `resamples n ...` to `seeds resamples`.
        a: Predictions of one run, `seeds ... n c`.
        b: Those of the other; its number of seeds may differ.
        label: `n` or `n k`.
        resamples: How many.
        seed: Source of all of them.

    Returns:
        Mean of a, mean of b, b - a, lower and upper end of its 95 % interval, two-sided p.
    """
    everyone = torch.arange(len(label)).unsqueeze(0)
    whole = [_scores(score, x, label, everyone).mean().item() for x in (a, b)]
    random = generator(seed, "bootstrap")
    index = torch.randint(len(label), (resamples, len(label)), generator=random)
    means = []
    for x in (a, b):
        values = _scores(score, x, label, index)  # seeds resamples
        count = len(values)
        chosen = torch.randint(count, (max(count - 1, 1), resamples), generator=random)
        means.append(values.gather(0, chosen).mean(0))
    difference = means[1] - means[0]
    difference = difference[difference.isfinite()]
    if not len(difference):
        return whole[0], whole[1], whole[1] - whole[0], float("nan"), float("nan"), float("nan")
    low, high = difference.quantile(torch.tensor([0.025, 0.975], dtype=difference.dtype)).tolist()
    tail = min((difference <= 0).sum().item(), (difference >= 0).sum().item())
    p = min(1.0, 2 * (tail + 1) / (len(difference) + 1))
    return whole[0], whole[1], whole[1] - whole[0], low, high, p


def _scores(score: Callable[[Tensor, Tensor], Tensor], x: Tensor, label: Tensor, index: Tensor) -> Tensor:
    """The score of each seed on each resample, `seeds resamples`, a handful of resamples at a time."""
    step = max(1, _AT_ONCE // x.numel())
    return torch.cat([score(x[..., some, :], label[some]) for some in index.split(step)], -1)


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values for being many (Holm, 1979); NaN stays NaN and does not count."""
    order = sorted((value, i) for i, value in enumerate(p) if value == value)
    corrected, largest = list(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected


def _read(folder: RunFolder) -> tuple[Task, list[str], list[store.Saved]]:
    try:
        told = json.loads(folder.evaluation.read_text(encoding="utf-8"))
        task = Task(**{**told["task"], "names": tuple(told["task"]["names"])})
        saved = [store.read(folder.predictions / f"seed-{seed}.safetensors") for seed in told["seeds"]]
        return task, told["measures"], saved
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmrobustError(
            f"{folder.evaluation} is missing or damaged; evaluate the run first: mmrobust evaluate {folder.path}"
        ) from error
