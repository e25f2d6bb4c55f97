"""Promise: one page that opens from disk alone, says what the run's files say, and shows strangers' text as text."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from itertools import cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from scipy import stats
from sklearn import metrics

from mmrobust.cli import main
from mmrobust.errors import MmrobustError
from mmrobust.measures import describe
from mmrobust.reports import report
from mmrobust.reports.drawing import SERIES, inline
from mmrobust.reports.figures import (
    Curve,
    against_rate,
    cliques,
    compared,
    multiples,
    over_epochs,
    ranked,
)
from mmrobust.robustness import evaluate
from mmrobust.robustness.resampling import predicted
from mmrobust.training import RunFolder, train

torch.set_num_threads(1)

TINY = [
    "data.train=32", "data.valid=16", "data.test=40", "data.length=10", "data.text=8", "data.audio=6", "data.vision=6",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=2",
    "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=1", "evaluate.metrics=[mae, corr, acc7]",
]  # fmt: skip


@pytest.fixture(scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train("normtr", [*TINY, "train.seeds=[1, 2]"], out=folder / "two", quiet=True)
    shutil.copytree(folder / "two", folder / "trained")
    evaluate(folder / "two", quiet=True)
    train("normtr", [*TINY, "data.classes=3", "evaluate.metrics=auto"], out=folder / "classes", quiet=True)
    evaluate(folder / "classes", quiet=True)
    return folder


@pytest.fixture
def runs(_runs: Path, tmp_path: Path) -> Path:
    """Runs for this test alone: `two` seeds evaluated, `trained` only, one seed of `classes`."""
    return Path(shutil.copytree(_runs, tmp_path / "runs"))


def test_says_what_the_files_say(runs: Path, check_alone: Any) -> None:
    path = report(runs / "two")
    page = check_alone(path.read_text("utf-8"))
    told = json.loads((runs / "two" / "evaluation.json").read_text())
    for name in told["measures"]:
        measure, clean = describe(name), told["clean"][name]
        assert measure.label in page.text
        shown = f"{measure.show(clean['mean'])} ± {measure.show(clean['std'])}".replace("-", "−")
        assert shown in page.text.replace("\xa0", " "), name
        area = told["noises"]["frame_drop"]["auilc"][name]
        assert measure.show(area["mean"]).replace("-", "−") in page.text
    assert "over 2 seeds" in page.text and "single seed" not in page.text
    assert "limit" in page.text and "made-up data" in page.text
    assert "NORM-TR with the paper's learning scheme" in page.text
    for heading in ("Under noise", "Clean scores", "Scores at every rate", "Training", "Recipe", "Environment"):
        assert heading in page.text
    assert page.tags.count("svg") == len(list((runs / "two" / "figures").iterdir()))


def test_same_files_same_bytes(runs: Path) -> None:
    files = [report(runs / "two"), *sorted((runs / "two" / "figures").iterdir())]
    before = [path.read_bytes() for path in files]
    assert report(runs / "two") == files[0]
    assert [path.read_bytes() for path in files] == before
    for figure in files[1:]:
        assert ElementTree.fromstring(figure.read_text("utf-8")).tag.endswith("svg")


def test_light(runs: Path) -> None:
    assert report(runs / "two").stat().st_size < 300_000


def test_only_trained(runs: Path, check_alone: Any) -> None:
    page = check_alone(report(runs / "trained").read_text("utf-8"))
    assert "Not evaluated yet" in page.text and "mmrobust evaluate" in page.text
    assert "Clean scores" not in page.text and "Training" in page.text
    assert page.tags.count("svg") >= 2
    (runs / "trained" / "metrics.jsonl").write_text("")
    assert "No epoch is finished yet" in check_alone(report(runs / "trained").read_text("utf-8")).text


def test_one_seed_of_classes(runs: Path, check_alone: Any) -> None:
    page = check_alone(report(runs / "classes").read_text("utf-8"))
    assert "A single seed" in page.text and "±" not in page.text
    assert "classification, 3 classes" in page.text and "Accuracy" in page.text


def test_seeds_that_are_missing_are_told(runs: Path, check_alone: Any) -> None:
    shutil.rmtree(runs / "two" / "checkpoints" / "seed-2")
    evaluate(runs / "two", quiet=True)
    assert "not trained to the end: seed 2" in check_alone(report(runs / "two").read_text("utf-8")).text


def test_other_rates_give_both_areas(runs: Path, check_alone: Any) -> None:
    evaluate(runs / "two", ["evaluate.rates=[0, 0.5]"], quiet=True)
    page = check_alone(report(runs / "two").read_text("utf-8"))
    assert "per unit of rate" in page.text and "from 0.0 to 0.5" in page.text
    evaluate(runs / "two", ["evaluate.rates=[0]"], quiet=True)
    assert "Under noise" not in check_alone(report(runs / "two").read_text("utf-8")).text


def test_undefined_values_are_dashes(runs: Path, check_alone: Any) -> None:
    change(runs / "two", lambda told: told["clean"]["corr"].update(mean=None, std=None, each=[None, None]))
    change(runs / "two", lambda told: told["noises"]["frame_drop"]["at"]["corr"]["mean"].__setitem__(1, None))
    assert "Corr ↑ –" in check_alone(report(runs / "two").read_text("utf-8")).text.replace("\xa0", " ")


# Strangers' text --------------------------------------------------------------------------------------------------


def change(run: Path, f: Any) -> None:
    told = json.loads((run / "evaluation.json").read_text())
    f(told)
    RunFolder(run).write(run / "evaluation.json", json.dumps(told))


def attack(run: Path, texts: list[str]) -> None:
    """Puts each of the texts wherever a run's files hold something that is not ours."""
    supply = cycle(texts)
    one = lambda: next(supply)

    def told(found: dict[str, Any]) -> None:
        found["recipe"], found["split"] = one(), one()
        modalities = {one(): [1, 2] for _ in range(3)}
        found["data"] = {"use": one(), "splits": {one(): 3}, "modalities": modalities, "notes": texts}
        found["task"] = {"kind": "multilabel", "outputs": 2, "measures": "iemocap", "names": [one()]}
        noise = found["noises"].pop("frame_drop")
        noise["options"] = {one(): one()}
        found["noises"] = {one(): noise, f"_{one()}": noise}
        for _ in range(4):
            name = f"f1.{one()}"
            for table in (found["clean"], found["limit"], *noise["limit"].values(), noise["limit"]["at"], noise["at"],
                          noise["auilc"], noise["auilc_mean"]):  # fmt: skip
                table[name] = table.get("corr", 0)
            found["measures"].append(name)
        found["primary"] = found["measures"][-1]

    change(run, told)
    folder = RunFolder(run)
    folder.write(folder.resolved, json.dumps({"name": one(), "summary": one(), "data": {"use": one()}}))
    folder.write(folder.recipe, "\n".join(texts))
    env = {"date": one(), "command": texts, **{one(): one() for _ in range(9)}, one(): {one(): one()}}
    folder.write(folder.env, json.dumps(env))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss, valid = [one(), one()], f"f1.{one()}"
    for line in lines:
        line["loss"] |= dict.fromkeys(loss, 1.0)
        line["valid"] = {valid: 0.5}
    folder.set_metrics(lines)


