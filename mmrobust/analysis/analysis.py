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

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmrobust
from mmrobust import files
from mmrobust.analysis import attention as maps
from mmrobust.analysis.probes import probe
from mmrobust.analysis.similarity import similarities, summarise
from mmrobust.contracts import Batch, Noise, Outputs, Split, Stream, Streams, Task
from mmrobust.contracts.randomness import generator
from mmrobust.errors import CheckpointError, DataError, UsageError, nearest
from mmrobust.measures import describe
from mmrobust.model.assemble import Built
from mmrobust.nn.attention import record
from mmrobust.robustness.evaluation import grid_of
from mmrobust.robustness.sweep import BLOCK, blocks_of, noisy_blocks, restrict
from mmrobust.training import Checkpoints, Meter, RunFolder, choose_device, finished_seeds, load_trained
from mmrobust.training.folder import to_json

__all__ = ["Analysis", "analyze"]

FORMAT = 1
WORST = 10
CELLS = 20  # of a modality, in a picture of attention
_WEIGHTS = 2**23  # attention weights of one head and block at a time

Missing = dict[str, str]


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
            lines += [f"  {name}: {text}" for name, text in _told(run, self["noise"])]
        for name in ("map", "worst", "limit"):
            if "missing" in self[name]:
                lines.append(f"  {name}: {self[name]['missing']}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _told(run: Mapping[str, Any], noise: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = run["similarity"]
    words = {"generic_generic": "NRGF-NRGF", "generic_specific": "NRGF-MF"}
    yield "similarity", found.get("missing") or ", ".join(f"{words[key]} {x['mean']:.3f}" for key, x in found.items())
    probes = run["probes"]
    for asks in ("modality", "noise"):
        some = [one for one in probes if one["asks"] == asks]
        if some:
            read = ", ".join(f"{one['reads']} {one['accuracy']:.1%}" for one in some)
            yield f"probe for {asks}", f"{read} (chance {some[0]['chance']:.1%})"
    seen = run["attention"]
    if "missing" in seen:
        yield "attention", seen["missing"]
    else:
        i = min(range(len(seen["rates"])), key=lambda i: abs(seen["rates"][i] - noise["rate"]))
        at, mass, share = (seen[key][i] for key in ("rates", "mass", "share"))
        yield (
            "attention",
            f"{mass:.1%} on erased steps, which are {share:.1%} of all, at rate {at:g} of {noise['name']}",
        )


@dataclass(frozen=True)
class _Loaded:
    """A trained seed and what it is looked at with."""

    folder: RunFolder
    built: Built
    seed: int
    epoch: int
    split: Split
    noise: Noise
    name: str
    device: torch.device

    @property
    def batch_size(self) -> int:
        steps = sum(shape.length for shape in self.built.context.features.values())
        return max(1, min(64, _WEIGHTS // (2 * steps) ** 2))


def analyze(
    run: str | Path | RunFolder,
    *,
    seed: int | None = None,
    sample: str | None = None,
    rate: float = 0.5,
    against: str | Path | RunFolder | None = None,
    quiet: bool = False,
) -> Analysis:
    """Looks into a trained model, and writes `analysis.json` into its run.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        seed: Which of its seeds; the first by default.
        sample: Id of the sample whose attention is shown; drawn at random (always the same one) by default.
        rate: Of the noise, for what is shown at one rate: the first noise of the recipe's `evaluate`.
        against: Another run, of which similarities, probes and attention are taken too.
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
    this = _load(run, seed)
    others = [] if against is None else [_load(against, None)]
    number = _sample(this.split, sample)
    rates = [r for r in this.built.recipe.evaluate.rates if r > 0] or [rate]
    settings = this.built.recipe.evaluate
    told: dict[str, Any] = {
        "format": FORMAT,
        "mmrobust": mmrobust.__version__,
        "recipe": this.built.recipe.name,
        "split": settings.split,
        "samples": len(this.split),
        "seed": this.seed,
        "epoch": this.epoch,
        "noise": {"name": this.name, "rate": rate},
        "runs": [],
    }
    passes = sum(len(x.split) * (2 + len(rates)) + 2 * len(x.built.dataset.splits["train"]) for x in (this, *others))
    with torch.no_grad(), Meter("analyze", passes, quiet=quiet) as meter:
        for one in (this, *others):
            told["runs"].append(_look(one, rate, rates, meter))
        told["map"] = _map(this, number, rate)
        told["worst"] = _worst(this, rate)
    told["limit"] = _limit(this.folder)
    files.write_atomic(this.folder.path / "analysis.json", to_json(told, indent=1) + "\n")
    return Analysis(told)


def _load(run: str | Path | RunFolder, seed: int | None) -> _Loaded:
    folder = RunFolder.open(run)
    seeds = finished_seeds(folder)
    if not seeds:
        raise CheckpointError(
            f"no seed of {folder.path} is trained yet; go on with: mmrobust train --resume {folder.path}"
        )
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise UsageError(f"{folder.path} has no trained seed {seed}; it has {', '.join(map(str, seeds))}")
    built = load_trained(folder, seed)
    name = built.recipe.evaluate.split
    split = built.dataset.splits.get(name)
    if split is None:
        raise DataError(f"the data has no split '{name}'{nearest(name, built.dataset.splits)}")
    noises = grid_of(built)[0].noises
    first, noise = next(iter(noises.items()))
    device = choose_device(built.recipe)
    built.model.to(device).eval()
    best = Checkpoints(folder.seed(seed)).best().state.best
    return _Loaded(folder, built, seed, best["epoch"], restrict(split, built.context.modalities), noise,
                   first, device)  # fmt: skip


def _sample(split: Split, name: str | None) -> int:
    ids = list(map(str, split.ids))
    if name is None:
        return int(torch.randint(len(ids), (1,), generator=generator(0, "analysis", "sample")))
    if name not in ids:
        raise UsageError(f"the split has no sample '{name}'{nearest(name, ids)}")
    return ids.index(name)


# One model -------------------------------------------------------------------------------------------------------


def _look(one: _Loaded, rate: float, rates: Sequence[float], meter: Meter) -> dict[str, Any]:
    """What is taken of each of the runs that are held against each other."""
    label = f"analyze {one.built.recipe.name}"
    meter.update(meter.done, label=label)
    train = restrict(one.built.dataset.splits["train"], one.built.context.modalities)
    random = generator(0, "analysis", "probe")
    drawn = noisy_blocks(one.noise, one.name, rate, 0, 0, list(blocks_of(one.split)))
    features = {
        "train": _pooled(one, blocks_of(train), meter),
        "noisy train": _pooled(one, (one.noise(block, rate, random) for block in blocks_of(train)), meter),
        "test": _pooled(one, blocks_of(one.split), meter),
        "noisy test": _pooled(one, drawn, meter),
    }
    return {
        "run": "/".join(one.folder.path.resolve().parts[-2:]),
        "recipe": one.built.recipe.name,
        "seed": one.seed,
        "epoch": one.epoch,
        "similarity": _similarity(features["test"]),
        "probes": _probes(features),
        "attention": _mass(one, rates, meter),
    }


def _forward(one: _Loaded, batch: Batch) -> Iterator[tuple[Batch, Outputs, list[Tensor]]]:
    """Small batches through the model; with what went in, and the attention weights of the fusion."""
    for start in range(0, len(batch), one.batch_size):
        rows = slice(start, start + one.batch_size)
        features = _rows(batch.features, rows, one.device)
        erased = {m: e[rows].to(one.device) for m, e in batch.erased.items()}
        tokens = one.built.model.tokens(features)
        with record() as seen:
            out = one.built.model.fuse(tokens)
        label = None if batch.label is None else batch.label[rows]
        yield Batch(features, label, batch.index[rows], erased), out, seen


def _pooled(one: _Loaded, blocks: Iterator[Batch], meter: Meter) -> dict[str, dict[str, Tensor]]:
    """Each stage's streams averaged over their real steps: `{stage: {key: n d}}`, on the CPU."""
    parts: dict[str, dict[str, list[Tensor]]] = {"encoded": {}, "generic": {}, "specific": {}}
    for block in blocks:
        for start in range(0, len(block), one.batch_size):
            rows = slice(start, start + one.batch_size)
            tokens = one.built.model.tokens(_rows(block.features, rows, one.device))
            for stage, found in parts.items():
                for key, stream in getattr(tokens, stage).items():
                    found.setdefault(key, []).append(stream.mean().float().cpu())
        meter.update(meter.done + len(block))
    return {stage: {key: torch.cat(pieces) for key, pieces in found.items()} for stage, found in parts.items()}


def _rows(features: Streams, rows: slice, device: torch.device | str = "cpu") -> Streams:
    cut = lambda t: None if t is None else t[rows].to(device)
    return {m: Stream(s.x[rows].to(device), s.mask[rows].to(device), cut(s.times)) for m, s in features.items()}


def _similarity(features: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    if not features["generic"]:
        return {"missing": "this model has no generic features"}
    found = similarities(features["generic"], features["specific"])
    if not found:
        return {"missing": "this model has no two streams of generic and specific features of one width"}
    return {name: summarise(values) for name, values in found.items()}


def _probes(features: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> list[dict[str, Any]]:
    """How well a fresh linear probe reads the modality, and whether noise was added, from each stage's features.

    Args:
        features: Pooled, `{split: {stage: {key: n d}}}`, of `train`, `noisy train`, `test` and `noisy test`.
    """
    rows = []

    def ask(asks: str, stage: str, groups: Callable[[str], list[Tensor]]) -> None:
        found = probe(*_stacked(groups("train")), *_stacked(groups("test")))
        rows.append({"asks": asks, "reads": stage, **vars(found)})

    stages = {stage: streams for stage, streams in features["test"].items() if streams}
    for stage, streams in stages.items():
        if len(streams) > 1 and len({x.shape[1] for x in streams.values()}) == 1:
            ask("modality", stage, lambda split, stage=stage: list(features[split][stage].values()))
    for stage in stages:
        beside = lambda split, stage=stage: torch.cat(list(features[split][stage].values()), -1)
        ask("noise", stage, lambda split, beside=beside: [beside(split), beside(f"noisy {split}")])
    return rows


def _stacked(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Groups of rows one under the other, and which group each is of."""
    return torch.cat(list(groups)), torch.cat([torch.full((len(x),), i) for i, x in enumerate(groups)])


def _mass(one: _Loaded, rates: Sequence[float], meter: Meter) -> dict[str, Any]:
    """The share of the fusion's attention that erased steps receive at each rate, beside their share of the steps."""
    blocks = list(blocks_of(one.split))
    mass, share = [], []
    for rate in rates:
        seen_mass, seen_share = [], []
        for block in noisy_blocks(one.noise, one.name, rate, 0, 0, blocks):
            for batch, out, seen in _forward(one, block):
                calls = _steps(batch, out, seen)
                if not calls:
                    return {"missing": "this model's fusion does not attend to the steps of the modalities"}
                each = [maps.erased_mass(weights, keys, queries) for weights, keys, queries in calls]
                real = calls[0][1].real.sum(1)
                seen_mass.append(torch.stack(each).mean(0).cpu())
                seen_share.append(
                    (calls[0][1].erased.sum(1) / real.clamp(min=1)).masked_fill(real == 0, math.nan).cpu()
                )
            meter.update(meter.done + len(block))
        mass.append(torch.cat(seen_mass).nanmean().item())
        share.append(torch.cat(seen_share).nanmean().item())
    return {"rates": list(rates), "mass": mass, "share": share}


def _steps(batch: Batch, out: Outputs, seen: Sequence[Tensor]) -> list[tuple[Tensor, maps.Layout, maps.Layout | None]]:
    """The attention calls whose keys are the steps of all modalities."""
    # A fusion that asks with one side and answers with the other has both of the same steps.
    sides = [out.specific, out.generic]
    found = []
    for weights in seen:
        keys = maps.layout(weights.shape[3], sides, batch.erased)
        if keys is not None and weights.shape[0] == len(keys.real):
            found.append((weights, keys, maps.layout(weights.shape[2], sides[::-1], batch.erased)))
    return found


def _map(one: _Loaded, number: int, rate: float) -> dict[str, Any]:
    """The fusion's attention for one sample, clean and under noise, mean over heads and blocks."""
    place, offset = divmod(number, BLOCK)
    blocks = list(blocks_of(one.split))
    noisy = list(noisy_blocks(one.noise, one.name, rate, 0, 0, blocks[: place + 1]))[place]
    pictures: dict[str, Tensor] = {}
    shape: dict[str, Any] = {}
    for name, block in (("clean", blocks[place]), ("noisy", noisy)):
        row = slice(offset, offset + 1)
        single = Batch(_rows(block.features, row), None, block.index[row], {m: e[row] for m, e in block.erased.items()})
        ((batch, out, seen),) = _forward(one, single)
        calls = _steps(batch, out, seen)
        if not calls:
            return {"missing": "this model's fusion does not attend to the steps of the modalities"}
        sizes = {weights.shape[2:] for weights, *_ in calls}
        calls = [call for call in calls if call[0].shape[2:] == max(sizes)]
        whole = torch.stack([maps.relative(weights, keys, queries) for weights, keys, queries in calls]).mean(0)
        keys, queries = calls[0][1:]
        columns = _real(keys)
        rows = _real(queries) if queries is not None else {"query": whole.shape[0]}
        small, tall, wide = maps.shrink(whole.cpu(), rows, columns, CELLS)
        gone = keys.erased[0][keys.real[0]].double().cpu()
        marked, _, _ = maps.shrink(gone.unsqueeze(0), {"": 1}, columns, CELLS)
        pictures[name] = small
        shape = {"queries": tall, "keys": wide, "erased": maps.told(marked[0], 3)}
    label = one.split.label
    return {
        "id": str(one.split.ids[number]),
        "label": None if label is None else label[number].tolist(),
        **shape,
        **{name: maps.told(picture) for name, picture in pictures.items()},
    }


def _real(steps: maps.Layout) -> dict[str, int]:
    """How many steps of each modality are real in the first sample."""
    counts, start = {}, 0
    for m, length in steps.lengths.items():
        counts[m] = int(steps.real[0, start : start + length].sum())
        start += length
    return counts


# Samples ---------------------------------------------------------------------------------------------------------


def _worst(one: _Loaded, rate: float) -> list[dict[str, Any]] | Missing:
    """The samples whose prediction is furthest off under noise."""
    label = one.split.label
    if label is None:
        return {"missing": "the split has no labels"}
    blocks = list(blocks_of(one.split))
    noisy = list(noisy_blocks(one.noise, one.name, rate, 0, 0, blocks))
    predict = lambda some: torch.cat(
        [out.prediction.double().cpu() for block in some for _, out, _ in _forward(one, block)]
    )
    task = one.built.context.task
    before, after = predict(blocks), predict(noisy)
    errors, errors_clean = errors_of(task, after, label), errors_of(task, before, label)
    rows = []
    for i in errors.argsort(descending=True, stable=True)[:WORST].tolist():
        block = noisy[i // BLOCK]
        erased = {m: [int(e[i % BLOCK].sum()), int(block.features[m].mask[i % BLOCK].sum())]
                  for m, e in block.erased.items()}  # fmt: skip
        rows.append(
            {
                "id": str(one.split.ids[i]),
                "label": _said(task, label[i]),
                "clean": _said(task, _decided(task, before[i])),
                "noisy": _said(task, _decided(task, after[i])),
                "error": errors[i].item(),
                "error_clean": errors_clean[i].item(),
                "erased": erased,
            }
        )
    return rows


def errors_of(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    """How far off each prediction is, `n`, float64.

    Args:
        task: A regression's error is the absolute difference; that of a classification one minus the probability of
            the true class; that of several decisions the mean of the same over them.
        prediction: `n c`.
        label: `n`, or `n k`.
    """
    if task.kind == "regression":
        return (prediction.double().squeeze(-1) - label.double().cpu()).abs()
    if task.kind == "classification":
        chosen = prediction.double().softmax(-1).gather(-1, label.long().cpu().unsqueeze(-1))
        return 1 - chosen.squeeze(-1)
    chances = prediction.double().unflatten(-1, (-1, 2)).softmax(-1)
    return 1 - chances.gather(-1, label.long().cpu().unsqueeze(-1)).squeeze(-1).mean(-1)


def _decided(task: Task, prediction: Tensor) -> Tensor:
    if task.kind == "regression":
        return prediction[0]
    return prediction.argmax(-1) if task.kind == "classification" else prediction.unflatten(-1, (-1, 2)).argmax(-1)


def _said(task: Task, value: Tensor) -> str:
    """A label or a decision in words."""
    if task.kind == "regression":
        return f"{value.item():.3f}"
    if task.kind == "classification":
        number = int(value)
        return task.names[number] if number < len(task.names) else str(number)
    yes = [i for i, one in enumerate(value.tolist()) if one]
    return ", ".join(task.names[i] if i < len(task.names) else str(i) for i in yes) or "none"


def _limit(folder: RunFolder) -> dict[str, Any]:
    """By how much the best possible prediction would be better, at each rate, in the unit of the measure."""
    try:
        told = json.loads(folder.evaluation.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"missing": f"the run is not evaluated; mmrobust evaluate {folder.path} measures it"}
    gaps = {}
    for noise, found in told["noises"].items():
        if not found["limit"]:
            continue
        at = {}
        for name in told["measures"]:
            sign = 1 if describe(name).better == "lower" else -1
            pairs = zip(found["at"][name]["mean"], found["limit"]["at"][name]["mean"], strict=True)
            at[name] = [None if a is None or b is None else sign * (a - b) for a, b in pairs]
        gaps[noise] = {"rates": told["rates"], "gap": at}
    return gaps or {"missing": "nobody knows the best possible prediction on this data"}
