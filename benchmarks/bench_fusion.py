"""Every installed fusion, forward and backward, with its defaults, on what NORM-TR's extractors give at MOSI sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.alternate import Gemm, alternate
from benchmarks.sizes import SIZES, MadeUp, ours
from mmrobust import registry
from mmrobust.contracts import Stream, Streams
from mmrobust.errors import MmrobustError

FUSIONS = {spec.qualified: spec for spec in registry.catalogue().all("fusion")}


@pytest.fixture(scope="module")
def mosi() -> MadeUp:
    return MadeUp(replace(SIZES["mosi"], train=64, test=16))


@pytest.mark.parametrize("fusion", FUSIONS)
def bench_fusion(benchmark, fusion: str, mosi: MadeUp) -> None:
    benchmark.group = "fusions"
    torch.set_num_threads(1)
    try:
        built = ours("mosi", ["~model.fusion.depth", "~model.fusion.heads", f"model.fusion={fusion}"], mosi)
    except MmrobustError as error:
        pytest.skip(str(error))
    model = built.model
    features = built.dataset.splits["train"].batch(torch.arange(16)).features
    notes: dict[str, Any] = {}
    with torch.no_grad():
        encoded = model.encoder(features, notes)
        sides = [model.generic(encoded, notes), model.specific(encoded, notes)]

    def leaf(streams: Streams) -> Streams:
        return {key: Stream(s.zeroed().x.requires_grad_(), s.mask, s.times) for key, s in streams.items()}

    generic, specific = map(leaf, sides)
    gemm = Gemm()
    alternate(
        benchmark, lambda: model.fusion(generic, specific, {}).zeroed().x.sum().backward(), {"gemm": gemm}, rounds=5
    )
    benchmark.extra_info.update(
        fusion=fusion, parameters=sum(p.numel() for p in model.fusion.parameters()),
        samples_per_second=16 / benchmark.stats["median"],
        gemm_gflops=gemm.flops / benchmark.extra_info["gemm"]["seconds"] / 1e9,
    )  # fmt: skip
