"""Registers the plugin where it is not installed, so that the tests run from a checkout too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from mmrobust import registry

PLUGIN = Path(__file__).parent.parent / "mmrobust_baselines" / "plugin.py"

torch.set_num_threads(1)
if not any(spec.target.startswith("mmrobust_baselines.") for spec in registry.catalogue().all()):
    sys.path.insert(0, str(PLUGIN.parent.parent))
    registry.load_file(PLUGIN)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
