"""A sweep of 11 rates and 10 draws, ours over the naive loop; one thread, fp32.

At MOSI sizes both predict a seventh of the 686 samples (both take a time proportional to their number); with
`BENCH_FULL=1` all of them.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from benchmarks import naive
from benchmarks.alternate import alternate
from benchmarks.sizes import SIZES, MadeUp, naive_of, ours, samples
from mmrobust.contracts import Part
from mmrobust.model.assemble import make_noise
from mmrobust.robustness.sweep import Grid, sweep

RATES = tuple(i / 10 for i in range(11))
DRAWS = 10
FULL = bool(os.environ.get("BENCH_FULL"))


@pytest.mark.parametrize("size", ["mosi", "rml"])
def bench_sweep(benchmark, size: str) -> None:
    benchmark.group = "sweep"
    torch.set_num_threads(1)
    shape = SIZES[size]
    count = shape.test // 7 if size == "mosi" and not FULL else shape.test
    built = ours(size, dataset=MadeUp(replace(shape, test=count, train=16)))
    noise = make_noise(built.recipe, ("evaluate", "noise", "0"), Part("frame_drop"), built.context)
    split, batch_size = built.dataset.splits["test"], built.recipe.evaluate.batch_size
    grid = Grid({"frame_drop": noise}, RATES, DRAWS)
    reference, data = naive_of(built), samples(split)
    alternate(
        benchmark,
        lambda: sweep(built.model, split, grid, batch_size=batch_size),
        {"naive": lambda: naive.sweep(reference, data, RATES, DRAWS, batch_size)},
        rounds={"mosi": 1, "rml": 9}[size],
        warmup=0,
    )
    seconds = benchmark.stats["median"] * shape.test / count
    benchmark.extra_info.update(size=size, samples=count, of=shape.test, seconds_for_all=seconds)
