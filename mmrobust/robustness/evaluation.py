"""Evaluation of a run: every seed's best checkpoint, clean and under noise, and what all seeds say together.

`evaluation.json` holds, in this order:

    format          1
    mmrobust        version that made it
    recipe          name
    split           which split was measured
    samples         how many it holds
    data            {use, splits: {name: samples}, modalities: {name: [steps, width]}, notes}
    task            {kind, outputs, measures, names}
    measures        names, in the order of the tables; see mmrobust.measures
    primary         the one measure that conclusions rest on: `evaluate.primary`, or the task's own
    constant, model, labels     see mmrobust.robustness.background
    seeds           training seeds, in order
    predictions     {seed: {file, sha256}}: what every score was taken of
    checkpoints     [{seed, epoch, measure, value}]: the epoch that the validation split chose
    rates, draws    of the noise; at rate 0 there is one draw
    noise_seed      source of every draw
    clean           {measure: {mean, std, n, each}}              each: one value for each seed
    limit           {measure: value}, or null                    of the clean data
    confidence      see mmrobust.robustness.confidence; null for tasks without intervals or sets
    noises          {name: {
        use, options
        at          {measure: {mean: [r], std: [r], n, each: [seed][rate][draw]}}
        auilc       {measure: {mean, std, n, each}}              equation 10, plain area over the rates
        auilc_mean  {measure: {mean, std, n, each}}              the same divided by the range of the rates
        rate_mean   {measure: {mean, std, n, each}}              plain mean over the rates, the clean one included
        limit       {at: {measure: {mean: [r], each: [rate][draw]}}, auilc: {measure: x}, ...}, or null
    }}

`mean` and `std` go over the seeds, after the mean over the draws; `std` has n - 1 in its denominator and is null for a
single seed. The area is taken of each seed's own mean curve. Undefined values are null. The file holds no times and no
paths: the same weights give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmrobust
from mmrobust import files
from mmrobust import recipe as recipes
from mmrobust.errors import DataError, nearest
from mmrobust.measures import describe, measure_many
from mmrobust.model.assemble import Built
from mmrobust.model.checks import evaluated, primary_of
from mmrobust.robustness import store
from mmrobust.robustness.background import background
from mmrobust.robustness.calibrating import Calibrating
from mmrobust.robustness.grids import grid_of
from mmrobust.robustness.sweep import CLEAN, Grid, auilc, auilc_mean, restrict, sweep, sweep_limit
from mmrobust.training import Checkpoints, Meter, RunFolder, choose_device, chosen_seeds, load_trained, open_data
from mmrobust.training.folder import to_json
from mmrobust.training.manifest import exclusive

__all__ = ["Evaluation", "evaluate"]

FORMAT = 1


class Evaluation(dict[str, Any]):
    """What stands in `evaluation.json`; shows itself as a table."""

    def __str__(self) -> str:
        columns = [("clean", self["clean"], self["limit"])]
        for name, found in self["noises"].items():
            columns.append((f"AUILC {name}", found["auilc"], found["limit"] and found["limit"]["auilc"]))
        rows = [[""] + [cell for title, _, limits in columns for cell in ([title, "limit"] if limits else [title])]]
        for name in self["measures"]:
            measure, row = describe(name), []
            for _, scores, limits in columns:
                score = scores[name]
                spread = "" if score["std"] is None else f" ± {measure.show(score['std'])}"
                row += [measure.show(score["mean"]) + spread] + ([measure.show(limits[name])] if limits else [])
            rows.append([measure.title, *row])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ]
        count = len(self["seeds"])
        seeds = f"mean ± standard deviation over {count} seeds" if count > 1 else "one seed, so no spread is known"
        return "\n".join([f"{self['split']} split, {self['samples']} samples, {seeds}", *lines])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def evaluate(
    run: str | Path | RunFolder,
    overrides: recipes.Overrides = (),
    *,
    changed_data: bool = False,
    quiet: bool = False,
) -> Evaluation:
    """Measures every trained seed of a run, clean and under noise, and writes `evaluation.json` and `predictions/`.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        overrides: Changes to the recipe's `evaluate` settings, e.g. `evaluate.draws=10`, or to `train.device`.
        changed_data: Go on although a data file is not the one that the run was trained on; the notes say so.
        quiet: Say nothing on stderr.

    Returns:
        What stands in `evaluation.json`.

    Raises:
        UsageError: There is no such run, or an override is not about the evaluation.
        CheckpointError: No seed was trained, or a checkpoint is damaged.
        DamagedError: Another file of the run is damaged.
        ReadError: A file of the run cannot be read.
        DataError: The data cannot be read, is not that of the training, or has no such split.
        RecipeError: A noise or a measure is wrong.
        DivergedError: A prediction is not finite.
    """
    folder = RunFolder.open(run)
    allowed = ("evaluate", "data", "train.device")
    overrides = recipes.restricted(overrides, allowed, "to evaluate, change evaluate.*, data.* or train.device")
    seeds = chosen_seeds(folder, "all")
    dataset, notes = open_data(folder, overrides, changed=changed_data)
    built = load_trained(folder, seeds[0], dataset=dataset, overrides=overrides)
    settings = built.recipe.evaluate
    names = evaluated(built.recipe, built.context.task)
    split = built.dataset.splits.get(settings.split)
    if split is None or split.label is None:
        labelled = [name for name, other in built.dataset.splits.items() if other.label is not None]
        raise DataError(f"the data has no labelled split '{settings.split}'{nearest(settings.split, labelled)}")
    split = restrict(split, built.context.modalities)
    grid, parts = grid_of(built)
    primary_of(built.recipe, built.context.task)  # an error before anything is computed
    device = choose_device(built.recipe)

    predictions: dict[int, dict[str, Tensor]] = {}
    calibrating = Calibrating.of(folder, built, seeds)
    limits = sweep_limit(built.dataset, settings.split, grid, names, built.context.modalities)
    folder.say(f"evaluates seeds {', '.join(map(str, seeds))}")  # and finds out now whether it may write there
    passes = (len(split) * grid.cells + calibrating.passes) * len(seeds)
    with Meter("evaluate", passes, quiet=quiet) as meter:
        tick = lambda count: meter.update(meter.done + count)
        for seed in seeds:
            meter.update(meter.done, label=f"evaluate seed {seed}")
            model = load_trained(folder, seed, dataset=built.dataset, overrides=overrides).model.to(device)
            predictions[seed] = sweep(model, split, grid, batch_size=settings.batch_size, device=device, tick=tick)
            calibrating.predict(seed, model, settings.batch_size, device, tick)
            meter.say(f"evaluated seed {seed}  {meter.left} left", plain_only=True)
            folder.say(f"evaluated seed {seed}")

    assert split.label is not None
    best = {seed: Checkpoints(folder.seed(seed)).best().state.best for seed in seeds}
    result = Evaluation(_summarise(built, grid, parts, names, split.label, predictions, limits, best))
    result["data"]["notes"] += notes
    result["confidence"] = calibrating.confidence(split, grid, predictions)
    with files.explained(folder.predictions):
        folder.predictions.mkdir(exist_ok=True)
    with exclusive(folder.predictions):  # another evaluation would take what is not named yet for left over
        for seed, predicted in predictions.items():
            result["predictions"][str(seed)] = store.save(
                folder,
                seed,
                store.Saved(tuple(split.ids), split.label, tuple(grid.rates), grid.draws, grid.seed, parts, predicted),
            )
        folder.write(folder.evaluation, to_json(result, indent=1) + "\n")
        store.clean(folder, result)
    return result


def summary(values: Sequence[float] | Tensor) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; None for one value), number and the values themselves."""
    x = torch.as_tensor(values, dtype=torch.float64)
    std = x.std(correction=1).item() if len(x) > 1 else None
    return {"mean": x.mean().item(), "std": std, "n": len(x), "each": x.tolist()}


