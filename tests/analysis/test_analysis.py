"""Promise: any trained model can be looked into; the same model gives the same bytes; what is not there is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mmrobust
from mmrobust.analysis import analyze
from mmrobust.errors import CheckpointError, MmrobustError, UsageError
from mmrobust.reports import report
from mmrobust.robustness import evaluate
from mmrobust.training import RunFolder, open_data, train

torch.set_num_threads(1)

TINY = [
    "data.train=48", "data.valid=16", "data.test=40", "data.length=10", "data.text=8", "data.audio=6", "data.vision=6",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1]",
    "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=1", "evaluate.metrics=[mae, acc7]",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train("normtr", TINY, out=folder / "normtr", quiet=True)
    evaluate(folder / "normtr", quiet=True)
    classes = [change for change in TINY if "metrics" not in change]
    train("normtr", [*classes, "data.classes=3", "train.seeds=[4]"], out=folder / "classes", quiet=True)
    bare = ["model.generic_extractor=none", "learning.views.type_1.objectives=[task]",
            "learning.views.type_2.objectives=[task]"]  # fmt: skip
    fusion = [change for change in TINY if "fusion" not in change]
    train("normtr", [*fusion, "model.fusion=concat", *bare], out=folder / "bare", quiet=True)
    return folder


def test_what_is_told_of_normtr(runs: Path) -> None:
    found = analyze(runs / "normtr", against=runs / "classes", quiet=True)
    assert json.loads((runs / "normtr" / "analysis.json").read_text()) == json.loads(json.dumps(found))
    for run, samples in zip(found["runs"], (40, 40), strict=True):
        pairs = run["similarity"]
        assert pairs["generic_generic"]["pairs"] == pairs["generic_specific"]["pairs"] == 3 * samples
        asked = {(one["asks"], one["reads"]): one for one in run["probes"]}
        assert len(asked) == 6 and asked["modality", "generic"]["chance"] == pytest.approx(1 / 3)
        assert asked["noise", "generic"]["chance"] == 0.5 and asked["noise", "generic"]["samples"] == 80
        seen = run["attention"]
        assert seen["rates"] == [0.5, 1] and seen["share"][0] == pytest.approx(0.5, abs=0.05)
        assert seen["mass"][1] == pytest.approx(1) and seen["share"][1] == 1  # everything is erased
    assert found["runs"][1]["seed"] == 4
    picture = found["map"]
    across, down = sum(picture["keys"].values()), sum(picture["queries"].values())
    for name in ("clean", "noisy"):
        assert len(picture[name]) == down and all(len(row) == across for row in picture[name])
        mean = sum(map(sum, picture[name])) / (across * down)
        assert mean == pytest.approx(1, abs=1e-3)  # rows of attention sum to one
    assert set(picture["erased"]) == {0, 1}
    worst = found["worst"]
    assert len(worst) == 10 and [row["error"] for row in worst] == sorted((row["error"] for row in worst), reverse=True)
    for row in worst:
        assert row["error"] == pytest.approx(abs(float(row["noisy"]) - float(row["label"])), abs=2e-3)
        assert set(row["erased"]) == {"text", "audio", "vision"}
    told = json.loads((runs / "normtr" / "evaluation.json").read_text())["noises"]["frame_drop"]
    gap = found["limit"]["frame_drop"]["gap"]
    assert gap["mae"][0] == pytest.approx(told["at"]["mae"]["mean"][0] - told["limit"]["at"]["mae"]["mean"][0])
    assert gap["acc7"][1] == pytest.approx(told["limit"]["at"]["acc7"]["mean"][1] - told["at"]["acc7"]["mean"][1])


def test_the_worst_samples_met_the_noise_of_the_evaluation(runs: Path) -> None:
    """What is told of a sample is what `predictions/` holds of the same draw."""
    from mmrobust.robustness import store

    run = RunFolder(runs / "normtr")
    saved = store.load(run, run.read_evaluation() or {}, 1)
    errors = (saved.predictions["frame_drop"][1, 0, :, 0] - saved.label).abs()
    worst = analyze(runs / "normtr", quiet=True)["worst"]
    assert [row["id"] for row in worst] == [saved.ids[i] for i in errors.argsort(descending=True)[:10]]


def test_the_same_model_gives_the_same_bytes_and_random_state(runs: Path) -> None:
    state = torch.get_rng_state()
    path = runs / "classes" / "analysis.json"
    analyze(runs / "classes", quiet=True)
    before = path.read_bytes()
    analyze(runs / "classes", quiet=True)
    assert path.read_bytes() == before and torch.equal(torch.get_rng_state(), state)


def test_a_classifier_says_classes(runs: Path) -> None:
    found = analyze(runs / "classes", rate=1, quiet=True)
    assert found["noise"] == {"name": "frame_drop", "rate": 1}
    assert {row["label"] for row in found["worst"]} <= {"class 0", "class 1", "class 2"}
    assert all(0 <= row["error"] <= 1 for row in found["worst"])
    assert found["limit"]["missing"] == f"the run is not evaluated; mmrobust evaluate {runs / 'classes'} measures it"


def test_a_model_without_these_parts_says_so(runs: Path) -> None:
    found = mmrobust.analyze(runs / "bare", quiet=True)
    (one,) = found["runs"]
    assert one["similarity"] == {"missing": "this model has no generic features"}
    assert [(x["asks"], x["reads"]) for x in one["probes"]] == [
        ("modality", "encoded"), ("modality", "specific"), ("noise", "encoded"), ("noise", "specific"),
    ]  # fmt: skip
    for part in (one["attention"], found["map"]):
        assert part == {"missing": "this model's fusion does not attend to the steps of the modalities"}
    assert len(found["worst"]) == 10 and found["worst"][0]["erased"]
    assert "no generic features" in str(found) and found.report == runs / "bare" / "report.html"
    page = found.report.read_text()
    assert "Not shown: " in page and "no generic features" in page and "Worst samples" in page


def test_a_chosen_sample_alone_is_shown(runs: Path) -> None:
    ids = open_data(runs / "normtr")[0].splits["test"].ids
    found = analyze(runs / "normtr", sample=ids[7], quiet=True)
    assert found["map"]["id"] == ids[7]
    drawn = analyze(runs / "normtr", quiet=True)["map"]
    assert found["map"]["clean"] != drawn["clean"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"seed": 9}, UsageError, "has no trained seed 9; it has 1"),
        ({"sample": "test-7x"}, UsageError, "no sample 'test-7x'; did you mean 'test-7'"),
        ({"rate": 0.0}, UsageError, "--rate 0: a rate of noise is more than 0"),
        ({"against": "nowhere"}, UsageError, "there is no run 'nowhere'"),
    ],
)
def test_wrong_usage(runs: Path, options: dict[str, Any], error: type[MmrobustError], said: str) -> None:
    with pytest.raises(error, match=said.replace("(", r"\(")):
        analyze(runs / "normtr", **options, quiet=True)


def test_an_untrained_run_says_how_to_go_on(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "normtr", tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "seed-1")
    with pytest.raises(CheckpointError, match=r"no seed of .* is trained yet; go on with: mmrobust train --resume"):
        analyze(run, quiet=True)


# The report ------------------------------------------------------------------------------------------------------


def test_the_report_shows_it_and_survives_strangers(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "normtr", tmp_path / "run"))
    analyze(run, against=runs / "classes", quiet=True)
    page = report(run).read_text()
    for name in ("similarity", "probes", "attention-on-erased", "attention", "gap"):
        assert (run / "figures" / f"{name}.svg").is_file() and f'download="{name}.svg"' in page
    for name in ("similarity", "probes", "attention", "worst", "gap-frame_drop"):
        assert f'id="table-{name}"' in page
    assert page.count("<script>") == 1
    tags = page.count("<")

    told = json.loads((run / "analysis.json").read_text())
    evil = "<script>document.title='pwned'</script>"
    told["runs"][0]["run"] = told["runs"][0]["recipe"] = evil
    told["noise"]["name"] = evil
    for row in told["worst"]:
        row["id"] = row["label"] = evil
        row["erased"] = {evil: [1, 2], "b": [0, 0], "c": [1, 1]}
    told["map"]["id"] = told["map"]["label"] = evil
    told["map"]["keys"] = {f"{evil}{i}": n for i, n in enumerate(told["map"]["keys"].values())}
    told["limit"] = {evil: told["limit"]["frame_drop"]}
    RunFolder(run).write(run / "analysis.json", json.dumps(told))
    page = report(run).read_text()
    assert page.count("<script>") == 1 and "&lt;script&gt;" in page and page.count("<") == tags


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "runs": [{}]}'])
def test_a_damaged_file_is_told(runs: Path, tmp_path: Path, text: str) -> None:
    run = Path(shutil.copytree(runs / "bare", tmp_path / "run"))
    RunFolder(run).write(run / "analysis.json", text)
    with pytest.raises(MmrobustError, match=r"analysis\.json is damaged.*mmrobust analyze"):
        report(run)
    RunFolder(run).write(run / "analysis.json", '{"format": 2}')
    with pytest.raises(MmrobustError, match="has format 2; this version reads format 1"):
        report(run)
