"""A whole recipe, small enough to be trained in a blink, made of real parts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

TINY = """\
recipe: 1
name: tiny
extends: normtr
data: {use: synthetic_affect, train: 40, valid: 16, test: 16, length: 6, text: 8, audio: 4, vision: 5}
model: {width: 16, fusion: {use: cross_attention, depth: 1, heads: 2, dropout: 0.1}}
train: {epochs: 3, batch_size: 16, lr: 1.0e-3}
evaluate: {rates: [0, 1], draws: 2}
"""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def command() -> list[str]:
    """How a test starts the command line in a process of its own."""
    return [sys.executable, "-m", "mmrobust"]


@pytest.fixture(scope="session")
def environ() -> dict[str, str]:
    """The environment of such a process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MMROBUST_PLUGINS": ""}
