"""Promise: a study's page shows who differs by more than luck, the paper beside it, and stays light and readable."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmrobust.errors import MmrobustError
from mmrobust.measures import quoted
from mmrobust.reports.study import report_study
from mmrobust.robustness import evaluate
from mmrobust.training import train

torch.set_num_threads(1)

TINY = [
    "data.train=24", "data.valid=12", "data.test=20", "data.length=6", "data.text=6", "data.audio=4", "data.vision=4",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1, 2]",
    "evaluate.noise=[frame_drop, window_erase]", "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=1",
]  # fmt: skip
NOISES = ("frame_drop", "window_erase")
MULTIBENCH = ("relative", "relative_normalized", "effective", "effective_std", "effective_normalized")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "one"
    train("normtr", TINY, out=folder, quiet=True)
    evaluate(folder, quiet=True)
    return folder


def made(folder: Path, run: Path, count: int) -> Path:
    """A study in the layout of `mmrobust.studies.folder`: one real run under many names, its scores shifted."""
    (folder / "variants").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("recipe: 1\n")
    base = json.loads((run / "evaluation.json").read_text())
    draw = random.Random(0)
    names = [f"variant_{i:02}" for i in range(count)]
    tables: list[dict[str, Any]] = [{"where": where, "notes": [], "rows": {}} for where in ("clean", *NOISES)]
    for i, name in enumerate(names):
        told = json.loads(json.dumps(base))
        for measure in told["measures"]:
            by = 0.0 if i == 0 else draw.gauss(0, 0.1)
            scores = [told["clean"][measure], *(told["noises"][noise]["auilc"][measure] for noise in NOISES)]
            for noise in told["noises"].values():
                noise["at"][measure]["mean"] = [x + by for x in noise["at"][measure]["mean"]]
            for score, table in zip(scores, tables, strict=True):
                score["mean"] += by
                score["each"] = [x + by for x in score["each"]]
                table["rows"].setdefault(name, {})[measure] = {
                    "mean": score["mean"], "std": score["std"], "n": 2, "limit": None,
                    "interval": [score["mean"] - 0.01, score["mean"] + 0.01],
                    "paper": {"value": 0.485, "dataset": "MOSI", "table": "6", "row": f"row of {name}"}
                    if measure == "acc7" and table["where"] == "clean" and i % 2 == 0 else None,
                    "difference": by if i else None, "low": by - 0.1 if i else None, "high": by + 0.1 if i else None,
                    "p": 0.01 if i else None, "p_holm": 0.02 if i and measure == "mae" else None,
                    "p_permutation": 0.01 if i else None, "seeds_needed": 7, "best": i == 1, "at_chance": None,
                    "significant": bool(i) and measure == "mae" and i % 3 == 1,
                    **dict.fromkeys(MULTIBENCH),
                }  # fmt: skip
                if table["where"] != "clean":
                    numbers = (score["mean"], i / count, by, 0.01, 1 - i / count)
                    table["rows"][name][measure].update(zip(MULTIBENCH, numbers, strict=True))
        (folder / "variants" / name / "predictions").mkdir(parents=True)
        for file in ("env.json", "resolved.yaml", "metrics.jsonl"):
            shutil.copy(run / file, folder / "variants" / name / file)
        for file in ("report.html", *(entry["file"] for entry in told["predictions"].values())):
            (folder / "variants" / name / file).touch()
        (folder / "variants" / name / "evaluation.json").write_text(json.dumps(told))
    ranks = {name: 1.0 + i for i, name in enumerate(names)}
    variants = {
        name: {
            "label": "The <first> one" if i == 0 else None,
            "changes": {"model.fusion": "x"},
            "state": "finished",
            "error": None,
            "missing": [],
            "parameters": 1000 + i,
            "macs": 5_000_000,
        }
        for i, name in enumerate(names)
    }
    (folder / "tables").mkdir()
    for where in ("clean", *(f"auilc-{noise}" for noise in NOISES)):
        (folder / "tables" / f"{where}.csv").touch()
    told = {
        "format": 1, "mmrobust": "0", "name": "many", "summary": "s", "command": ["mmrobust"], "seeds": [1, 2],
        "reference": names[0], "primary": "mae", "compared": 3 * (count - 1), "variants": variants, "tables": tables,
        "ranks": {"mae": {"over": list(NOISES), "mean": ranks, "p": 0.03, "critical_difference": 2.5}},
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def study(run: Path, tmp_path: Path) -> Path:
    return made(tmp_path / "study", run, 3)


def test_the_paper_s_figures_stand_apart(study: Path, check_alone: Any, files_of: Any) -> None:
    text = report_study(study).read_text()
    page = check_alone(text)
    assert "paper, MOSI" in page.text and "the paper's Table 6, MOSI, row row of variant_02" in text.replace(
        "&#39;", "'"
    )
    rows = list(csv.DictReader(io.StringIO(files_of(page)["clean.csv"])))
    assert [row["Acc-7 (paper, MOSI)"] for row in rows] == ["0.485", "", "0.485"]
    assert r"\shortstack{Acc{-}7, \% $\uparrow$\\paper, MOSI}" in files_of(page)["clean.tex"]
    told = json.loads((study / "study.json").read_text())
    for score in [score for table in told["tables"] for row in table["rows"].values() for score in row.values()]:
        score["paper"] = None
    (study / "study.json").write_text(json.dumps(told))
    assert 'class="paper"' not in report_study(study).read_text()


def test_what_is_under_way_is_not_called_failed(study: Path, check_alone: Any) -> None:
    told = json.loads((study / "study.json").read_text())
    for name, state, error in (("later", "waiting", None), ("now", "running", None), ("broken", "failed", "no memory")):
        told["variants"][name] = {"changes": {}, "state": state, "error": error, "missing": [], "parameters": None}
        (study / "variants" / name).mkdir()
    (study / "study.json").write_text(json.dumps(told))
    text = check_alone(report_study(study).read_text()).text
    assert "Not finished yet, and not in the tables: later, now." in text
    assert "later failed" not in text and "now failed" not in text
    assert "broken failed: no memory" in text


def test_files_hold_every_number_and_bold_is_the_best_in_page_and_latex_alike(
    study: Path, read: Any, files_of: Any
) -> None:
    record = json.loads((study / "study.json").read_text())
    text = report_study(study).read_text()
    files = files_of(read(text))
    for name, table in zip(("clean", *(f"auilc-{noise}" for noise in NOISES)), record["tables"], strict=True):
        rows = {row["Variant"]: row for row in csv.DictReader(io.StringIO(files[f"{name}.csv"]))}
        for variant, scores in table["rows"].items():
            row, score = rows[variant], scores["mae"]
            assert [float(row[key]) for key in ("MAE", "MAE std", "MAE interval low")] == [
                score["mean"], score["std"], score["interval"][0]]  # fmt: skip
            assert row["MAE p_holm"] == ("" if score["p_holm"] is None else str(score["p_holm"]))
        match = re.search(rf'<table class="sheet wide" id="table-{name}".*?</table>', text, re.DOTALL)
        assert match is not None
        sheet = match[0]
        tex = files[f"{name}.tex"]
        columns = len(quoted(record["tables"][0]["rows"]["variant_00"], "mae"))
        assert tex.count(r"\mathbf") == sheet.count("<b>") == columns  # the best one of each column
        daggers = sum(scores["mae"]["significant"] for scores in table["rows"].values())
        assert tex.count(r"^{\dagger}") == sheet.count("<sup") == daggers > 0
        assert tex.count("exploratory") == columns  # under every other head, and once in the caption
        assert (study / "tables" / f"{name}.tex").read_text() == tex
        seeds = list(csv.DictReader(io.StringIO(files[f"{name}-seeds.csv"])))
        assert len(seeds) == 6
        for variant, scores in table["rows"].items():
            own = [float(row["MAE"]) for row in seeds if row["Variant"] == variant]
            assert sum(own) / 2 == pytest.approx(scores["mae"]["mean"])


def test_the_result_is_said_in_a_sentence_first(study: Path, check_alone: Any) -> None:
    page = check_alone(report_study(study).read_text())
    score = json.loads((study / "study.json").read_text())["tables"][0]["rows"]["variant_01"]["mae"]
    word = "better" if score["difference"] < 0 else "worse"
    assert f"On clean data, in MAE: variant_01 (by {abs(score['difference']):.3f}, 95 %" in page.text
    assert f"is {word} than The <first> one; variant_02 (p = .020) cannot be told from it." in page.text
    assert page.text.index("On clean data") < page.text.index("Begun")


def test_labels_stand_for_names_in_tables_and_figures(study: Path, check_alone: Any) -> None:
    text = report_study(study).read_text()
    page = check_alone(text)
    assert "variant_00" not in (study / "figures" / "glance.svg").read_text()
    assert "The &lt;first&gt; one" in (study / "figures" / "glance.svg").read_text()
    assert "The <first> one" in page.text and 'href="variants/variant_00/report.html"' in text


def test_figures_are_written_as_pdf_for_a_paper(study: Path) -> None:
    report_study(study)
    assert not list((study / "figures").glob("*.pdf"))
    report_study(study, latex=True)
    drawn = {path.stem for path in (study / "figures").glob("*.svg")}
    written = {path.stem: path.read_bytes() for path in (study / "figures").glob("*.pdf")}
    assert set(written) == drawn and all(data.startswith(b"%PDF-") for data in written.values())
    report_study(study, latex=True)
    assert written == {path.stem: path.read_bytes() for path in (study / "figures").glob("*.pdf")}


def test_multibench_s_measures_have_tables_of_their_own(study: Path, check_alone: Any, files_of: Any) -> None:
    told = json.loads((study / "study.json").read_text())
    page = check_alone(report_study(study).read_text())
    files = files_of(page)
    for noise, table in zip(NOISES, told["tables"][1:], strict=True):
        rows = list(csv.DictReader(io.StringIO(files[f"robustness-{noise}.csv"])))
        for row in rows:
            score = table["rows"][row["Variant"]]["mae"]
            assert [float(row[key]) for key in (
                "relative (MAE)", "relative, 0 to 1 (of these variants)", "effective (MAE)", "effective (MAE) std",
                "effective, 0 to 1 (of these variants)",
            )] == [score[key] for key in MULTIBENCH]  # fmt: skip
        every = {row["Variant"]: row for row in csv.DictReader(io.StringIO(files[f"effective-{noise}.csv"]))}
        for variant, scores in table["rows"].items():
            assert float(every[variant]["Acc-7"]) == scores["acc7"]["effective"]
            assert float(every[variant]["Acc-7 relative"]) == scores["acc7"]["relative"]
        assert "baseline: The \\textless{}first\\textgreater{} one" in files[f"robustness-{noise}.tex"]
    assert "Liang et al., 2021" in page.text and "that of The <first> one once both begin" in page.text
    assert "robustness-clean.csv" not in files


def test_without_anything_compared_nothing_is_said_of_multibench(study: Path) -> None:
    told = json.loads((study / "study.json").read_text())
    for scores in [scores for table in told["tables"] for row in table["rows"].values() for scores in row.values()]:
        scores.update(dict.fromkeys(MULTIBENCH))
    told["tables"][2]["rows"]["variant_01"]["mae"] = {  # as an older version wrote it
        key: value for key, value in told["tables"][2]["rows"]["variant_01"]["mae"].items() if key not in MULTIBENCH
    }
    (study / "study.json").write_text(json.dumps(told))
    assert "MultiBench" not in report_study(study).read_text()


def test_a_damaged_study_is_told(study: Path) -> None:
    (study / "study.json").write_text("{")
    with pytest.raises(MmrobustError, match=r"study\.json is damaged"):
        report_study(study)


def test_every_link_leads_somewhere(study: Path, read: Any) -> None:
    for link in read(report_study(study).read_text()).links:
        assert link["href"].startswith("data:") or (study / link["href"]).exists(), link


def test_twenty_variants_are_light_and_readable(run: Path, tmp_path: Path, browser: Any, check_alone: Any) -> None:
    folder = made(tmp_path / "study", run, 20)
    path = report_study(folder)
    assert path.stat().st_size < 2_000_000
    page = check_alone(path.read_text())
    assert "In colour: The <first> one and the 5 others" in page.text and "Mean rank" in page.text
    browser.said.clear()
    for width, scheme, media in ((1250, "light", ""), (1250, "dark", ""), (400, "light", ""), (1000, "light", "print")):
        browser.open(path, width=width, scheme=scheme, media=media)
        assert browser.js("document.documentElement.scrollWidth") <= width  # in print nothing is cut off
        if "MMROBUST_PICTURES" in os.environ:
            browser.picture(Path(os.environ["MMROBUST_PICTURES"]) / f"study-{width}-{scheme}{media}.png")
    browser.open(path)
    browser.press("#table-overview thead th:nth-child(3) button")
    texts = browser.js("[...document.querySelectorAll('#table-overview tbody tr')].map(r => r.cells[2].dataset.key)")
    assert [float(x) for x in texts] == sorted(map(float, texts))
    x, y = browser.js(
        "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
        " return [r.x + r.width / 2, r.y + r.height / 2]; })([...document.querySelectorAll('svg [class^=curve-] text')]"
        ".find(t => t.textContent.includes('variant_07')))"
    )
    browser("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    lit = browser.js("[...document.querySelectorAll('svg.lit .on')].map(e => e.getAttribute('class'))")
    assert len(lit) == 3 and len(set(lit)) == 1  # its curve, its line and its name in the legend
    assert browser.said == []


def test_strangers_change_nothing_but_text(
    run: Path, tmp_path: Path, hostile: list[str], check_alone: Any, browser: Any
) -> None:
    def attacked(folder: Path, texts: list[str]) -> Path:
        told = json.loads((made(folder, run, 3) / "study.json").read_text())
        told["name"], told["summary"], told["command"] = texts[0], texts[1], texts
        told["variants"]["variant_01"]["changes"] = {text: [text, {text: text}] for text in texts}
        told["variants"]["variant_02"].update(error="\n".join(texts), missing=[7])
        for table in told["tables"]:
            table["notes"] = texts
        score = told["tables"][0]["rows"]["variant_00"]["mae"]
        score["paper"] = {"value": 0.5, "dataset": texts[8], "table": texts[9], "row": texts[10]}
        told["ranks"]["mae"]["over"] = texts
        (folder / "study.json").write_text(json.dumps(told))
        (folder / "recipe.yaml").write_text("\n".join(texts))
        return report_study(folder)

    path = attacked(tmp_path / "hostile", hostile)
    page = check_alone(path.read_text())
    calm = check_alone(attacked(tmp_path / "calm", [f"harmless{i}" for i in range(50)]).read_text())
    assert page.elements == calm.elements
    browser.said.clear()
    browser.open(path)
    assert browser.said == [] and browser.js("document.querySelectorAll('script').length") == 1
    assert browser.js("document.title") != "pwned"
