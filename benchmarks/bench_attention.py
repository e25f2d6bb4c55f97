"""Attention by backend, forward and backward, at the sizes of NORM-TR; tokens per second stand in `extra_info`."""

from __future__ import annotations

import pytest
import torch

from mmrobust.nn.attention import BACKENDS, attention

SIZES = {"mosi": (32, 8, 150, 16), "rml": (32, 8, 16, 16), "built-in": (32, 8, 150, 8), "long": (2, 8, 1500, 16)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def bench_attention(benchmark, backend: str, size: str) -> None:
    benchmark.group = f"attention, {size}"
    torch.set_num_threads(1)
    b, h, t, d = SIZES[size]
    query, key, value = (torch.randn(b, h, t, d, requires_grad=True) for _ in range(3))
    mask = torch.arange(t) < torch.randint(t // 2, t + 1, (b, 1))

    def step() -> None:
        attention(query, key, value, mask, backend).sum().backward()

    benchmark(step)
    benchmark.extra_info["tokens_per_second"] = b * t / benchmark.stats["mean"]