def test_strangers_text_changes_nothing_but_text(
    runs: Path, hostile: list[str], check_alone: Any, files_of: Any, browser: Any
) -> None:
    """A page full of attacks has the very elements and attributes of one that says harmless things in their place."""
    calm = Path(shutil.copytree(runs / "two", runs / "calm"))
    attack(runs / "two", hostile)
    attack(calm, [f"harmless{i}" for i in range(50)])
    page, other = (check_alone(report(run).read_text("utf-8")) for run in (runs / "two", calm))
    assert page.elements == other.elements
    assert "<script>document.title='pwned'</script>" in page.text
    for name, text in files_of(page).items():
        if name.endswith(".csv"):
            for cell in (cell for row in csv.reader(io.StringIO(text)) for cell in row):
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
                assert not cell.startswith("-") or float(cell) < 0, cell
        else:
            assert not re.search(r"\\(input|write|immediate)", text), text
    for figure in (runs / "two" / "figures").iterdir():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+\.svg", figure.name)
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(figure.read_text("utf-8")).iter()}
        assert not {"script", "img", "image", "foreignObject", "a"} & tags

    browser.said.clear()
    browser.open(runs / "two" / "report.html")
    assert browser.said == [] and "pwned" not in browser.js("document.title").replace("'pwned'", "")
    assert browser.js("document.querySelectorAll('script').length") == 1
    browser.press("#table-clean thead th:first-child button")
    assert browser.said == []


