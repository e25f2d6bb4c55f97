"""Promise: bench tells how fast a recipe is here, keeps nothing, and never ends in a traceback."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmrobust
from mmrobust.cli.app import main
from mmrobust.errors import MmrobustError

SMALL = ["data.train=20", "data.valid=4", "data.test=12", "data.length=8", "model.width=16", "model.fusion.depth=1",
         "model.fusion.heads=2", "evaluate.draws=3", "evaluate.rates=[0, 0.5, 1]"]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_measures_of_a_recipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "normtr", *SMALL, "--seconds", "0.05", "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert "training steps" in said.err and "\x1b" not in said.err
    assert record["batch_size"] == 10 and record["rounds"] >= 3  # 20 samples in two batches of nearly one size
    assert 0 < record["step_low"] <= record["step"] <= record["step_high"]
    assert record["samples_per_second"] == pytest.approx(10 / record["step"])
    assert record["epoch"] == pytest.approx(2 * record["step"])
    assert record["training"] == pytest.approx(6 * record["epoch"])
    assert 0 < record["feeding"] < 1 and record["gemm_gflops"] > 0
    assert record["sweep_samples"] == 12 and record["passes"] == 1 + 2 * 3 and record["sweep"] > 0
    assert {"manual", "sdpa"} <= set(record["backends"]) and not set(record["backends"]) & set(record["left_out"])
    assert set(record["backends"]) | set(record["left_out"]) >= {"flash", "efficient", "cudnn", "flex"}
    assert record["seeds"] is None  # one thread: there is nothing to divide
    assert list(tmp_path.iterdir()) == []


def test_the_function_shows_a_table() -> None:
    result = mmrobust.bench("normtr", SMALL, seconds=0.05, quiet=True)
    lines = str(result).splitlines()
    assert lines[0].startswith("normtr on cpu, 1 thread; a large matrix product runs at ")
    assert any(line.startswith("training step") and "10 samples" in line for line in lines)
    assert any(line.startswith("  with manual") and line.endswith("times the step") for line in lines)
    assert result._repr_html_().startswith("<pre>normtr on cpu")


def test_seeds_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    part = importlib.import_module("mmrobust.benchmark")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # this test's own steps stay on one
    result = mmrobust.bench("normtr", SMALL, seconds=0.2, quiet=True)
    assert result.processes == 2 and result.seeds is not None and 0.1 < result.seeds < 20
    assert "2 seeds at a time" in str(result)

    monkeypatch.setattr(part, "_CHILD", "mmrobust.benchmark:boom")
    with pytest.raises(MmrobustError, match=r"a process that measures seeds ended with exit code 1\n(.*\n)*.*'boom'"):
        mmrobust.bench("normtr", SMALL, seconds=0.05, quiet=True)


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (["bench", "normt"], 2, "there is no shipped recipe 'normt'; did you mean 'normtr'?"),
        (["bench", "normtr", "model.width=x"], 2, "model.width has to be a whole number"),
        (["bench", "normtr", "--seconds", "0"], 2, "things are measured for more than 0 seconds, not 0"),
        (["bench", "normtr", "--seconds", "soon"], 2, "--seconds"),
        (["bench", "normtr_mosi", "data.path=gone.pkl"], 3, "gone.pkl"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], line: list[str], code: int, text: str) -> None:
    assert main([*line, "--quiet"]) == code
    said = capsys.readouterr()
    assert text in said.err and "Traceback" not in said.err and said.out == ""


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("mmrobust.benchmark"), "build", pressed)
    assert main(["bench", "normtr", *SMALL]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; nothing was kept"


def test_help_has_two_examples_and_needs_no_torch() -> None:
    code = "import sys; from mmrobust.cli.app import main; main(['bench', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("mmrobust bench ") >= 3  # the usage and two examples
