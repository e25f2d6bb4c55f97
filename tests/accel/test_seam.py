"""Promise: `accel` stands behind one seam. Off, or deleted, everything runs and gives the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mmrobust
from mmrobust.accel.views import FastLearning, FastModel
from mmrobust.contracts import Progress
from mmrobust.contracts.randomness import generator
from mmrobust.model.assemble import Built, build
from mmrobust.model.learning import Learning
from mmrobust.model.model import Model
from mmrobust.recipe import load
from mmrobust.testing import run_checks

PACKAGE = Path(mmrobust.__file__).parent
PROGRESS = Progress(0, torch.zeros(()))


TINY = [
    "data.train=32", "data.valid=16", "data.test=20", "data.length=10", "data.text=8", "data.audio=6", "data.vision=6",
    "model.width=16", "model.fusion.depth=2", "model.fusion.heads=2", "train.epochs=2", "train.seeds=[1]",
    "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=2",
]  # fmt: skip


def off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMROBUST_ACCEL", "off")


def both(monkeypatch: pytest.MonkeyPatch) -> tuple[Built, Built]:
    fast = build(load("normtr", TINY))
    with monkeypatch.context() as patch:
        off(patch)
        plain = build(load("normtr", TINY))
    assert type(fast.model) is FastModel and type(fast.learning) is FastLearning and fast.fast
    assert type(plain.model) is Model and type(plain.learning) is Learning and not plain.fast
    assert {type(m) for m in plain.model.modules()}.isdisjoint(
        {type(m) for m in fast.model.modules() if "accel" in type(m).__module__}
    )
    return fast, plain


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_step_is_the_same(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    pair = both(monkeypatch)
    monkeypatch.setattr(torch, "get_default_dtype", lambda: dtype)
    for built in pair:
        model, learning = built.model.to(dtype), built.learning.to(dtype)
        batch = built.dataset.splits["train"].batch(torch.arange(8))
        total, _, views = learning.losses(model, batch, generator(3), PROGRESS)
        parameters = [*model.parameters(), *learning.parameters()]
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        results.append([total, *(out.prediction for out in views.values()), *(g for g in gradients if g is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def scores(run: Any) -> dict[str, Any]:
    return {name: noise["auilc"]["mae"]["mean"] for name, noise in run.evaluation["noises"].items()} | {
        "clean": run.evaluation["clean"]["mae"]["mean"]
    }


def test_a_training_and_its_sweep_give_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = mmrobust.run("normtr", TINY, runs=tmp_path / "fast", quiet=True)
    off(monkeypatch)
    plain = mmrobust.run("normtr", TINY, runs=tmp_path / "plain", quiet=True)
    assert scores(plain) == pytest.approx(scores(fast), rel=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("fusion", "cross_attention"), ("head", "modality_pool")])
def test_the_kit_passes_either_way(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    off(monkeypatch)
    failed = [str(result) for result in run_checks(kind, name) if result.state == "failed"]
    assert not failed


def test_deleted_with_the_one_call_everything_still_runs(tmp_path: Path) -> None:
    """A copy of the package without the folder, and without what `assemble` says of it."""
    copy = tmp_path / "mmrobust"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "accel"))
    if not (copy / "_recipes").exists():
        shutil.copytree(PACKAGE.parent / "recipes", tmp_path / "recipes")
    assemble = copy / "model" / "assemble.py"
    lines = assemble.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if "accelerate" not in line]
    assert len(lines) - len(kept) == 2
    assemble.write_text("".join(kept).replace("learning, fast)", "learning)"), encoding="utf-8")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import mmrobust.cli as c; "
               "sys.exit(c.main())", "run", "normtr", *TINY, "--json"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seeds"]["1"]["epochs"] >= 1
