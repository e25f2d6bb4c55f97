"""One training step of NORM-TR: feeding, both noisy views, losses, backward, clipping, AdamW; one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.build import build, make_noise
from mmrobust.contracts import Part
from mmrobust.randomness import generator
from mmrobust.robustness.sweep import Grid, sweep
from mmrobust.training import RunFolder
from mmrobust.training.loop import Trainer

SIZES = {
    "built-in": [],
    "mosi": ["model.width=256", "data.text=768", "data.audio=5", "data.vision=20"],
    "rml": ["model.width=256", "data.length=8", "data.text=512", "data.audio=512", "model.modalities=[text, audio]"],
}


@pytest.mark.parametrize("size", SIZES)
def bench_training_step(benchmark, tmp_path: Path, size: str) -> None:
    benchmark.group = f"training step, {size}"
    torch.set_num_threads(1)
    recipe = recipes.load("normtr", SIZES[size])
    trainer = Trainer(build(recipe), RunFolder(tmp_path), 1, torch.device("cpu"), lambda text: None)
    noise = generator(1, "noise")
    index = torch.arange(recipe.train.batch_size)
    benchmark.pedantic(lambda: trainer.step(1, index, noise), rounds=10, warmup_rounds=2)
    benchmark.extra_info["samples_per_second"] = len(index) / benchmark.stats["mean"]


@pytest.mark.parametrize("size", SIZES)
def bench_sweep(benchmark, size: str) -> None:
    benchmark.group = f"sweep of 3 rates and 2 draws, {size}"
    torch.set_num_threads(1)
    built = build(recipes.load("normtr", [*SIZES[size], "data.test=128"]))
    noise = make_noise(built.recipe, ("evaluate", "noise", "0"), Part("frame_drop"), built.context)
    grid = Grid({"frame_drop": noise}, (0.0, 0.5, 1.0), 2)
    split = built.dataset.splits["test"]
    benchmark.pedantic(
        lambda: sweep(built.model, split, grid, batch_size=64, device=torch.device("cpu")), rounds=3, warmup_rounds=1
    )