# In a browser ------------------------------------------------------------------------------------------------------


def test_a_click_or_a_key_sorts(runs: Path, browser: Any) -> None:
    browser.said.clear()
    browser.open(report(runs / "two"))
    column = lambda n: browser.js(f"[...document.querySelectorAll('#table-rates-frame_drop tbody tr')]"
                                  f".map(row => row.cells[{n}].innerText)")  # fmt: skip
    head = "#table-rates-frame_drop thead th:nth-child({})".format
    state = lambda n: browser.js(f"document.querySelector('{head(n)}').getAttribute('aria-sort')")
    assert column(0) == ["0.0", "0.5", "1.0"] and state(1) == state(2) == "none"
    numbers = lambda n: [float(text.partition("±")[0].replace("−", "-")) for text in column(n)]
    before, mae = column(0), numbers(1)
    browser.press(f"{head(2)} button")  # MAE: the best is the lowest
    assert state(2) == "ascending" and numbers(1) == sorted(mae)
    browser.press(f"{head(3)} button")  # Corr: the best is the highest
    assert (state(2), state(3)) == ("none", "descending") and numbers(2) == sorted(numbers(2), reverse=True)
    browser.js(f"document.querySelector('{head(1)} button').focus()")
    browser.key("Enter", 13, "\r")
    browser.key(" ", 32, " ")
    assert state(1) == "descending" and column(0) == before[::-1]
    browser.key("Enter", 13, "\r")
    assert state(1) == "none" and column(0) == before
    assert browser.said == []


def test_downloads(runs: Path, browser: Any) -> None:
    browser.said.clear()
    browser.open(report(runs / "two"))
    told = json.loads((runs / "two" / "evaluation.json").read_text())
    browser.press("a[download='clean.csv']")
    rows = list(csv.DictReader(io.StringIO(browser.downloaded("clean.csv"))))
    assert [float(row["mean ± std"]) for row in rows] == [told["clean"][name]["mean"] for name in told["measures"]]
    assert [float(row["seed 2"]) for row in rows] == [told["clean"][name]["each"][1] for name in told["measures"]]
    browser.press("a[download='clean.tex']")
    text = browser.downloaded("clean.tex")
    assert (
        r"\toprule" in text
        and rf"Acc{{-}}7, \% $\uparrow$ & ${describe('acc7').show(told['clean']['acc7']['mean'])}" in text
    )
    browser.press("a[download='rates-mae.svg']")
    svg = browser.downloaded("rates-mae.svg")
    assert "var(" not in svg and SERIES[0] in svg and "MAE" in svg
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width", "").endswith("pt")
    assert browser.said == []


def test_dark_print_and_narrow(runs: Path, browser: Any) -> None:
    page = report(runs / "two")
    colours = {}
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        paper, ink, curve = browser.js(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
            " getComputedStyle(document.querySelector('svg .curve-0 path, svg path[style*=series-1]')).stroke]"
        )
        level = lambda text: sum(map(int, re.findall(r"\d+", text)[:3]))
        colours[scheme] = level(paper), level(ink), level(curve)
    assert colours["light"][0] > 700 > 200 > colours["light"][1] and colours["dark"][0] < 120 < 600 < colours["dark"][1]
    assert colours["dark"][2] > colours["light"][2]
    browser.open(page, width=380)
    assert browser.js("document.documentElement.scrollWidth") <= 380  # wide tables scroll by themselves
    browser.open(page, media="print", scheme="dark")
    assert level(browser.js("getComputedStyle(document.body).backgroundColor")) > 700
    assert browser.js("getComputedStyle(document.querySelector('.get')).display") == "none"


def test_everything_can_be_read_without_the_script(runs: Path, check_alone: Any) -> None:
    page = check_alone(report(runs / "two").read_text("utf-8"))
    assert "button" not in page.tags  # heads become buttons only where something answers
    for link in page.links:
        href = link["href"] or ""
        assert href.startswith("data:") or (runs / "two" / href).exists(), href


# Figures ----------------------------------------------------------------------------------------------------------


