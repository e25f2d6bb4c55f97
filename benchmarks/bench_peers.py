"""Samples a second in training of the peers, beside those of the well-known implementation.

`peers.csv` holds what MMSA 2.2.1 does on a machine of this size (2 cores, x86-64; measured in November 2026 with torch
2.15, 2 threads, one training epoch of made-up aligned MOSI of 1284 samples, the text encoder of the last three replaced
by pre-computed features; GEMM 145 GFLOP/s), and the overrides that give our recipe its hyper-parameters where they
differ. The machine's GEMM rate beside each model says whether this machine is as fast, and as idle, as that one was.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.alternate import Gemm, alternate, clock
from benchmarks.sizes import SIZES, MadeUp
from mmrobust import recipe as recipes
from mmrobust.benchmark import Steps
from mmrobust.contracts.randomness import generator
from mmrobust.model.assemble import build

PEERS = {row["model"]: row for row in csv.DictReader((Path(__file__).parent / "peers.csv").open(encoding="utf-8"))}
SECONDS = 6.0  # of each model; enough steps for a mean, an epoch of the slow ones would take minutes


@pytest.fixture(scope="module")
def mosi() -> MadeUp:
    return MadeUp(SIZES["mosi"])


@pytest.mark.benchmark(group="peers")
@pytest.mark.parametrize("model", PEERS)
def bench_peer(benchmark, model: str, mosi: MadeUp, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    told = PEERS[model]
    size = int(told["batch"])
    changes = [f"train.batch_size={size}", "train.epochs=10", *told["overrides"].split()]
    built = build(recipes.load(f"peers/{model}", changes), dataset=mosi)
    order = torch.randperm(len(mosi.splits["train"]), generator=generator(1, "order"))
    batches = order[: len(order) // size * size].split(size)
    step = Steps(built, tmp_path, torch.device("cpu"), batches=batches).step
    step()
    started = clock()
    step()
    rounds = max(3, min(len(batches), int(SECONDS / (clock() - started))))
    gemm = Gemm()
    alternate(benchmark, step, {"gemm": gemm}, rounds)
    ours = size / benchmark.stats["median"]
    theirs = float(told["samples_per_second"])
    rate = gemm.flops / benchmark.extra_info["gemm"]["seconds"] / 1e9
    benchmark.extra_info.update(samples_per_second=ours, mmsa=theirs, times_mmsa=ours / theirs, gemm_gflops=rate)
