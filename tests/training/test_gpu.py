"""Promise: on a GPU a training gives what it gives on a CPU, its parts give what they give alone, and it resumes.

`make gpu` runs this file; everywhere else its tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmrobust.errors import InterruptedRun
from mmrobust.supervisor import Interrupt
from mmrobust.training import RunFolder, train
from mmrobust.training.loop import fit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SMALL = [
    "data.train=64", "data.valid=16", "data.test=16", "data.length=12", "model.width=32", "model.fusion.heads=2",
    "train.epochs=3", "train.seeds=[1]", "train.device=cuda",
]  # fmt: skip


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"]["total"] for line in sorted(lines, key=lambda line: (line["seed"], line["epoch"]))]


def trained(folder: Path, *more: str) -> list[float]:
    train("normtr", [*SMALL, *more], out=folder, quiet=True)
    return losses(folder)


def test_a_gpu_gives_what_a_cpu_gives(tmp_path: Path) -> None:
    # Noise is drawn by each device's own generator, so that a clean view is compared.
    clean = ["learning.views={clean: {noise: null, objectives: [task]}}"]
    on_gpu = trained(tmp_path / "gpu", *clean)
    assert on_gpu == pytest.approx(trained(tmp_path / "cpu", *clean, "train.device=cpu"), rel=1e-3)


@pytest.mark.parametrize("backend", ["manual", "sdpa", "efficient"])
def test_every_kernel_trains_alike(backend: str, tmp_path: Path) -> None:
    auto = trained(tmp_path / "auto")
    assert trained(tmp_path / backend, f"model.attention={backend}") == pytest.approx(auto, rel=1e-2)


@pytest.mark.parametrize("backend", ["auto", "flash", "cudnn"])
def test_bf16_trains(backend: str, tmp_path: Path) -> None:
    full = trained(tmp_path / "fp32")
    half = trained(tmp_path / "bf16", "train.precision=bf16", f"model.attention={backend}", "model.fusion.heads=1")
    assert half == pytest.approx(full, rel=0.2)


def test_captured_steps_give_what_steps_give(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain")
    captured = trained(tmp_path / "captured", "train.graphs=true")
    assert "not captured" not in (tmp_path / "captured" / "log.txt").read_text()
    assert captured == pytest.approx(plain, rel=1e-3)


def test_stacked_seeds_give_what_each_gives_alone(tmp_path: Path) -> None:
    seeds = "train.seeds=[1, 2, 3]"
    alone = trained(tmp_path / "alone", seeds, "train.together=false")
    stacked = trained(tmp_path / "stacked", seeds, "train.together=true")
    assert "one stacked model" in (tmp_path / "stacked" / "log.txt").read_text()
    assert stacked == pytest.approx(alone, rel=1e-3)


def test_a_training_that_was_stopped_ends_with_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    stop = Interrupt()

    def stops_after_an_epoch(seeds, meter=None, interrupt=None):  # type: ignore[no-untyped-def]
        stop.requested = False
        save = seeds[0].checkpoints.save

        def saved(*args: object, **options: object) -> None:
            save(*args, **options)
            stop.requested = True

        seeds[0].checkpoints.save = saved
        fit(seeds, meter, stop)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRun):
        patch.setattr("mmrobust.training.run.fit", stops_after_an_epoch)
        train("normtr", SMALL, out=tmp_path / "run", quiet=True)
    train(resume=RunFolder(tmp_path / "run"), quiet=True)
    assert losses(tmp_path / "run") == pytest.approx(whole, rel=1e-6)