def test_figures_follow_the_page() -> None:
    curves = [
        Curve("a", [1.0, None, 3.0], [[1, 2, 3], [1, None, 3]], [0.5, 0.6, 0.7]),
        Curve("b", [2, 2, 2], [[2, 2, 2]]),
    ]
    for large in (False, True):
        svg = inline(against_rate(describe("mae"), [0, 0.5, 1], curves, large=large).svg)
        assert svg.startswith("<svg") and "var(--series-1)" in svg and "var(--series-2)" in svg and "var(--ink)" in svg
        assert not re.search(r"#[0-9a-fA-F]{6}\b", svg.replace("#000000", "")), (
            "a colour that dark mode would not change"
        )
        assert "<text" in svg and ' width="' not in svg.split(">")[0]
    svg = over_epochs("loss", {k: ([1, 2], [1.0, None]) for k in range(9)}, {0: 1}).svg
    assert "seed" not in svg  # too many for a legend


def test_twenty_curves_stay_apart() -> None:
    """The reference and the best have colours, every one is named in the order of the areas."""
    rates = [0, 0.5, 1]
    curves = [(rates, Curve(f"model {i}", [i, i, i], [[i, i, i]])) for i in range(20)]
    svg = compared(describe("mae"), "x", curves, one_limit=False, large=True, shown={0: 0, 5: 1}, areas=range(20)).svg
    texts = re.findall(r">([0-9.]+  model \d+)</text>", svg)
    assert texts == [f"{i:.3f}  model {i}" for i in range(20)]
    figure = inline(svg)
    assert figure.count('class="curve-7"') == 3  # the curve, and its line and its name in the legend
    assert "var(--faint)" in figure and "var(--series-2)" in figure and "var(--series-3)" not in figure
    assert len(re.findall(r">model \d+</text>", multiples(describe("mae"), "x", curves).svg)) == 20


def test_ranks_are_joined_where_they_cannot_be_told_apart() -> None:
    assert cliques([1, 1.5, 3, 3.2, 9], 2) == [(0, 2), (1, 3)]
    assert cliques([1, 4, 8], 1) == [] and cliques([1, 2], 1) == [(0, 1)]
    svg = inline(ranked({"b": 2.0, "a": 1.25, "<c>": 2.75}, 1.0, "a").svg)
    assert "critical difference 1.00" in svg and "a  1.25" in svg and "&lt;c&gt;" in svg
    assert "critical" not in ranked({"a": 1.0, "b": 2.0}, None, "a").svg


def test_damaged_files_are_told(runs: Path) -> None:
    two = RunFolder(runs / "two")
    two.evaluation.write_text("{")
    with pytest.raises(MmrobustError, match="damaged: its SHA-256 is not the one that was written; mmrobust evaluate"):
        report(two)
    two.write(two.evaluation, "{")
    with pytest.raises(MmrobustError, match="is damaged: it holds no JSON object; mmrobust evaluate"):
        report(two)
    two.write(two.evaluation, '{"format": 2}')
    with pytest.raises(MmrobustError, match="format 2"):
        report(runs / "two")
    whole = (runs / "trained" / "resolved.yaml").read_text()
    for text in ("a: [", "- no recipe", ""):
        RunFolder(runs / "trained").write(runs / "trained" / "resolved.yaml", text)
        with pytest.raises(MmrobustError, match=r"resolved\.yaml is damaged"):
            report(runs / "trained")
    RunFolder(runs / "trained").write(runs / "trained" / "resolved.yaml", whole)
    (runs / "trained" / "recipe.yaml").unlink()
    with pytest.raises(MmrobustError, match=r"recipe\.yaml is damaged: it is missing; restore it"):
        report(RunFolder(runs / "trained"))


