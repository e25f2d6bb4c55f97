"""Promise: `mmrobust.study` does in Python what the command line does, and a single seed is never called better."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

import mmrobust
from mmrobust import recipe
from mmrobust.errors import CellsFailedError, MmrobustError, UsageError
from mmrobust.model.assemble import build
from mmrobust.reports.study import report_study
from mmrobust.studies import Study, is_study, open_study, render, run_study
from mmrobust.studies.foresight import foresee, foresight_text
from mmrobust.studies.running import loaded_study
from mmrobust.training import Job

TINY = [
    "data.train=24", "data.valid=12", "data.test=20", "data.length=6", "data.text=6", "data.audio=4", "data.vision=4",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "evaluate.rates=[0, 1]",
    "evaluate.draws=1", "evaluate.metrics=[mae, corr]",
]  # fmt: skip
STUDIES = ("ablation", "depth", "length", "modalities", "query_key_value", "sensitivity")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of one seed; processes that test beside each other share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-study"
    folder.mkdir(exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return open_study("two", folder / "runs") if (folder / "runs").exists() else _made(folder)


def _made(folder: Path) -> Study:
    (folder / "two.yaml").write_text(
        "recipe: 1\nname: two\nextends: normtr\nvariants:\n  first: {}\n  second: ['model.modalities=[text]']\n"
        "  third: ['~learning.views.type_2', evaluate.draws=2]\n"
        "paper:\n  - {table: 5, dataset: MOSI, rows: {first: NORM-TR, second: MISA*}}\n"
        "  - {table: 1, dataset: MOSI, rows: {first: NORM-TR}}\n"
        "  - {table: 2, dataset: MOSEI, rows: {first: NORM-TR}}\n"
        "evaluate: {noise: [frame_drop, window_erase]}\n"
    )
    small = [*TINY, "learning.views.type_1.objectives=[task]", "learning.views.type_2.objectives=[task]"]
    return mmrobust.study(folder / "two.yaml", small, runs=folder / "runs", seeds=1, jobs=3, quiet=True)


def test_a_single_seed_says_that_it_cannot_tell(study: Study) -> None:
    rows = study.record["tables"][0]["rows"]
    score = rows["second"]["mae"]
    assert score["difference"] is not None and score["p"] is None and not score["significant"]
    page = study.report.read_text()
    assert "A single seed: how much" in page and "a single seed cannot show a difference" in page
    assert "<b>" not in page and "<sup" not in page and " better" not in page.split("called better")[0]
    assert "On clean data, nothing can be said of MAE: a single seed does not show how far seeds lie apart." in page
    assert str(study).count("first") >= 3 and not {"*", "†"} & set(str(study).split("* the best")[0])


def test_what_met_another_noise_is_not_compared(study: Study) -> None:
    clean, noisy, _ = study.record["tables"]
    assert clean["notes"] == [] and noisy["rows"]["third"]["mae"]["difference"] is None
    assert "third is not compared: it met another noise" in noisy["notes"][0]
    assert noisy["notes"][0] in study.report.read_text()


def test_limits_that_differ_stand_in_the_cells(study: Study) -> None:
    rows = study.record["tables"][0]["rows"]
    assert rows["second"]["mae"]["limit"] > rows["first"]["mae"]["limit"]
    assert 'class="own">limit' in study.report.read_text()


def test_the_best_is_bold_and_significant_differences_have_a_dagger(study: Study, tmp_path: Path) -> None:
    record = json.loads(study.file.read_text())
    score = record["tables"][0]["rows"]["second"]["mae"]
    score.update(std=0.1, difference=-0.25, low=-0.3, high=-0.2, p=0.0001, p_holm=0.0009, significant=True, best=True)
    (tmp_path / "variants").symlink_to(study.path / "variants")
    (tmp_path / "recipe.yaml").write_text("x")
    (tmp_path / "study.json").write_text(json.dumps(record))
    page = report_study(tmp_path).read_text()
    assert page.count("<b>") == page.count("†</sup>") == 2  # at a glance, and in its table
    assert page.count("−0.250&nbsp;better") == 2 and "is better than first" in page
    tex = (tmp_path / "tables" / "clean.tex").read_text()
    assert tex.count(r"\mathbf") == 1 and r"\pm 0.100^{\dagger}$" in tex


def test_a_study_says_before_it_starts_what_it_can_show(study: Study) -> None:
    foresight = study.record["foresight"]
    assert foresight["seeds"] == 1 and foresight["alone"] is None and foresight["comparisons"] == 6
    assert foresight_text(foresight).startswith("One seed of a variant: no difference can be shown")


def test_the_spread_of_an_earlier_study_makes_the_difference_a_number(study: Study, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study.path, tmp_path / "two" / "20260101-earlier"))
    file = copy / "variants" / "first" / "evaluation.json"
    evaluation = json.loads(file.read_text())
    evaluation["clean"]["mae"]["std"] = 0.02
    file.write_text(json.dumps(evaluation))
    two = "recipe: 1\nname: two\nextends: normtr\nvariants: {first: {}, second: {model.width: 16}}\n"
    (tmp_path / "two.yaml").write_text(two)
    foresight = foresee(recipe.load(tmp_path / "two.yaml", ["train.seeds=5"]), tmp_path)
    assert foresight["spread"] == {"study": "20260101-earlier", "variant": "first", "measure": "mae", "std": 0.02}
    # 2.02 and 2.34 standard deviations: Welch's test with 5 seeds, alone and as the first of two.
    text = foresight_text(foresight)
    assert "of 2.0 standard deviations between seeds is shown four times in five; of 2.3 where 2" in text
    assert "a standard deviation of 0.020 in MAE, which makes 0.040 and 0.047" in text


def test_five_seeds_are_the_default_of_a_study(tmp_path: Path) -> None:
    """The recipe that a study extends says one seed, which is right for a run; a study needs more."""
    text = "recipe: 1\nextends: normtr\nvariants: {a: {}, b: {model.width: 32}}\n"
    (tmp_path / "s.yaml").write_text(text)
    assert loaded_study(Job(tmp_path / "s.yaml", [], seeds=None)).train.seeds == (1, 2, 3, 4, 5)
    assert loaded_study(Job(tmp_path / "s.yaml", ["train.seeds=[4]"], seeds=None)).train.seeds == (4,)
    assert loaded_study(Job(tmp_path / "s.yaml", [], seeds=2)).train.seeds == (1, 2)
    (tmp_path / "s.yaml").write_text(text + "train: {seeds: 3}\n")
    assert loaded_study(Job(tmp_path / "s.yaml", [], seeds=None)).train.seeds == (1, 2, 3)


def test_the_paper_s_figures_stand_beside_ours_and_apart_from_them(study: Study) -> None:
    clean, first, second = (table["rows"] for table in study.record["tables"])
    assert clean["first"]["mae"]["paper"] == {"value": 0.698, "dataset": "MOSI", "table": "1", "row": "NORM-TR"}
    assert first["second"]["corr"]["paper"] == {"value": 0.412, "dataset": "MOSI", "table": "5", "row": "MISA*"}
    assert clean["second"]["mae"]["paper"] is None and second["first"]["mae"]["paper"] is None
    head, row = next(lines for lines in zip(str(study).splitlines(), str(study).splitlines()[1:], strict=False)
                     if lines[0].startswith("clean"))  # fmt: skip
    assert head.split("  ")[0] == "clean" and head.count("(paper, MOSI)") == 2 and "(0.698)" in row
    lines = (study.path / "tables" / "auilc-frame_drop.csv").read_text().splitlines()
    assert lines[0].endswith("paper,paper_dataset,paper_table,paper_row") and any(
        ",0.412,MOSI,5,MISA*" in x for x in lines
    )
    assert "paper, MOSI" in study.report.read_text()


def test_multibench_s_measures_stand_beside_the_areas(study: Study) -> None:
    clean, first, _ = (table["rows"] for table in study.record["tables"])
    keys = ("relative", "relative_normalized", "effective", "effective_normalized")
    assert [clean["second"]["mae"][key] for key in keys] == [None] * 4
    assert [first["third"]["mae"][key] for key in keys] == [None] * 4  # it met another noise
    score, curves = first["second"]["mae"], {}
    for name in ("first", "second"):
        evaluation = json.loads(study.run(name).evaluation.read_text())
        curves[name] = evaluation["noises"]["frame_drop"]["at"]["mae"]["mean"]  # at rates 0 and 1
    lost = {name: end - begin for name, (begin, end) in curves.items()}
    chance = {name: clean[name]["mae"]["at_chance"] for name in ("first", "second")}
    page = study.report.read_text()
    if chance["first"] or chance["second"]:  # such a model has nothing to lose, so nothing is said of its robustness
        assert score["effective"] is None and score["relative"] is None
    else:
        assert score["effective"] == pytest.approx(lost["second"] - lost["first"]) and score["effective_std"] is None
        assert score["relative"] == pytest.approx(score["mean"]) and first["first"]["mae"]["effective"] == 0
        assert {score["effective_normalized"], first["first"]["mae"]["effective_normalized"]} == {0, 1}
        assert "Relative and effective robustness (MultiBench)" in page and "over the 2 rates" in page
    with open(study.path / "tables" / "auilc-frame_drop.csv", newline="") as file:
        line = next(row for row in csv.DictReader(file) if (row["variant"], row["measure"]) == ("second", "mae"))
    assert line["effective"] == ("" if score["effective"] is None else str(score["effective"]))


def test_ranks_over_noises_are_those_of_the_areas(study: Study) -> None:
    found = study.record["ranks"]["mae"]
    assert found["over"] == ["frame_drop", "window_erase"] and sum(found["mean"].values()) == pytest.approx(6)
    first, second = (table["rows"] for table in study.record["tables"][1:])
    better = [
        sum(rows[other]["mae"]["mean"] < rows["first"]["mae"]["mean"] for other in rows) for rows in (first, second)
    ]
    assert found["mean"]["first"] == pytest.approx(1 + sum(better) / 2)
    assert 0 < found["p"] <= 1 and found["critical_difference"] == pytest.approx(2.343 * (12 / 12) ** 0.5, abs=0.002)


def test_a_study_is_rendered_anew_from_what_it_predicted(study: Study, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study.path, tmp_path / "two" / "x"))
    told = json.loads((copy / "study.json").read_text())
    (copy / "study.json").write_text(json.dumps({**told, "tables": [], "ranks": {}}))
    for gone in (copy / "report.html", copy / "variants/first/report.html", copy / "tables/clean.csv"):
        gone.unlink()
    shutil.rmtree(copy / "variants/first/checkpoints")  # nothing is trained or evaluated again
    assert is_study("two", tmp_path) and is_study(copy) and not is_study(copy / "variants/first")
    made = render("two", tmp_path, quiet=True)
    again = json.loads((copy / "study.json").read_text())
    assert again["tables"] == told["tables"] and again["ranks"] == told["ranks"]
    assert made.report.is_file() and (copy / "variants/first/report.html").is_file()
    assert (copy / "tables/clean.csv").read_bytes() == (study.path / "tables/clean.csv").read_bytes()


def test_what_is_trained_of_a_variant_that_died_is_kept(study: Study, tmp_path: Path) -> None:
    """Seed 1 is finished, seed 2 cannot even begin: the variant is evaluated with seed 1, and 2 is named."""
    copy = Path(shutil.copytree(study.path, tmp_path / "two" / "x"))
    run = Study(copy, {}).run("third")
    text = run.resolved.read_text()
    assert "seeds: [1]" in text
    run.write(run.resolved, text.replace("seeds: [1]", "seeds: [1, 2]"))
    for gone in (run.evaluation, run.report):
        gone.unlink()
    shutil.rmtree(run.predictions)
    run.seed(2).parent.mkdir(exist_ok=True)
    run.seed(2).write_text("in the way of the checkpoints of seed 2")
    made = run_study(Job(resume=copy, jobs=1, quiet=True))
    assert list(made.failed) == ["third, seed 2"] and made.record["variants"]["third"]["state"] == "finished"
    assert made.record["tables"][0]["rows"]["third"]["mae"]["n"] == 1
    with pytest.raises(CellsFailedError, match=r"(?s)1 of 3 variants failed.*third, seed 2:"):
        made.check()


def test_a_missing_seed_is_a_failed_cell(study: Study) -> None:
    told = json.loads(study.file.read_text())
    told["variants"]["second"].update(missing=[4], error="error: the loss is nan")
    with pytest.raises(
        CellsFailedError, match=r"(?s)1 of 3 variants failed.*second, seed 4:\n +error: the loss is nan"
    ):
        Study(study.path, told).check()


def test_folders_are_found_and_damage_is_told(study: Study, tmp_path: Path) -> None:
    assert open_study(study.path, "runs").path == open_study("two", study.path.parents[1]).path == study.path
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "reference": "../x", "variants": {"../x": {}}}'):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(MmrobustError, match="damaged"):
            open_study(tmp_path, "runs")
    with pytest.raises(UsageError, match="did you mean 'two'"):
        open_study("twoo", study.path.parents[1])


def test_a_variant_is_a_run_like_any_other(study: Study) -> None:
    run = study.run("second")
    assert recipe.load(run.resolved).name == "two.second"
    assert mmrobust.evaluate(run.path, quiet=True)["seeds"] == [1]


def test_a_loaded_recipe_takes_overrides_too() -> None:
    loaded = Job(recipe.load("studies/depth"), {"train.epochs": 1}, seeds=2).load()
    assert loaded.variants == recipe.load("studies/depth").variants
    for variant in map(loaded.variant, loaded.variants):
        assert (variant.train.epochs, variant.train.seeds) == (1, (1, 2))


@pytest.mark.parametrize("name", STUDIES)
def test_every_shipped_variant_builds_and_differs_from_the_first(name: str) -> None:
    loaded = recipe.load(
        f"studies/{name}", [*TINY[:9], "model.fusion.depth=2", *(["data.length=40"] if name == "length" else [])]
    )
    assert len(loaded.train.seeds) >= 5 and loaded.variants
    told, dataset = set(), None
    for variant in loaded.variants:
        built = build(loaded.variant(variant), dataset=dataset)
        dataset = built.dataset
        told.add(json.dumps([built.recipe.resolved[key] for key in ("data", "model", "learning")], sort_keys=True))
    assert len(told) == len(loaded.variants)
