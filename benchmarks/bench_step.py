"""The training step and the epoch of NORM-TR, ours over the naive one, both with feeding, noise, losses and optimizer.

Beside them in the same rounds: the machine's GEMM rate, feeding and noise alone (after a step of ours, as in training),
and where our linear layers do not leave their products to torch, our step with them left to it. `of_gemm` is the
arithmetic of the plain step over a step's time, as a share of the rate of `torch.mm`, `of_onednn` of oneDNN's: what is
computed once where the plain step computes it twice counts as if it were computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import naive
from benchmarks.alternate import Gemm, alternate, in_gemm
from benchmarks.sizes import naive_of, ours, samples
from mmrobust.accel import linear
from mmrobust.benchmark import Steps
from mmrobust.contracts.randomness import generator
from mmrobust.training.device import slow_precision
from mmrobust.training.loop import train_epoch

CPU = torch.device("cpu")
#: Changes of the recipe; softmax over 1050 tokens keeps 13 GiB for a step of 16 samples, so MOSEI has 4.
SETTINGS = {"mosi": [], "rml": [], "mosei": ["train.batch_size=4"]}
ROUNDS = {"mosi": 25, "rml": 60, "mosei": 3}
WARMUP = {"mosi": 40, "rml": 40, "mosei": 2}
CASES = [
    ("mosi", 1, "fp32"), ("rml", 1, "fp32"), ("mosei", 1, "fp32"),
    ("mosi", 2, "fp32"), ("rml", 2, "fp32"), ("mosi", 1, "bf16"), ("rml", 1, "bf16"),
]  # fmt: skip


class Pair:
    """Our step and the naive one, at the same weights, on the same data, each going on from step to step."""

    def __init__(self, size: str, folder: Path, precision: str = "fp32") -> None:
        built = ours(size, [*SETTINGS[size], f"train.precision={precision}"])
        batch_size = built.recipe.train.batch_size
        self.naive = naive_of(built).train()
        self.optimizer = naive.adamw(self.naive)
        self.loader = naive.loader(samples(built.dataset.splits["train"]), batch_size, shuffle=True)
        self.feed = _endless(self.loader)
        order = torch.randperm(len(built.dataset.splits["train"]), generator=generator(1, "order"))
        self.steps = Steps(built, folder, CPU, batches=order[: len(order) // batch_size * batch_size].split(batch_size))

    def naive_step(self) -> None:
        naive.step(self.naive, self.optimizer, next(self.feed))

    def step(self) -> None:
        self.steps.step()

    def step_of_torch(self) -> None:
        with linear.use_gemm("torch"):
            self.step()

    def feeding(self) -> None:
        """The part of `step` that fetches samples and makes their noisy views."""
        self.steps.feeding()

    def flops(self) -> float:
        """Multiplications and additions of the naive step's matrix products, forward and backward."""
        features, masks, label = next(self.feed)
        with FlopCounterMode(display=False) as counter:
            naive.loss(self.naive, features, masks, label, naive.type_1(masks), naive.type_2(masks)).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()


def _endless(feed: DataLoader) -> Iterator[Any]:
    while True:
        yield from feed


@pytest.mark.parametrize(("size", "threads", "precision"), CASES)
def bench_step(benchmark, size: str, threads: int, precision: str, tmp_path: Path) -> None:
    benchmark.group = "training step"
    if slow := slow_precision(precision, CPU):
        pytest.skip(slow)
    torch.set_num_threads(threads)
    pair, gemm = Pair(size, tmp_path, precision), Gemm()
    others: dict[str, Callable[[], object]] = {"feeding": pair.feeding, "gemm": gemm}
    onednn = Gemm(library="onednn") if precision == "fp32" and linear.gemm() == "onednn" else None
    if onednn is not None:
        others |= {"onednn": onednn, "torch_gemm": pair.step_of_torch}
    # Until some forty steps are done oneDNN meets numbers of rows for which it has no kernel yet.
    alternate(benchmark, pair.step, {**others, "naive": pair.naive_step}, ROUNDS[size], warmup=WARMUP[size])
    info, flops = benchmark.extra_info, pair.flops()
    if onednn is not None:
        info["of_onednn"] = in_gemm(benchmark, flops, onednn, "onednn")
    info.update(
        size=size, threads=threads, precision=precision, batch_size=len(pair.steps.updates[0][0]), gflop=flops / 1e9,
        gemm_gflops=gemm.flops / info["gemm"]["seconds"] / 1e9, of_gemm=in_gemm(benchmark, flops, gemm),
        of_gemm_naive=in_gemm(benchmark, flops, gemm) / info["naive"]["ratio"]["median"],
        feeding_share=info["feeding"]["ratio"]["median"],
        samples_per_second=len(pair.steps.updates[0][0]) / benchmark.stats["median"],
    )  # fmt: skip


@pytest.mark.parametrize("size", ["mosi", "rml"])
def bench_epoch(benchmark, size: str, tmp_path: Path) -> None:
    """A whole epoch, ours with the validation that every epoch ends with; one thread."""
    benchmark.group = "epoch"
    torch.set_num_threads(1)
    pair = Pair(size, tmp_path)
    rounds = {"mosi": 1, "rml": 5}[size]
    others = {"naive": lambda: naive.epoch(pair.naive, pair.optimizer, pair.loader)}
    alternate(benchmark, lambda: train_epoch(pair.steps.mover, [pair.steps.seed]), others, rounds, warmup=0)
    benchmark.extra_info.update(size=size, samples=len(pair.steps.seed.train), steps=len(pair.loader))
