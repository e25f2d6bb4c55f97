"""Promise: an evaluation says what the constant prediction scores, how large the model is and how labels are spread."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmrobust.cli import main
from mmrobust.errors import RecipeError
from mmrobust.measures import measure
from mmrobust.model.assemble import build
from mmrobust.recipe import load
from mmrobust.robustness import evaluate
from mmrobust.robustness.background import background, labels_of
from mmrobust.training import RunFolder


def test_what_stands_in_the_evaluation(run: RunFolder, tiny: list[str]) -> None:
    evaluation = json.loads(run.evaluation.read_text())
    built = build(load("normtr", tiny))
    test, train = built.dataset.splits["test"].label, built.dataset.splits["train"].label
    assert test is not None and train is not None
    middle = train.double().quantile(0.5)
    assert evaluation["constant"]["prediction"] == pytest.approx([middle.item()])
    scores = measure(built.context.task, middle.expand(len(test), 1), test, evaluation["measures"])
    assert evaluation["constant"]["scores"] == pytest.approx(scores)
    assert evaluation["model"]["parameters"] == sum(p.numel() for p in built.model.parameters())
    assert sum(part["parameters"] for part in evaluation["model"]["parts"]) == evaluation["model"]["parameters"]
    assert evaluation["model"]["macs"] > evaluation["model"]["parameters"]
    for name, split in built.dataset.splits.items():
        spread = evaluation["labels"][name]
        assert spread["n"] == sum(spread["counts"]) == len(split)
        assert len(spread["edges"]) == len(spread["counts"]) + 1


def test_classes_are_counted(tiny: list[str]) -> None:
    built = build(load("normtr", [*tiny, "data.classes=4"]))
    label = built.dataset.splits["test"].label
    assert label is not None
    found = background(built, label, ["accuracy"])
    counts = found["labels"]["test"]["classes"]
    assert list(counts.values()) == [int((label == i).sum()) for i in range(4)]
    assert found["constant"]["scores"]["accuracy"] <= max(counts.values()) / len(label)


def test_a_split_without_labels_is_left_out(tiny: list[str]) -> None:
    built = build(load("normtr", tiny))
    splits = {**built.dataset.splits, "new": replace(built.dataset.splits["test"], label=None)}
    assert "new" not in labels_of(built.context.task, splits)


def test_the_primary_measure_is_the_one_that_the_recipe_names(run: RunFolder) -> None:
    assert evaluate(run, ["evaluate.primary=corr"], quiet=True)["primary"] == "corr"
    assert evaluate(run, quiet=True)["primary"] == "mae"
    with pytest.raises(RecipeError, match=r"evaluate.primary: 'cor' is not among .*did you mean 'corr'"):
        evaluate(run, ["evaluate.primary=cor"], quiet=True)


def test_a_wrong_primary_measure_stops_a_run_before_it_trains(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "normtr", *tiny, "evaluate.primary=cor", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "error: evaluate.primary: 'cor' is not among the measures of the evaluation; did you mean 'corr'?" in error
    assert not (tmp_path / "run").exists()