def _summarise(
    built: Built,
    grid: Grid,
    parts: Mapping[str, Any],
    names: Sequence[str],
    label: Tensor,
    predictions: Mapping[int, Mapping[str, Tensor]],
    limits: Mapping[str, Mapping[str, Tensor]] | None,
    best: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    task = built.context.task
    scores = {
        seed: {key: measure_many(task, x, label, names) for key, x in found.items()}
        for seed, found in predictions.items()
    }
    seeds = list(predictions)

    def over_seeds(key: str, name: str) -> Tensor:
        return torch.stack([scores[seed][key][name] for seed in seeds])  # seeds r d

    noises = {}
    for key, part in parts.items():
        at, areas = {}, {area: {} for area in _AREAS}
        for name in names:
            values = over_seeds(key, name)
            curves = values.mean(-1)
            std = curves.std(0, correction=1).tolist() if len(seeds) > 1 else [None] * len(grid.rates)
            at[name] = {
                "mean": curves.mean(0).tolist(),
                "std": std,
                "n": len(seeds),
                "each": [_draws(grid, value) for value in values],
            }
            for area, function in _AREAS.items():
                areas[area][name] = summary(function(grid.rates, curves))
        noises[key] = {**part, "at": at, **areas, "limit": _limit_of(grid, limits, key, names)}
    return {
        "format": FORMAT,
        "mmrobust": mmrobust.__version__,
        "recipe": built.recipe.name,
        "split": built.recipe.evaluate.split,
        "samples": len(label),
        "data": {
            "use": built.recipe.data.use,
            "splits": {name: len(split) for name, split in built.dataset.splits.items()},
            "modalities": {m: [shape.length, shape.width] for m, shape in built.context.features.items()},
            "notes": list(built.dataset.notes),
        },
        "task": {"kind": task.kind, "outputs": task.outputs, "measures": task.measures, "names": list(task.names)},
        "measures": list(names),
        "primary": primary_of(built.recipe, task),
        **background(built, label, names),
        "seeds": seeds,
        "predictions": {},
        "checkpoints": [{"seed": seed, **best[seed]} for seed in seeds],
        "rates": list(grid.rates),
        "draws": grid.draws,
        "noise_seed": grid.seed,
        "clean": {name: summary(over_seeds(CLEAN, name)) for name in names},
        "limit": {name: limits[CLEAN][name].item() for name in names} if limits else None,
        "noises": noises,
    }


_AREAS: dict[str, Callable[[Sequence[float], Tensor], Tensor]] = {
    "auilc": auilc,
    "auilc_mean": auilc_mean,
    "rate_mean": lambda _, values: values.double().mean(-1),  # what LNLN reports, over the rates 0, 0.1, ..., 0.9
}


def _limit_of(
    grid: Grid, limits: Mapping[str, Mapping[str, Tensor]] | None, key: str, names: Sequence[str]
) -> dict[str, Any] | None:
    if not limits or key not in limits:
        return None
    values = limits[key]
    return {
        "at": {m: {"mean": values[m].mean(-1).tolist(), "each": _draws(grid, values[m])} for m in names},
        **{area: {m: f(grid.rates, values[m].mean(-1)).item() for m in names} for area, f in _AREAS.items()},
    }


def _draws(grid: Grid, values: Tensor) -> list[list[float]]:
    """`r d` as lists, one draw at rate 0."""
    return [row[: 1 if rate == 0 else None].tolist() for rate, row in zip(grid.rates, values, strict=True)]
