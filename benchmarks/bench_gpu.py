"""A GPU: a step as it is and captured, eight seeds stacked against one and against eight in turn, an epoch of eight.

MOSI and RML sizes. Nothing is measured without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.alternate import alternate
from benchmarks.sizes import SIZES, MadeUp, ours
from mmrobust.benchmark import Steps
from mmrobust.model.assemble import build
from mmrobust.training.folder import RunFolder
from mmrobust.training.loop import release, take, train_epoch
from mmrobust.training.seed import Seed

SEEDS = 8
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def _waited(run: Callable[[], object]) -> Callable[[], None]:
    def run_and_wait() -> None:
        run()
        torch.cuda.synchronize()

    return run_and_wait


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", ["mosi", "rml"])
def bench_gpu_step(benchmark, size: str, precision: str, tmp_path: Path) -> None:
    benchmark.group = "gpu step"
    ways = {}
    for name, graphs in (("eager", "false"), ("captured", "true")):
        settings = ["train.device=cuda", f"train.precision={precision}", f"train.graphs={graphs}"]
        (tmp_path / name).mkdir()
        steps = Steps(ours(size, settings), tmp_path / name, torch.device("cuda"))
        ways[name] = _waited(steps.step)
    alternate(benchmark, ways.pop("captured"), ways, rounds=100, warmup=20)
    benchmark.extra_info.update(size=size, precision=precision, device=torch.cuda.get_device_name())


class _Seeds:
    """Seeds of one recipe on one GPU, with a step that moves all of them."""

    def __init__(self, size: str, count: int, folder: Path) -> None:
        dataset = MadeUp(SIZES[size])
        first = ours(size, ["train.device=cuda"], dataset)
        self.seeds: list[Seed] = []
        for number in range(1, count + 1):
            built = build(first.recipe, dataset=dataset, seed=number)
            beside = self.seeds[0] if self.seeds else None
            run = RunFolder(folder)
            self.seeds.append(Seed(built, run, number, torch.device("cuda"), beside=beside))

    def epoch(self, stacked: bool) -> None:
        for seeds in [self.seeds] if stacked else [[seed] for seed in self.seeds]:
            step = take(seeds)
            train_epoch(step, seeds)
            release(step, seeds)


@pytest.mark.parametrize("size", ["mosi", "rml"])
def bench_gpu_seeds(benchmark, size: str, tmp_path: Path) -> None:
    """An epoch of eight seeds as one stacked model; beside it one seed's epoch, and eight seeds' in turn."""
    benchmark.group = "gpu seeds"
    for name in ("many", "one", "turn"):
        (tmp_path / name).mkdir()
    many, turn = _Seeds(size, SEEDS, tmp_path / "many"), _Seeds(size, SEEDS, tmp_path / "turn")
    one = _Seeds(size, 1, tmp_path / "one")
    others = {"one seed": _waited(lambda: one.epoch(True)), "in turn": _waited(lambda: turn.epoch(False))}
    alternate(benchmark, _waited(lambda: many.epoch(True)), others, rounds=3, warmup=1)
    rate = SIZES[size].train * SEEDS / benchmark.stats["median"]
    device = torch.cuda.get_device_name()
    benchmark.extra_info.update(size=size, seeds=SEEDS, device=device, samples_per_second=rate)
