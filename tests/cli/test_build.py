"""`mmrobust build` through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from mmrobust import recipe as recipes

RECIPE = """\
recipe: 1
name: tiny
extends: normtr
data: {use: synthetic_affect, train: 24, valid: 8, test: 8, length: 8}
model: {width: 16, fusion: {use: cross_attention, depth: 1, heads: 2}}
"""


def run(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "mmrobust", "build", *line]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})


def test_it_shows_the_tree_and_writes_weights_and_recipe(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny.yaml", "--out", "made/here")
    assert done.returncode == 0, done.stderr
    for text in ("encoder             linear", "24x8", "attention: sdpa (auto)", "forward and backward finite"):
        assert text in done.stdout
    weights = safetensors.torch.load_file(tmp_path / "made" / "here" / "model.safetensors")
    assert weights["encoder.layers.text.weight"].shape == (16, 64)
    assert recipes.load(tmp_path / "made" / "here" / "resolved.yaml").model.width == 16


def test_json_says_the_same(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny.yaml", "--json")
    told = json.loads(done.stdout)
    assert told["parameters"] == sum(row["parameters"] for row in told["model"])
    assert told["step"]["losses"]["total"] > 0 and told["step"]["without_gradient"] == []


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (["tiny.yaml", "model.fusion.heads=3"], 2, "fusion 'cross_attention', option 'heads': 3 does not divide"),
        (["tiny.yaml", "model.fusion.depht=3"], 2, "has no option 'depht'; did you mean 'depth'?"),
        (["tiny.yaml", "model.fusion=cross_atention"], 2, "did you mean 'cross_attention'?"),
        (["missing.yaml"], 2, "missing.yaml"),
        (["normtr_mosi", "data.path=nothing.pkl"], 3, "nothing.pkl: no such file"),
        (["tiny.yaml", "--out", "tiny.yaml/x"], 1, "cannot write"),
    ],
)
def test_bad_input_gets_one_clear_error(tmp_path: Path, line: list[str], code: int, message: str) -> None:
    done = run(tmp_path, *line)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
