"""A small run, truly trained: two seeds of NORM-TR on made-up data, one epoch each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mmrobust.robustness import evaluate
from mmrobust.training import RunFolder, train

torch.set_num_threads(1)

TINY = [
    "data.train=32", "data.valid=16", "data.test=40", "data.length=10", "data.text=8", "data.audio=6", "data.vision=6",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.lr=1e-2", "train.epochs=2",
    "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=2",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make any run on the built-in data small."""
    return list(TINY)


@pytest.fixture(scope="session")
def _evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train("normtr", [*TINY, "train.seeds=[1, 2]"], out=path, quiet=True)
    evaluate(path, quiet=True)
    return path


@pytest.fixture
def run(_evaluated: Path, tmp_path: Path) -> RunFolder:
    """An evaluated run of two seeds, for this test alone."""
    return RunFolder(Path(shutil.copytree(_evaluated, tmp_path / "run")))
