"""Promise: evaluate, report and predict answer on stdout, show progress on stderr, and never with a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrobust.cli.app import main
from mmrobust.contracts import Task
from mmrobust.data import save_arrays

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    rng = np.random.default_rng(0)
    normal = rng.normal
    table = lambda n: {"audio": normal(size=(n, 4, 3)), "video": normal(size=(n, 4, 3)), "label": normal(size=n)}
    splits = {"train": table(20), "valid": table(10), "test": table(12)}
    save_arrays(folder / "data.npz", splits, task=Task("regression", 1, "regression"))
    np.savez(folder / "new.npz", **{k: v for k, v in table(3).items() if k != "label"})
    small = ["model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "evaluate.draws=1"]
    data = ["data.use=arrays", f"data.path={folder / 'data.npz'}", "evaluate.rates=[0, 1]"]
    assert main(["train", "normtr", *data, *small, "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def test_evaluate_report_predict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr()
    assert "test split, 12 samples" in said.out and "MAE ↓" in said.out
    assert "evaluated seed 1" in said.err and "\x1b" not in said.err  # plain lines: this is no terminal

    assert main(["evaluate", str(run), "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((run / "evaluation.json").read_text()) and said.err == ""

    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert main(["report", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(Path(path).is_file() for path in [told["report"], *told["figures"]]) and told["figures"]

    out = run.parent / "said.csv"
    assert main(["predict", str(run), str(run.parent / "new.npz"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"predictions: {out} (3 samples, by the model of seed 1)\n"
    assert out.read_text().splitlines()[0] == "id,prediction"
    assert main(["predict", str(run), str(run.parent / "new.npz"), "--json", "--seed", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 3


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (["evaluate", "nowhere"], 2, "there is no run 'nowhere'"),
        (["evaluate", "RUN", "evaluate.split=tset"], 3, "no labelled split 'tset'; did you mean 'test'?"),
        (["evaluate", "RUN", "evaluate.metrics=[acc7, mea]"], 2, "there is no measure 'mea'; did you mean 'mae'?"),
        (["evaluate", "RUN", "model.width=32"], 2, "changes what was trained"),
        (["report", "nowhere"], 2, "there is no run 'nowhere'"),
        (["predict", "RUN", "missing.npz"], 3, "missing.npz"),
        (["predict", "RUN", "missing.npz", "--seed", "9"], 2, "has no trained seed 9"),
    ],
)
def test_bad_input(run: Path, capsys: pytest.CaptureFixture[str], line: list[str], code: int, text: str) -> None:
    assert main([str(run) if word == "RUN" else word for word in line]) == code
    said = capsys.readouterr()
    assert text in said.err and "Traceback" not in said.err and said.out == ""


@pytest.mark.parametrize("verb", ["evaluate", "report", "predict"])
def test_help_has_two_examples_and_needs_no_torch(verb: str) -> None:
    code = (
        f"import sys; from mmrobust.cli.app import main; main(['{verb}', '--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"mmrobust {verb} ") >= 3  # the usage and two examples
