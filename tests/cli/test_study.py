"""A study through the real command line: finished, failing, interrupted, killed, and written by strangers."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mmrobust.cli import main

HOSTILE = "<script>alert(1)</script>"
STUDY = f"""\
recipe: 1
name: tiny
summary: "{HOSTILE} \\"'&"
extends: normtr
data: {{train: 32, valid: 16, test: 40, length: 8, text: 6, audio: 4, vision: 4}}
model: {{width: 16, fusion: {{depth: 1, heads: 2}}}}
train: {{seeds: [1, 2], epochs: 2, lr: 1e-2}}
evaluate: {{rates: [0, 1], draws: 1, metrics: [mae, acc2_non0]}}
variants:
  whole: {{}}
  averaged: {{model.fusion: concat}}
"""
BROKEN = """\
  broken:
    data: {use: arrays, path: "<img src=x onerror=alert(2)>.npz"}
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MMROBUST_DEBUG", "MMROBUST_STRICT_PLUGINS", "MMROBUST_PLUGIN_FILES"):
        monkeypatch.setenv(name, "")


def only(folder: Path) -> Path:
    (found,) = folder.glob("tiny/*/")
    return found


def test_a_study_interrupted_killed_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One study, since starting processes takes long; its training ends as it would have (see tests/training)."""
    (tmp_path / "tiny.yaml").write_text(STUDY + BROKEN)
    command = [sys.executable, "-m", "mmrobust", "study"]
    start = lambda *more, **how: subprocess.Popen(
        [*command, *more, "--jobs", "1"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )
    lines = lambda: sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("runs/*/*/variants/*/metrics.jsonl"))

    process = start("tiny.yaml")
    wait_for(lambda: lines() >= 1, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=400)
    folder = only(tmp_path / "runs")
    assert process.returncode == 130 and "Traceback" not in err
    assert f"mmrobust study --resume {folder.relative_to(tmp_path)}" in err
    before = lines()
    assert before < 8 and json.loads((folder / "study.json").read_text())["variants"]["whole"]["state"] == "interrupted"

    # As a scheduler does it: TERM for all processes, twice, and in a script's background, where ctrl-C is ignored.
    process = start("--resume", "tiny", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: lines() > before or (folder / "variants/whole/evaluation.json").exists(), process)
    for pid in [*map(int, children.read_text().split()), process.pid, process.pid]:
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 130 and "Traceback" not in err and "press ctrl-C again" in err
    assert "interrupted; every finished epoch is saved" in err
    told = json.loads((folder / "study.json").read_text())["variants"]
    assert "interrupted" in {found["state"] for found in told.values()} <= {"interrupted", "finished", "waiting"}
    before = lines()

    process = start("--resume", "tiny")
    wait_for(lambda: lines() > before or (folder / "variants/whole/evaluation.json").exists(), process)
    process.kill()
    process.communicate(timeout=400)

    done = subprocess.run(
        [*command, "--resume", str(folder), "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    the_failing_variant_is_named(folder, done)
    the_tables_hold_what_the_runs_hold(folder)
    the_report_shows_the_variants_and_no_stranger_s_markup(folder)

    finished = {path: path.stat().st_mtime_ns for path in (folder / "variants").glob("*/evaluation.json")}
    page, table = (folder / "report.html").read_bytes(), (folder / "tables" / "clean.csv").read_bytes()
    assert main(["study", "--resume", str(folder)]) == 5
    out, err = capsys.readouterr()
    assert "1 of 3 variants to run" in err and "study: " in out and "averaged" in out
    assert finished == {path: path.stat().st_mtime_ns for path in finished} and len(finished) == 2
    assert (folder / "report.html").read_bytes() == page and (folder / "tables" / "clean.csv").read_bytes() == table


def wait_for(ready: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.05)


def the_failing_variant_is_named(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 5, done.stderr
    assert "error: 1 of 3 variants failed" in done.stderr and "Traceback" not in done.stderr
    assert re.search(r"broken:\n +error: .*onerror", done.stderr) and "--resume" in done.stderr
    assert "finished averaged" in done.stderr and re.search(r"failed broken: error: .*\(./3\)", done.stderr)
    told = json.loads(done.stdout)
    assert {name: found["state"] for name, found in told["variants"].items()} == {
        "whole": "finished", "averaged": "finished", "broken": "failed",
    }  # fmt: skip
    assert told["variants"]["whole"]["parameters"] > told["variants"]["averaged"]["parameters"] > 0
    for name in ("whole", "averaged"):
        run = folder / "variants" / name
        assert all((run / part).exists() for part in ("resolved.yaml", "evaluation.json", "report.html", "predictions"))
        assert (run / "metrics.jsonl").read_text().count("\n") == 4  # two seeds, two epochs


def the_tables_hold_what_the_runs_hold(folder: Path) -> None:
    told = json.loads((folder / "study.json").read_text())
    runs = {name: json.loads((folder / "variants" / name / "evaluation.json").read_text())
            for name in ("whole", "averaged")}  # fmt: skip
    assert [table["where"] for table in told["tables"]] == ["clean", "frame_drop"]
    assert told["compared"] == 2 and told["primary"] == "mae"  # one variant in two tables
    for table, read in zip(
        told["tables"], (lambda run: run["clean"], lambda run: run["noises"]["frame_drop"]["auilc"]), strict=True
    ):
        for name, run in runs.items():
            for measure, found in read(run).items():
                score = table["rows"][name][measure]
                assert (score["mean"], score["std"], score["n"]) == (found["mean"], found["std"], 2)
                if name == "averaged":
                    assert score["difference"] == pytest.approx(found["mean"] - read(runs["whole"])[measure]["mean"])
                    assert 0 < score["p"] <= 1 and (measure != "mae" or score["p"] <= score["p_holm"] <= 1)
                    assert measure == "mae" or (score["p_holm"] is None and not score["significant"])
                else:
                    assert score["p"] is None
        stem = "clean" if table["where"] == "clean" else "auilc-frame_drop"
        rows = list(csv.DictReader((folder / "tables" / f"{stem}.csv").read_text().splitlines()))
        assert len(rows) == 2 * len(runs["whole"]["measures"])
        assert float(rows[0]["mean"]) == table["rows"]["whole"][rows[0]["measure"]]["mean"]


def the_report_shows_the_variants_and_no_stranger_s_markup(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not page.tags & {"img", "link", "iframe"} and "onerror" not in page.attributes
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text and "&lt;img src=x onerror" in text
    for link in page.links:
        assert link.startswith("data:") or (folder / link).exists(), link
    assert {f"variants/{name}/report.html" for name in ("whole", "averaged")} <= set(page.links)
    assert text.count("<svg") == 3 and "limit" in text  # at a glance, and two measures against the rate
    assert "<strong>broken</strong> failed" in text and "<b>Bold</b>: the best of its column" in text
    assert "model.fusion: concat" in text


class Page(HTMLParser):
    """Elements and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href" and tag == "a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("  whole:", "  ../../whole:"), "cannot be a variant's name"),
        (("  whole:", f'  "{HOSTILE}":'), "cannot be a variant's name"),
        (("  whole:", "  Averaged:"), "differ in case only"),
        (("{model.fusion: concat}", "{model.fusion: concatt}"), "did you mean 'concat'?"),
        (("variants:", "variants: {}\nx_variants:"), "x_variants"),
    ],
)
def test_bad_studies_are_refused_before_anything_is_written(
    change: tuple[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY.replace(*change))
    assert main(["study", str(tmp_path / "tiny.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["normtr"], "has no variants"),
        ([], "name a recipe with variants"),
        (["studies/depth", "--jobs", "0"], "--jobs 0"),
        (["studies/depth", "--resume", "x"], "give --resume STUDY alone"),
        (["--resume", "nowhere"], "there is no study 'nowhere'"),
    ],
)
def test_wrong_usage(args: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", *args, "--runs", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
