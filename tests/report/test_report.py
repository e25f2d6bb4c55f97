"""Promise: one page that opens from disk alone, says what the run's files say, and shows strangers' text as text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from mmrobust.errors import MmrobustError
from mmrobust.measures import describe
from mmrobust.report import report
from mmrobust.report.figures import Curve, against_rate, inline, over_epochs
from mmrobust.robustness import evaluate
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


class Page(HTMLParser):
    """The page's tags, what it refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def check_alone(text: str) -> Page:
    """That nothing on the page is executed or fetched, and that no id stands twice."""
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value is not None and value.startswith("#"), value
    assert "url(http" not in text and "@import" not in text
    assert len(set(page.ids)) == len(page.ids)
    return page


def test_says_what_the_files_say(runs: Path) -> None:
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


def test_only_trained(runs: Path) -> None:
    page = check_alone(report(runs / "trained").read_text("utf-8"))
    assert "Not evaluated yet" in page.text and "mmrobust evaluate" in page.text
    assert "Clean scores" not in page.text and "Training" in page.text
    assert page.tags.count("svg") >= 2
    (runs / "trained" / "metrics.jsonl").write_text("")
    assert "No epoch is finished yet" in check_alone(report(runs / "trained").read_text("utf-8")).text


def test_one_seed_of_classes(runs: Path) -> None:
    page = check_alone(report(runs / "classes").read_text("utf-8"))
    assert "A single seed" in page.text and "±" not in page.text
    assert "classification, 3 classes" in page.text and "Accuracy" in page.text


def test_seeds_that_are_missing_are_told(runs: Path) -> None:
    shutil.rmtree(runs / "two" / "checkpoints" / "seed-2")
    evaluate(runs / "two", quiet=True)
    assert "not trained to the end: seed 2" in check_alone(report(runs / "two").read_text("utf-8")).text


def test_other_rates_give_both_areas(runs: Path) -> None:
    evaluate(runs / "two", ["evaluate.rates=[0, 0.5]"], quiet=True)
    page = check_alone(report(runs / "two").read_text("utf-8"))
    assert "per unit of rate" in page.text and "from 0.0 to 0.5" in page.text
    evaluate(runs / "two", ["evaluate.rates=[0]"], quiet=True)
    assert "Under noise" not in check_alone(report(runs / "two").read_text("utf-8")).text


def test_undefined_values_are_dashes(runs: Path) -> None:
    change(runs / "two", lambda told: told["clean"]["corr"].update(mean=None, std=None, each=[None, None]))
    change(runs / "two", lambda told: told["noises"]["frame_drop"]["at"]["corr"]["mean"].__setitem__(1, None))
    assert "Corr ↑ –" in check_alone(report(runs / "two").read_text("utf-8")).text.replace("\xa0", " ")


# Strangers' text --------------------------------------------------------------------------------------------------

HOSTILE = (
    "</pre></title></svg><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">\x00$^{&"
)


def change(run: Path, f: Any) -> None:
    told = json.loads((run / "evaluation.json").read_text())
    f(told)
    (run / "evaluation.json").write_text(json.dumps(told))


@pytest.fixture
def hostile(runs: Path) -> Path:
    """A run in which every text that is not ours is an attack."""
    run = runs / "two"

    def attack(told: dict[str, Any]) -> None:
        told["recipe"] = told["split"] = HOSTILE
        told["data"] = {"use": HOSTILE, "splits": {HOSTILE: 3}, "modalities": {HOSTILE: [1, 2]}, "notes": [HOSTILE] * 2}
        told["task"] = {"kind": "multilabel", "outputs": 2, "measures": "iemocap", "names": [HOSTILE]}
        noise = told["noises"].pop("frame_drop")
        noise["options"] = {HOSTILE: HOSTILE}
        told["noises"] = {HOSTILE: noise, f"_{HOSTILE}": noise}
        for table in (told["clean"], told["limit"], *noise["limit"].values(), noise["limit"]["at"], noise["at"],
                      noise["auilc"], noise["auilc_mean"]):  # fmt: skip
            table[f"f1.{HOSTILE}"] = table.get("corr", 0)
        told["measures"].append(f"f1.{HOSTILE}")
        told["primary"] = f"f1.{HOSTILE}"

    change(run, attack)
    (run / "resolved.yaml").write_text(json.dumps({"name": HOSTILE, "summary": HOSTILE, "data": {"use": HOSTILE}}))
    (run / "recipe.yaml").write_text(HOSTILE)
    (run / "env.json").write_text(json.dumps({"date": HOSTILE, "command": [HOSTILE], HOSTILE: {HOSTILE: HOSTILE}}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["loss"][HOSTILE] = 1.0
        line["valid"] = {f"f1.{HOSTILE}": 0.5}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_strangers_text_is_shown_as_text(hostile: Path) -> None:
    page = check_alone(report(hostile).read_text("utf-8"))
    assert "<script>document.title='pwned'</script>" in page.text
    for figure in (hostile / "figures").iterdir():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+\.svg", figure.name)
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(figure.read_text("utf-8")).iter()}
        assert not {"script", "img", "image", "foreignObject"} & tags


def test_a_browser_executes_nothing(hostile: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    page = report(hostile).resolve()
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None and "pwned" in title[1] and "&lt;script&gt;" in title[1]  # as text, still all of it
    assert "<h2>Environment</h2>" in done.stdout


# Figures ----------------------------------------------------------------------------------------------------------


def test_figures_follow_the_page() -> None:
    curves = [
        Curve("a", [1.0, None, 3.0], [[1, 2, 3], [1, None, 3]], [0.5, 0.6, 0.7]),
        Curve("b", [2, 2, 2], [[2, 2, 2]]),
    ]
    for large in (False, True):
        svg = inline(against_rate(describe("mae"), [0, 0.5, 1], curves, large=large))
        assert svg.startswith("<svg") and "var(--series-1)" in svg and "var(--series-2)" in svg and "var(--ink)" in svg
        assert not re.search(r"#[0-9a-fA-F]{6}\b", svg.replace("#000000", "")), (
            "a colour that dark mode would not change"
        )
        assert "<text" in svg and ' width="' not in svg.split(">")[0]
    svg = over_epochs("loss", {k: ([1, 2], [1.0, None]) for k in range(9)}, {0: 1})
    assert "seed" not in svg  # too many for a legend


def test_damaged_files_are_told(runs: Path) -> None:
    (runs / "two" / "evaluation.json").write_text("{")
    with pytest.raises(MmrobustError, match="damaged; run mmrobust evaluate"):
        report(runs / "two")
    (runs / "two" / "evaluation.json").write_text('{"format": 2}')
    with pytest.raises(MmrobustError, match="format 2"):
        report(runs / "two")
    (runs / "trained" / "recipe.yaml").unlink()
    with pytest.raises(MmrobustError, match=r"recipe\.yaml cannot be read"):
        report(RunFolder(runs / "trained"))
