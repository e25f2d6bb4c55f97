"""Which differences of a study are more than luck: against the reference, against the best, against the constant.

One test serves all three (`mmrobust.robustness.significance.paired`). The conclusions of a study rest on its primary
measure: Holm's correction runs over all variants and places (clean scores, and the area under each noise) of that one
measure. Every other measure is exploratory: its p-values are shown, and nothing in it is called significant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mmrobust.measures import describe
from mmrobust.robustness.resampling import Predicted, permute, resample
from mmrobust.robustness.significance import Difference, holm, paired, seeds_needed
from mmrobust.robustness.sweep import CLEAN
from mmrobust.training import Meter

__all__ = ["Rows", "compare_with_reference", "correct", "mark_at_chance", "mark_best"]

ALPHA = 0.05

Rows = dict[str, dict[str, dict[str, Any]]]  # {variant: {measure: score}}
Samples = Mapping[str, Mapping[str, Mapping[int, Tensor]]]  # {variant: {measure: {seed: 1 + resamples}}}


def compare_with_reference(
    where: str, names: Sequence[str], rows: Rows, known: Mapping[str, Predicted], meter: Meter
) -> dict[str, dict[str, dict[int, Tensor]]]:
    """Fills in the differences of one table, and returns the resampled scores.

    Args:
        where: `clean`, or the name of a noise, of which the area under the curve is taken.
        names: The reference, and the variants that met what it met.
        rows: The table.
        known: What each variant predicted.
        meter: Shows the progress.

    Returns:
        `{variant: {measure: {seed: 1 + resamples}}}`.
    """
    reference, *others = names
    first, measures = known[reference], list(rows[reference])
    samples = {reference: resample(first, where, measures)}
    meter.update(meter.done + 1, label=f"compare {reference}")
    for name in others:
        meter.update(meter.done, label=f"compare {name}")
        samples[name] = resample(known[name], where, measures)
        exchanged = permute(first, known[name], where, measures)
        for measure in measures:
            one = paired(samples[reference][measure], samples[name][measure], first.size)
            rows[name][measure].update(
                difference=one.value, low=one.low, high=one.high, p=one.p, seeds_needed=seeds_needed(one),
                p_permutation=exchanged[measure],
            )  # fmt: skip
        meter.update(meter.done + 1)
    return samples


def mark_best(rows: Rows, samples: Samples, size: int) -> None:
    """Marks, in each measure, the best variant and every one that cannot be told from it.

    All pairs of variants are tested and corrected together (Holm), so that it does no harm that the best one was
    chosen by the same scores. A variant with a single seed is never marked, and nothing is where the best has one.

    Args:
        rows: The table.
        samples: Resampled scores of the variants that can be compared.
        size: Samples of the split.
    """
    for measure in {m: None for row in samples.values() for m in row}:
        means = {name: rows[name][measure]["mean"] for name in samples}
        means = {name: mean for name, mean in means.items() if mean is not None and math.isfinite(mean)}
        if len(means) < 2:
            continue
        best = (max if describe(measure).better == "higher" else min)(means, key=lambda name: means[name])
        pairs = list(combinations(means, 2))
        tests = [paired(samples[a][measure], samples[b][measure], size).p for a, b in pairs]
        corrected = dict(zip(pairs, holm([math.nan if p is None else p for p in tests]), strict=True))
        against = {name: p for pair, p in corrected.items() if best in pair for name in pair if name != best}
        if all(math.isnan(p) for p in against.values()):
            continue
        for name in means:
            rows[name][measure]["best"] = name == best or against[name] >= ALPHA


def correct(tables: Sequence[Mapping[str, Any]], primary: str) -> int:
    """Corrects the p-values of the primary measure over all variants and all tables; the others stay exploratory.

    Args:
        tables: With their rows.
        primary: The primary measure.

    Returns:
        How many differences were corrected together.
    """
    scores = [row[primary] for table in tables for row in table["rows"].values() if primary in row]
    tested = [score for score in scores if score["p"] is not None]
    for score, p in zip(tested, holm([score["p"] for score in tested]), strict=True):
        score.update(p_holm=p, significant=p < ALPHA)
    return len(tested)


def mark_at_chance(rows: Rows, known: Mapping[str, Predicted], evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Marks, in each measure, the variants whose clean score is not better than that of the constant prediction.

    With two seeds or more it has to be better by more than luck, by the same test as everything else, uncorrected.

    Args:
        rows: The table of clean scores.
        known: What each variant predicted.
        evaluations: Of each variant; an older one does not know the constant prediction, and is not marked.
    """
    for name, row in rows.items():
        constant = evaluations[name].get("constant")
        if name not in known or not constant:
            continue
        own = resample(known[name], CLEAN, list(row))
        same = resample(_constantly(known[name], constant["prediction"]), CLEAN, list(row))
        for measure, score in row.items():
            score["at_chance"] = _not_better(paired(same[measure], own[measure], known[name].size), measure)


def _constantly(run: Predicted, prediction: Sequence[float]) -> Predicted:
    """A run whose every seed predicts the same for every sample."""
    values = torch.tensor(prediction, dtype=torch.float32).expand(run.size, -1)
    return Predicted(run.task, {seed: replace(saved, predictions={CLEAN: values}) for seed, saved in run.saved.items()})


def _not_better(gain: Difference, measure: str) -> bool:
    """Whether a difference to the constant prediction is none, or none that can be told from luck."""
    better = describe(measure).improves(gain.value, 0) if math.isfinite(gain.value) else False
    return not better or (gain.p is not None and gain.p >= ALPHA)
