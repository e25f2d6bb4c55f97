"""Promise: the report shows the confidence that was measured at each rate, and nothing where none was."""

from __future__ import annotations

import pytest
import torch

from mmrobust.reports import report
from mmrobust.reports.common import Figures
from mmrobust.reports.confidence import confidence_section
from mmrobust.robustness import evaluate
from mmrobust.training import RunFolder, train

SMALL = [
    "data.train=32", "data.valid=16", "data.test=16", "data.length=6", "data.text=8", "data.audio=6", "data.vision=6",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "evaluate.draws=1",
    "evaluate.rates=[0, 0.5, 1]", "evaluate.noise=[frame_drop, gaussian]",
]  # fmt: skip


@pytest.fixture(scope="module", params=["regression", "classes"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    torch.set_num_threads(1)
    more = ["data.classes=3"] if request.param == "classes" else []
    folder = train("normtr", [*SMALL, *more], out=tmp_path_factory.mktemp("runs") / "run", quiet=True).folder
    evaluate(folder, quiet=True)
    return folder


def test_tables_hold_what_was_measured(run: RunFolder) -> None:
    evaluation = run.read_evaluation() or {}
    figures: Figures = {}
    section = confidence_section(evaluation, figures, "x")
    assert section is not None and section["target"] == "90"
    confidence = evaluation["confidence"]
    for table, (noise, scores) in zip(section["tables"], confidence["noises"].items(), strict=True):
        assert noise in table.caption and len(table.rows) == 3 and len(table.columns) == 1 + len(scores)
        assert [row[1].value for row in table.rows] == scores["coverage"]["mean"]
    drawn = {name for name, _ in section["figures"]}
    assert drawn == set(figures) and {"confidence-coverage", "confidence-aurc"} < drawn


def test_the_page_shows_it(run: RunFolder) -> None:
    page = report(run).read_text()
    assert "Confidence under noise</h2>" in page and "aim at 90 % (dotted)" in page
    assert (run.figures / "confidence-coverage.svg").is_file()


@pytest.mark.parametrize("confidence", [None, {"coverage": None, "clean": {}, "noises": {"frame_drop": {}}}])
def test_nothing_is_shown_where_nothing_was_measured(run: RunFolder, confidence: object) -> None:
    evaluation = {**(run.read_evaluation() or {}), "confidence": confidence}
    figures: Figures = {}
    assert confidence_section(evaluation, figures, "x") is None and figures == {}
    del evaluation["confidence"]  # of an older version
    assert confidence_section(evaluation, figures, "x") is None