def test_a_classification_has_confusion_scores_of_each_class_and_a_line_for_chance(
    runs: Path, check_alone: Any, files_of: Any
) -> None:
    page = check_alone(report(runs / "classes").read_text("utf-8"))
    run = predicted(RunFolder(runs / "classes"))
    truth, guess = run.first.label, run.first.predictions["clean"].argmax(-1)
    rows = list(csv.DictReader(io.StringIO(files_of(page)["classes.csv"])))
    options: Any = {"labels": [0, 1, 2], "zero_division": 0}
    precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, guess, **options)
    assert support is not None
    for i, row in enumerate(rows):
        expected = [recall[i], precision[i], f1[i], support[i]]
        assert [float(row[key]) for key in ("recall", "precision", "F1", "n")] == pytest.approx(expected)
    table = metrics.confusion_matrix(truth, guess, labels=[0, 1, 2])
    shown = re.findall(r">(\d+)</text>", (runs / "classes" / "figures" / "confusion.svg").read_text())
    shares = (100 * table / table.sum(1, keepdims=True)).round().astype(int)
    assert list(map(int, shown[:9])) == shares.flatten().tolist()
    clean = {row["Measure"]: row for row in csv.DictReader(io.StringIO(files_of(page)["clean.csv"]))}
    evaluation = json.loads((runs / "classes" / "evaluation.json").read_text())
    assert float(clean["balanced_accuracy"]["score"]) == pytest.approx(metrics.balanced_accuracy_score(truth, guess))
    assert float(clean["accuracy"]["constant"]) == evaluation["constant"]["scores"]["accuracy"]
    assert "always saying the most frequent class of the training labels" in page.text
    assert (runs / "classes" / "figures" / "calibration.svg").exists()


def test_a_regression_has_a_line_for_the_median_of_the_training_labels(runs: Path, check_alone: Any) -> None:
    page = check_alone(report(runs / "two").read_text("utf-8"))
    evaluation = json.loads((runs / "two" / "evaluation.json").read_text())
    constant, clean = evaluation["constant"]["scores"]["mae"], evaluation["clean"]["mae"]
    _, high = stats.t.interval(0.95, 1, loc=clean["mean"], scale=clean["std"] / 2**0.5)
    verdict = " gives" if high < constant else ":"  # the whole interval is better, or it could be luck
    assert f"always saying the median of the training labels{verdict} {constant:.3f}" in page.text
    assert ("not better, by more than luck, than always" in page.text) == (high >= constant)
    assert "constant prediction" in (runs / "two" / "figures" / "rates-mae.svg").read_text()


def test_the_result_is_said_first_with_its_interval(runs: Path, check_alone: Any) -> None:
    page = check_alone(report(runs / "two").read_text("utf-8"))
    evaluation = json.loads((runs / "two" / "evaluation.json").read_text())
    clean = evaluation["clean"]["mae"]
    low, high = stats.t.interval(0.95, 1, loc=clean["mean"], scale=clean["std"] / 2**0.5)
    assert f"MAE {clean['mean']:.3f} [{low:.3f}, {high:.3f}] on clean data".replace("-", "−") in page.text
    assert "mean of 2 seeds with its 95 % interval." in page.text
    single = check_alone(report(runs / "classes").read_text("utf-8"))
    assert "one seed, so the uncertainty is unknown." in single.text and "95 % interval" not in single.text


def test_architecture_parameters_and_labels_are_shown(runs: Path, check_alone: Any, files_of: Any) -> None:
    page = check_alone(report(runs / "classes").read_text("utf-8"))
    evaluation = json.loads((runs / "classes" / "evaluation.json").read_text())
    rows = list(csv.DictReader(io.StringIO(files_of(page)["model.csv"])))
    assert [row["Part"] for row in rows] == [part["slot"] for part in evaluation["model"]["parts"]] + ["all"]
    assert sum(int(row["parameters"]) for row in rows[:-1]) == int(rows[-1]["parameters"])
    counts = list(csv.DictReader(io.StringIO(files_of(page)["labels.csv"])))
    assert sum(int(row["train"]) for row in counts) == 32
    assert "parameters," in page.text and "MACs" in page.text


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (1, 7), (3, 12), (1, 30), (1, 200)])
def test_ticks_of_epochs_are_whole_numbers(first: int, last: int) -> None:
    epochs = list(range(first, last + 1))
    figure = over_epochs("loss", {1: (epochs, [1.0 / x for x in epochs])}, {}).figure
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks and all(text.isdigit() and first <= int(text) <= last for text in ticks) and len(ticks) <= 10


def test_latex_files_and_pdf_figures_are_listed_by_the_command_line(runs: Path, capsys: Any) -> None:
    assert main(["report", str(runs / "two"), "--latex"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = [Path(line.strip()) for line in lines if line.startswith("  ")]
    assert {path.suffix for path in files} == {".tex", ".pdf"} and all(path.stat().st_size for path in files)
    assert "\\begin{tabular}" in (runs / "two" / "tables" / "clean.tex").read_text()
