"""Two things compared in one run: they take turns, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmrobust.accel.linear import Library, linear, use_gemm

Run = Callable[[], object]


def cpu() -> float:
    """Seconds that the processor spent on this process and its children."""
    return time.process_time() + sum(os.times()[2:4])


#: The clock; `BENCH_TIMER=cpu` counts this process and its children alone, on a machine that others use too.
clock: Callable[[], float] = {"wall": time.perf_counter, "cpu": cpu}[os.environ.get("BENCH_TIMER", "wall")]


def alternate(benchmark: Any, target: Run, others: Mapping[str, Run], rounds: int = 10, warmup: int = 1) -> None:
    """Times `target` in rounds, and each of `others` once before each round.

    `benchmark.extra_info` then holds for every other its median seconds (`seconds`) and how many times longer than the
    target it took (`ratio`: the median over the rounds, and the quartiles on either side).

    Args:
        benchmark: pytest-benchmark's fixture.
        target: What the benchmark is named for.
        others: What it is compared with, by name.
        rounds: How often all take their turn.
        warmup: Turns that are not counted.
    """
    rounds = fewer(rounds)
    turns: dict[str, list[float]] = {name: [] for name in others}

    def others_turn() -> None:
        for name, run in others.items():
            started = clock()
            run()
            turns[name].append(clock() - started)

    benchmark._timer = clock
    benchmark.pedantic(target, setup=others_turn, rounds=rounds, warmup_rounds=warmup)
    own = list(benchmark.stats.stats.data)
    for name, seconds in turns.items():
        counted = seconds[-rounds:]
        benchmark.extra_info[name] = {
            "seconds": statistics.median(counted),
            "ratio": spread([other / mine for other, mine in zip(counted, own, strict=True)]),
        }
    benchmark.extra_info["rounds"] = rounds


def fewer(rounds: int) -> int:
    """At most `BENCH_ROUNDS` rounds, where that is set: to see that a benchmark works, not what it says."""
    return min(rounds, int(os.environ.get("BENCH_ROUNDS", rounds)))


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


class Gemm:
    """The machine's GEMM: one large product, to be timed beside what is measured in its unit.

    Args:
        dtype: Of both factors.
        size: Of each side; large enough to be bound by arithmetic alone.
        library: `torch` for `torch.mm`; `onednn` for what our linear layers may ask in fp32 instead.
        device: Where.
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        size: int = 1024,
        library: Library = "torch",
        device: str = "cpu",
    ) -> None:
        self.left = torch.randn(size, size, device=device).to(dtype)
        self.right = torch.randn(size, size, device=device).to(dtype)
        self.out = torch.empty_like(self.left)
        self.library: Library = library
        self.flops = 2 * size**3

    def __call__(self) -> None:
        if self.library == "torch":
            torch.mm(self.left, self.right, out=self.out)
            if self.left.is_cuda:
                torch.cuda.synchronize()
        else:
            with torch.no_grad(), use_gemm(self.library):
                linear(self.left, self.right)


def in_gemm(benchmark: Any, flops: float, gemm: Gemm, name: str = "gemm") -> float:
    """Arithmetic of `flops` over the target's time, as a share of the GEMM rate that `alternate` found beside it."""
    return flops / gemm.flops * benchmark.extra_info[name]["ratio"]["median"]
