"""The analysis of a trained model, for one seed's best checkpoint; nothing in it chooses or changes anything.

`analysis.json` holds:

    format          1
    mmrobust        version that made it
    recipe, split, samples, seed, epoch
    noise           {name, rate}: what the parts under noise meet, and at which rate
    runs            [{run, recipe, seed, epoch, similarity, probes, attention}]: this one, then that of `against`
        similarity  {generic_generic, generic_specific: {pairs, mean, std, bandwidth, grid, density}}
        probes      [{asks: modality | noise, reads: encoded | generic | specific, accuracy, train, chance, samples}]
        attention   {rates, mass, share}: of attention on erased steps, and of erased steps among all
    map             {id, label, queries, keys: {modality: cells}, erased: [cell], clean, noisy: [row][cell]}
    worst           [{id, label, clean, noisy, error, error_clean, erased: {modality: [steps, of]}}]
    limit           {noise: {rates, gap: {measure: [r]}}}: how much better the best possible prediction would be

A part that a model or its data does not allow is `{"missing": why}`. Noise is the one that `mmrobust evaluate` draws
first at each rate. In `limit` are the means over all seeds and draws, from `evaluation.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

import mmrobust
from mmrobust.analysis.attention_maps import attention_map, attention_on_erased
from mmrobust.analysis.gap import gap_to_limit
from mmrobust.analysis.probes import probe_stages
from mmrobust.analysis.samples import sample_number, worst_samples
from mmrobust.analysis.similarity import similarity_of
from mmrobust.analysis.trained import Trained, open_trained
from mmrobust.errors import UsageError
from mmrobust.training import Meter, RunFolder
from mmrobust.training.folder import to_json

__all__ = ["Analysis", "analyze"]

FORMAT = 1


class Analysis(dict[str, Any]):
    """What stands in `analysis.json`; shows itself in a few lines.

    Attributes:
        report: The page that shows it, once there is one.
    """

    report: Path | None = None

    def __str__(self) -> str:
        lines = []
        for run in self["runs"]:
            lines.append(f"{run['run']}, seed {run['seed']}, epoch {run['epoch']}, {self['split']} split")
            lines += [f"  {name}: {text}" for name, text in _in_words(run, self["noise"])]
        for name in ("map", "worst", "limit"):
            if "missing" in self[name]:
                lines.append(f"  {name}: {self[name]['missing']}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def analyze(
    run: str | Path | RunFolder,
    *,
    seed: int | None = None,
    sample: str | None = None,
    rate: float = 0.5,
    against: str | Path | RunFolder | None = None,
    changed_data: bool = False,
    quiet: bool = False,
) -> Analysis:
    """Looks into a trained model, and writes `analysis.json` into its run.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        seed: Which of its seeds; the first by default.
        sample: Id of the sample whose attention is shown; drawn at random (always the same one) by default.
        rate: Of the noise, for what is shown at one rate: the first noise of the recipe's `evaluate`.
        against: Another run, of which similarities, probes and attention are taken too.
        changed_data: Go on although a data file is not the one that the run was trained on.
        quiet: Say nothing on stderr.

    Returns:
        What stands in `analysis.json`.

    Raises:
        UsageError: There is no such run, seed or sample, or the rate is not in (0, 1].
        CheckpointError: No seed was trained, or a checkpoint is damaged.
        DataError: The data cannot be read.
        WriteError: The file cannot be written.
    """
    if not 0 < rate <= 1:
        raise UsageError(f"--rate {rate:g}: a rate of noise is more than 0 and at most 1")
    trained = open_trained(run, seed, changed_data)
    others = [] if against is None else [open_trained(against, None, changed_data)]
    number = sample_number(trained.split, sample)
    settings = trained.built.recipe.evaluate
    rates = [r for r in settings.rates if r > 0] or [rate]
    passes = sum(
        len(one.split) * (2 + len(rates)) + 2 * len(one.built.dataset.splits["train"]) for one in (trained, *others)
    )
    with torch.no_grad(), Meter("analyze", passes, quiet=quiet) as meter:
        result = Analysis(
            format=FORMAT,
            mmrobust=mmrobust.__version__,
            recipe=trained.built.recipe.name,
            split=settings.split,
            samples=len(trained.split),
            seed=trained.seed,
            epoch=trained.epoch,
            noise={"name": trained.noise_name, "rate": rate},
            runs=[_compared(one, rate, rates, meter) for one in (trained, *others)],
            map=attention_map(trained, number, rate),
            worst=worst_samples(trained, rate),
            limit=gap_to_limit(trained.folder),
        )
    trained.folder.write(trained.folder.analysis, to_json(result, indent=1) + "\n")
    return result


def _compared(trained: Trained, rate: float, rates: Sequence[float], meter: Meter) -> dict[str, Any]:
    """What is taken of each of the runs that stand side by side."""
    meter.update(meter.done, label=f"analyze {trained.built.recipe.name}")
    features = trained.pooled_splits(rate, meter)
    return {
        "run": "/".join(trained.folder.path.resolve().parts[-2:]),
        "recipe": trained.built.recipe.name,
        "seed": trained.seed,
        "epoch": trained.epoch,
        "similarity": similarity_of(features["test"]["generic"], features["test"]["specific"]),
        "probes": probe_stages(features),
        "attention": attention_on_erased(trained, rates, meter),
    }


def _in_words(run: Mapping[str, Any], noise: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A run's similarities, probes and attention, a line each: name and text."""
    similar = run["similarity"]
    words = {"generic_generic": "NRGF-NRGF", "generic_specific": "NRGF-MF"}
    means = ", ".join(f"{words[key]} {one['mean']:.3f}" for key, one in similar.items() if key in words)
    yield "similarity", similar.get("missing") or means
    for asks in ("modality", "noise"):
        some = [one for one in run["probes"] if one["asks"] == asks]
        if some:
            accuracies = ", ".join(f"{one['reads']} {one['accuracy']:.1%}" for one in some)
            yield f"probe for {asks}", f"{accuracies} (chance {some[0]['chance']:.1%})"
    attention = run["attention"]
    if "missing" in attention:
        yield "attention", attention["missing"]
        return
    i = min(range(len(attention["rates"])), key=lambda i: abs(attention["rates"][i] - noise["rate"]))
    at, mass, share = (attention[key][i] for key in ("rates", "mass", "share"))
    where = f"at rate {at:g} of {noise['name']}"
    yield "attention", f"{mass:.1%} on erased steps, which are {share:.1%} of all, {where}"
