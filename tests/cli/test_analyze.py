"""`mmrobust analyze` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmrobust.cli import main

TINY = [
    "data.train=32", "data.valid=12", "data.test=20", "data.length=8", "data.text=6", "data.audio=4", "data.vision=4",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1, 2]",
    "evaluate.rates=[0, 1]", "evaluate.draws=1", "evaluate.metrics=[mae]",
]  # fmt: skip


def test_analyze(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMROBUST_DEBUG", "MMROBUST_STRICT_PLUGINS", "MMROBUST_PLUGIN_FILES"):
        monkeypatch.setenv(name, "")
    run = tmp_path / "run"
    assert main(["train", "normtr", *TINY, "--out", str(run), "-q"]) == 0
    capsys.readouterr()
    assert main(["analyze", str(run), "--seed", "2"]) == 0
    out, err = capsys.readouterr()
    assert "seed 2" in out and "probe for modality: encoded" in out and "on erased steps" in out
    assert f"report: {run / 'report.html'}" in out and "Traceback" not in err
    assert "<h2>Analysis</h2>" in (run / "report.html").read_text()
    assert main(["analyze", str(run), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((run / "analysis.json").read_text())
    assert main(["analyze", str(run), "--sample", "nobody", "-q"]) == 2
    assert "error: the split has no sample 'nobody'" in capsys.readouterr().err
