"""Promise: what stands beside a study's figures is what the paper printed; a slip in naming it is told in its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from mmrobust.cli import main
from mmrobust.errors import RecipeError
from mmrobust.measures import describe
from mmrobust.recipe import load, shipped
from mmrobust.recipe.schema import json_schema
from mmrobust.studies.paper import check_cited, figures, figures_of

STUDY = """\
recipe: 1
extends: normtr
variants:
  whole: {}
  small: {model.width: 16}
paper:
  table: 6
  dataset: MOSI
  rows:
    whole: NORM-TR
    small: w/o MF Extractor
"""


def printed(table: str, row: str, dataset: str) -> dict[str, str]:
    return {one.metric: one.value for one in figures() if (one.table, one.row, one.dataset) == (table, row, dataset)}


def test_figures_are_the_printed_ones() -> None:
    """Rows of each table, read from the paper once more; the figures a table repeats agree but for one of its own."""
    assert printed("1", "MISA", "MOSI") == {
        "acc7": "42.3", "acc2_has0": "81.8", "acc2_non0": "83.4", "f1_has0": "81.7", "f1_non0": "83.6",
        "mae": "0.783", "corr": "0.761",
    }  # fmt: skip
    assert printed("2", "PMR", "MOSEI") == {"acc7": "52.5", "acc2_non0": "83.3", "f1_non0": "82.8"}
    assert printed("3", "MCTN", "IEMOCAP") == {
        "accuracy.happy": "80.5", "f1.happy": "77.5", "accuracy.sad": "72.0", "f1.sad": "71.7",
        "accuracy.angry": "64.9", "f1.angry": "65.6", "accuracy.neutral": "49.4", "f1.neutral": "49.3",
        "accuracy_mean": "66.7", "f1_mean": "66.0",
    }  # fmt: skip
    assert printed("4", "Cornejo et al.", "RML") == {"accuracy": "82.50"}
    assert printed("5", "TFR-Net", "MOSI") == {"acc2_non0": "69.0", "mae": "1.155", "corr": "0.467"}
    assert printed("5", "TFR-Net*", "MOSEI") == {
        "acc7": "46.5", "acc2_has0": "73.3", "acc2_non0": "74.7", "mae": "0.686", "corr": "0.515",
    }  # fmt: skip
    assert printed("6", "w/o Multimodal fusion Transformer", "MOSEI") == {"acc7": "53.8", "mae": "0.536"}
    assert printed("7", "w/o Text", "MOSI") == {"acc7": "18.1", "mae": "1.410"}
    assert printed("8", "Q MFs K&V NRGFs", "MOSEI") == {"acc7": "53.2", "mae": "0.539"}
    assert printed("section 4.7.4", "ViT", "RML") == {"accuracy": "88.19"}
    whole = {one.table: one.value for one in figures() if (one.metric, one.dataset) == ("mae", "MOSEI")
             and one.row in ("NORM-TR", "Q NRGFs K&V MFs") and one.table != "5"}  # fmt: skip
    assert whole == {"2": "0.529", "6": "0.528", "7": "0.528", "8": "0.529"}
    assert len(printed("4", "NORM-TR", "RML")) == 2
    assert Counter(one.table for one in figures()) == {
        "1": 54, "2": 54, "3": 80, "4": 12, "5": 62, "6": 20, "7": 16, "8": 8,
        "figure 6a": 1, "figure 6b": 1, "section 4.7.4": 3,
    }  # fmt: skip


def test_every_metric_is_one_of_ours_and_in_its_range() -> None:
    keys = [(one.table, one.row, one.dataset, one.metric) for one in figures()]
    assert len(set(keys)) == len(keys)
    for one in figures():
        low, high = (15, 95) if describe(one.metric).percent else (0.2, 1.5)
        assert low < float(one.value) < high, one


def test_a_study_says_what_stands_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(STUDY)
    (cited,) = load("mine.yaml").paper
    assert (cited.table, cited.dataset) == ("6", "MOSI")
    assert {one.metric: one.value for one in figures_of(cited, "small")} == {"acc7": "48.1", "mae": "0.706"}
    assert figures_of(cited, "other") == ()
    again = load("mine.yaml", ["paper.dataset=MOSEI"])
    assert {one.metric: one.value for one in figures_of(again.paper[0], "small")} == {"acc7": "53.6", "mae": "0.534"}
    assert load("mine.yaml", ["~paper"]).paper == () and again.variant("small").paper == ()
    assert "paper" not in again.variant("small").resolved and again.resolved["paper"]["dataset"] == "MOSEI"


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("small: w/o", "smal: w/o", "11:5: error: paper.rows: there is no variant 'smal'; did you mean 'small'?"),
        ("small: w/o MF Extractor", "small: {}", "11:12: error: paper.rows.small has to be text, not a mapping"),
        ("  dataset: MOSI\n", "", "6:1: error: paper needs 'dataset'"),
        ("dataset: MOSI", "data: MOSI", "8:3: error: paper has no key 'data'; did you mean 'dataset'?"),
    ],
)
def test_a_wrong_shape_is_an_error_of_the_recipe(
    was: str, now: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert was in STUDY
    Path("mine.yaml").write_text(STUDY.replace(was, now))
    with pytest.raises(RecipeError) as caught:
        load("mine.yaml")
    assert f"mine.yaml:{message}" in str(caught.value)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("table: 6", "table: 9", "7:3: error: there is no table of the paper '9'; known: 1, 2, 3"),
        ("table: 6", "table: figure 6", "7:3: error: there is no table of the paper 'figure 6'; did you mean 'fig"),
        ("MOSI", "MOSII", "8:3: error: there is no dataset of table 6 'MOSII'; did you mean 'MOSI'?"),
        ("MOSI", "RML", "8:3: error: there is no dataset of table 6 'RML'; known: MOSEI, MOSI"),
        ("MF Extractor", "MF extractr", "11:5: error: table 6 of the paper has no row 'w/o MF extractr' for MOSI;"),
    ],
)
def test_what_the_paper_does_not_have_stops_a_study_before_it_begins(
    was: str, now: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert was in STUDY
    Path("mine.yaml").write_text(STUDY.replace(was, now))
    assert main(["study", "mine.yaml"]) == 2
    assert f"mine.yaml:{message}" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("studies/")])
def test_every_shipped_study_names_figures_that_the_paper_has(name: str) -> None:
    try:
        recipe = load(name)
    except RecipeError as error:
        pytest.skip(f"needs a plugin: {str(error).splitlines()[0]}")
    check_cited(recipe)


def test_it_may_be_a_list_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        STUDY[: STUDY.index("paper")] + "paper:\n  - {table: 6, dataset: MOSI, rows: {whole: NORM-TR}}\n"
        "  - {table: figure 6a, dataset: RML, rows: {small: depth 2}}\n"
    )
    loaded = load("mine.yaml")
    assert [one.table for one in loaded.paper] == ["6", "figure 6a"]
    jsonschema.validate(loaded.tree.plain, json_schema())
    for text in ("paper: 6\n", "paper: [6]\n"):
        Path("mine.yaml").write_text(STUDY[: STUDY.index("paper")] + text)
        with pytest.raises(RecipeError, match="paper has to be a mapping of table, dataset and rows"):
            load("mine.yaml")


def test_another_recipe_can_be_put_under_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(STUDY)
    Path("below.yaml").write_text("recipe: 1\nextends: normtr\ndata: {train: 40}\nmodel: {width: 64}\n")
    for ref in ("below.yaml", str(tmp_path / "below.yaml")):
        loaded = load("mine.yaml", [f"extends={ref}", "data.valid=20"])
        assert loaded.data.options["train"] == 40 and loaded.data.options["valid"] == 20
        assert [loaded.variant(name).model.width for name in loaded.variants] == [64, 16]
    assert load("mine.yaml", ["extends=normtr_mosi"]).data.use == "mmsa"
    with pytest.raises(RecipeError, match=r"command line: error: there is no shipped recipe 'normtr_moi'; did you"):
        load("mine.yaml", ["extends=normtr_moi"])
