"""Stands in for an installation where there is none, so that the tests run from a checkout too."""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest
import torch
from mmrobust import registry

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)
try:
    metadata.distribution("mmrobust-baselines")
except metadata.PackageNotFoundError:
    info = Path(tempfile.mkdtemp()) / "mmrobust_baselines-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmrobust-baselines\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[mmrobust]\nbaselines = mmrobust_baselines.plugin\n")
    sys.path[:0] = [str(ROOT), str(info.parent)]
    registry.reset()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
