"""Attention by backend, direction, number format and length; all backends take turns with `manual`.

Heads are NORM-TR's (8 of 16), and a batch holds about 4800 tokens whatever their length. `cross` has a third as many
queries as keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from benchmarks.alternate import Gemm, alternate
from mmrobust.accel.allocator import keep_freed_memory
from mmrobust.nn.attention import BACKENDS, Case, attention

TOKENS, HEADS, WIDTH = 4800, 8, 16
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Each shape costs flex tens of seconds of compiling.
FLEX = (150,) if DEVICE == "cpu" else (150, 3000)


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("form", ["self", "cross"])
@pytest.mark.parametrize("length", [24, 150, 1050, 3000])
def bench_attention(benchmark, length: int, form: str, direction: str, precision: str) -> None:
    benchmark.group = "attention"
    if precision == "bf16" and DEVICE == "cpu" and (length != 150 or form == "cross"):
        pytest.skip("on a CPU attention is computed in fp32 whatever it is given; one size shows what casting costs")
    torch.set_num_threads(1)
    keep_freed_memory()  # as every training does
    queries, batch, both = length // 3 if form == "cross" else length, max(1, TOKENS // length), direction == "both"
    make = functools.partial(torch.randn, dtype=FORMATS[precision], device=DEVICE, requires_grad=both)
    query = make(batch, HEADS, queries, WIDTH)
    key, value = (make(batch, HEADS, length, WIDTH) for _ in range(2))
    mask = torch.arange(length, device=DEVICE) < torch.randint(length // 2, length + 1, (batch, 1), device=DEVICE)
    gradient = torch.randn_like(query)
    case = Case(DEVICE, FORMATS[precision], queries, length, WIDTH, masked=True, backward=both)

    def run(backend: str) -> None:
        out = attention(query, key, value, mask, backend)
        if both:
            out.backward(gradient)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    skipped = {name: why for name, backend in BACKENDS.items() if (why := backend.why_not(case))}
    if "flex" not in skipped and length not in FLEX:
        skipped["flex"] = "compiles for each shape; measured at one"
    others: dict[str, Callable[[], object]] = {
        name: functools.partial(run, name) for name in BACKENDS if name != "manual" and name not in skipped
    }
    gemm = Gemm() if DEVICE == "cpu" else Gemm(FORMATS[precision], 8192, device=DEVICE)
    alternate(benchmark, lambda: run("manual"), {**others, "gemm": gemm}, rounds=5)
    info = benchmark.extra_info
    # Two products of s t d for each head, and four in the backward pass (what a kernel computes anew does not count).
    flops = 2 * batch * HEADS * queries * length * WIDTH * (2 + 4 * both)
    gflops = gemm.flops / info["gemm"]["seconds"] / 1e9
    seconds = {"manual": benchmark.stats["median"], **{name: info[name]["seconds"] for name in others}}
    info["backends"] = {
        name: {
            "tokens_per_second": batch * queries / s,
            "of_gemm": flops / s / 1e9 / gflops,
            "times_manual": info[name]["ratio"]["median"] ** -1 if name in others else 1.0,
        }
        for name, s in seconds.items()
    }
    info.update(length=length, form=form, direction=direction, precision=precision, device=DEVICE, skipped=skipped)
