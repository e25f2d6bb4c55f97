"""What each trick of `mmrobust/accel` is worth: a step and a sweep with all of them, and with each left out in turn.

All forms take turns in one run, on one thread in fp32. `ratio` is how many times longer it takes without the trick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks.alternate import alternate
from benchmarks.bench_step import Pair
from benchmarks.sizes import SIZES, MadeUp, ours
from mmrobust.accel import cross_attention, packing, token_cache, views
from mmrobust.accel.linear import gemm, use_gemm
from mmrobust.contracts import Part, Streams
from mmrobust.model.assemble import make_noise
from mmrobust.model.learning import Learning
from mmrobust.robustness.sweep import Grid, sweep

ROUNDS = {"mosi": 9, "rml": 40}


def _no_packing() -> Any:
    """Padding stays in its place, in the fusion and before it."""

    def choose(mask: torch.Tensor) -> packing.Packing:
        return packing.Packing(mask, packed=False)

    return [
        mock.patch.object(packing.Packing, "choose", choose),
        mock.patch.object(token_cache, "eager", lambda: False),
    ]


def _every_copy(sample: torch.Tensor, lost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = sample.argsort(stable=True)
    return order, order.argsort()


def _in_order(features: Streams, size: int) -> list[Any]:
    """What the fast model makes its chunks of, in the order of the samples and not cut."""
    mask = next(iter(features.values())).mask
    full = {m: torch.full((len(mask),), stream.mask.shape[1]) for m, stream in features.items()}
    return [
        views.Chunk(index, {m: n[index] for m, n in full.items()}, {m: s.take(index) for m, s in features.items()})
        for index in torch.arange(len(mask)).split(size)
    ]


#: By name of the trick: what has to be exchanged to be without it, in a step and in a sweep.
STEP: dict[str, Callable[[], list[Any]]] = {
    "token cache": lambda: [mock.patch.object(views, "why_not_cached", lambda *_: "left out")],
    "views in one pass": lambda: [mock.patch.object(views.FastLearning, "run", Learning.run)],
    "packing": _no_packing,
    "variable-length attention": lambda: [mock.patch.object(cross_attention, "pays", lambda *_: False)],
    "rounded rows": lambda: [
        mock.patch.object(packing, "rounding", lambda count: 0),
        mock.patch.object(token_cache, "rounding", lambda count: 0),
    ],
    "shared projections": lambda: [mock.patch.object(token_cache, "shares_projections", lambda fusion: False)],
}
SWEEP: dict[str, Callable[[], list[Any]]] = {
    "token cache": lambda: [mock.patch.object(views, "obstacle", lambda *_: "left out")],
    "samples by length": lambda: [mock.patch.object(views, "chunks_of", _in_order)],
    "equal copies once": lambda: [mock.patch.object(views, "equal_copies", _every_copy)],
    **{name: STEP[name] for name in ("packing", "variable-length attention", "rounded rows", "shared projections")},
}
if gemm() == "onednn":
    STEP["oneDNN"] = SWEEP["oneDNN"] = lambda: [use_gemm("torch")]


@contextmanager
def _without(patches: list[Any]) -> Iterator[None]:
    if not patches:
        yield
        return
    with patches[0], _without(patches[1:]):
        yield


def _each(run: Callable[[], object], tricks: dict[str, Callable[[], list[Any]]]) -> dict[str, Callable[[], object]]:
    def without(patches: Callable[[], list[Any]]) -> Callable[[], object]:
        def one() -> object:
            with _without(patches()):
                return run()

        return one

    return {name: without(patches) for name, patches in tricks.items()}


@pytest.mark.parametrize("size", ["mosi", "rml"])
def bench_step_without(benchmark, size: str, tmp_path: Path) -> None:
    benchmark.group = "accel, step"
    torch.set_num_threads(1)
    pair = Pair(size, tmp_path)
    alternate(benchmark, pair.step, _each(pair.step, STEP), ROUNDS[size], warmup=3)
    benchmark.extra_info.update(size=size)


@pytest.mark.parametrize("size", ["mosi", "rml"])
def bench_sweep_without(benchmark, size: str) -> None:
    benchmark.group = "accel, sweep"
    torch.set_num_threads(1)
    shape = SIZES[size]
    built = ours(size, dataset=MadeUp(replace(shape, test={"mosi": 32, "rml": 144}[size], train=16)))
    noise = make_noise(built.recipe, ("evaluate", "noise", "0"), Part("frame_drop"), built.context)
    grid = Grid({"frame_drop": noise}, (0.0, 0.3, 0.7, 1.0), draws=3)
    split, batch_size = built.dataset.splits["test"], built.recipe.evaluate.batch_size

    def run() -> object:
        return sweep(built.model, split, grid, batch_size=batch_size)

    alternate(benchmark, run, _each(run, SWEEP), {"mosi": 3, "rml": 9}[size], warmup=1)
    benchmark.extra_info.update(size=size)
