"""`mmrobust build` through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
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


def run(folder: Path, *line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "mmrobust", "build", *line]
    environment = {**os.environ, "NO_COLOR": "1", **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_it_shows_the_tree_and_writes_weights_and_recipe(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny.yaml", "--out", "made/here")
    assert done.returncode == 0, done.stderr
    for text in (
        "encoder             linear",
        "cross_attention   24x8",
        "attention: sdpa (auto)",
        "forward and backward finite",
    ):
        assert text in done.stdout
    weights = safetensors.torch.load_file(tmp_path / "made" / "here" / "model.safetensors")
    assert weights["encoder.layers.text.weight"].shape == (16, 64)
    assert recipes.load(tmp_path / "made" / "here" / "resolved.yaml").model.width == 16


def test_json_says_the_same(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny.yaml", "--json")
    told = json.loads(done.stdout)
    assert told["parameters"] == sum(row["parameters"] for row in told["model"])
    assert told["step"]["losses"]["total"] > 0 and told["step"]["without_gradient"] == []


def test_it_says_which_attention_runs_and_why_not_another(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny.yaml", "train.device=cpu")
    lines = done.stdout.splitlines()
    at = lines.index("attention: sdpa (auto) for 24 queries x 24 keys, heads 4 wide, float32, cpu")
    assert "   not efficient, cudnn: it is a kernel of NVIDIA GPUs, and this runs on 'cpu'" in lines[at : at + 5]
    assert any("is the written-out reference" in line for line in lines[at : at + 5])
    done = run(tmp_path, "tiny.yaml", "train.device=cpu", "model.attention=flash", "--json")
    assert json.loads(done.stdout)["attention"] == [
        "flash (the recipe) for 24 queries x 24 keys, heads 4 wide, float32, cpu"
    ]


def test_it_says_who_multiplies_in_linear_layers(tmp_path: Path) -> None:
    done = run(tmp_path, "tiny.yaml", "train.device=cpu", MMROBUST_GEMM="torch")
    assert "\nfast: linear layers: torch's own choice (" in done.stdout
    done = run(tmp_path, "tiny.yaml", "train.device=cpu", "train.precision=bf16", "--json")
    assert not any("linear layers" in line for line in json.loads(done.stdout)["fast"])  # there is nothing to choose
    done = run(tmp_path, "tiny.yaml", MMROBUST_GEMM="mkl")
    assert done.returncode == 2
    assert done.stderr == "error: MMROBUST_GEMM: linear layers multiply with onednn or torch, not with 'mkl'\n"


def test_an_attention_that_this_machine_does_not_have_is_told_where_it_was_asked_for(tmp_path: Path) -> None:
    model = "model: {width: 16, attention: cudnn}\ntrain: {device: cpu}\n"
    (tmp_path / "own.yaml").write_text("recipe: 1\nname: own\nextends: tiny.yaml\n" + model)
    done = run(tmp_path, "own.yaml")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "own.yaml:4:20: error: attention backend 'cudnn', which the recipe asks for, cannot be used: it is a kernel of "
        "NVIDIA GPUs, and this runs on 'cpu'; use auto, manual, sdpa, flash or timm\n"
    ).replace(", flash or timm", ", flash or timm" if find_spec("timm") else " or flash")


def test_an_attention_that_cannot_run_these_shapes_is_told_there_too(tmp_path: Path) -> None:
    """timm's layer is self-attention, and that one query meets many keys is known in the first step alone."""
    pytest.importorskip("timm.layers", exc_type=Exception)
    (tmp_path / "mine.py").write_text(FIRST_STEP_ASKS)
    (tmp_path / "own.yaml").write_text(
        "recipe: 1\nname: own\nextends: tiny.yaml\nplugins: [./mine.py]\n"
        "model: {attention: timm, fusion: first_step_asks}\ntrain: {device: cpu}\n"
    )
    done = run(tmp_path, "own.yaml", "--trust", "mine.py")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("own.yaml:5:9: error: attention backend 'timm', which the recipe asks for, cannot")
    assert "timm's layer is self-attention, and here 1 queries meet 8 keys; use auto, manual, sdpa" in done.stderr


FIRST_STEP_ASKS = """
import mmrobust
from mmrobust.contracts import Fusion, Shape, Stream
from mmrobust.nn.layers import MultiheadAttention


@mmrobust.register("fusion", "first_step_asks")
class FirstStepAsks(Fusion):
    def __init__(self, context):
        super().__init__(context)
        width = context.specific["text"].width
        self.attention = MultiheadAttention(width, width, 2, context.attention)
        self.shape = Shape(width, 1)

    def forward(self, generic, specific, notes):
        text = specific["text"]
        return Stream.pooled(self.attention(text.x[:, :1], text.x, text.mask)[:, 0])
"""


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


def test_build_imports_neither_the_compiler_nor_timm() -> None:
    code = (
        "import sys; from mmrobust.cli.app import main\n"
        "assert main(['build', 'normtr', 'data.train=20', 'data.test=4', 'data.valid=4', 'model.width=16']) == 0\n"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'sympy', 'timm') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
