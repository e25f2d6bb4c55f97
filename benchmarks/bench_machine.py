"""What the machine can do: its GEMM rate, by number format and threads; everything else is seen against it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.alternate import Gemm, fewer
from mmrobust.accel.linear import Library, unoffered
from mmrobust.training.device import slow_precision


@pytest.mark.benchmark(group="machine")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("precision", "library"), [("fp32", "torch"), ("fp32", "onednn"), ("bf16", "torch")])
def bench_gemm(benchmark, precision: str, library: Library, threads: int) -> None:
    if library == "onednn" and (reason := unoffered()):
        pytest.skip(reason)
    if slow := slow_precision(precision, torch.device("cpu")):
        pytest.skip(slow)
    torch.set_num_threads(threads)
    gemm = Gemm({"fp32": torch.float32, "bf16": torch.bfloat16}[precision], 2048, library)
    benchmark.pedantic(gemm, rounds=fewer(10), warmup_rounds=2)
    benchmark.extra_info.update(
        precision=precision, library=library, threads=threads, gflops=gemm.flops / benchmark.stats["median"] / 1e9
    )
