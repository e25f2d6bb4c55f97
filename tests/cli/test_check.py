"""Promise: `mmrobust plugins check` says a line for each check, what could not run in one line, and failures last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrobust import registry
from mmrobust.cli import main
from mmrobust.testing import checks_for

FILE = """
import mmrobust
from torch import nn
from mmrobust.contracts import Fusion, Head, Shape, Stream


@mmrobust.register("fusion", "unready")
class Unready(Fusion):
    def __init__(self, context):
        self.layer = nn.Linear(3, 3)


@mmrobust.register("fusion", "counts_padding")
class CountsPadding(Fusion):
    def __init__(self, context, *, width=8):
        super().__init__(context)
        shapes = {**context.specific, **context.generic}
        self.layers = nn.ModuleDict({key: nn.Linear(shape.width, width) for key, shape in shapes.items()})
        self.shape = Shape(width, 1)

    def forward(self, generic, specific, notes):
        streams = {**specific, **generic}
        return Stream.pooled(sum(layer(streams[key].x.mean(1)) for key, layer in self.layers.items()))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[list[str]]:
    (tmp_path / "mine.py").write_text(FILE)
    registry.reset()  # another test of this process may have discovered plugins already
    yield ["--plugin", str(tmp_path / "mine.py")]
    registry.reset()


def test_what_cannot_run_is_one_line_and_failures_come_last(
    plugin: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "check", "fusion", "unready", *plugin]) == 1
    lines = capsys.readouterr().out.splitlines()
    states = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert states == ["ok", "not", "FAILED"]
    assert lines[3].endswith("checks: it could not be built, see check_builds")
    assert any("super().__init__(context) as the first line of __init__" in line for line in lines)
    assert lines[-1].endswith(f"1 passed, {len(checks_for('fusion')) - 2} not run, 1 failed")


def test_a_failure_says_what_came_and_why_it_matters(plugin: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fusion", "counts_padding", "--only", "padding", "--only", "builds"]
    assert main(["plugins", "check", *arguments, *plugin]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "ok check_builds FAILED check_padding must hold: What stands in padding" in said
    assert "came: 'fused' differs by up to" in said and "matters: Batches are padded" in said
    assert said.endswith("1 passed, 1 failed")


def test_json_holds_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", "noise", "window_erase", "--only", "constant", "--only", "fixed", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["check"], row["promise"], row["state"]) for row in report["checks"]] == [
        ("check_constant", "constant", "passed"),
        ("check_fixed", "fixed", "skipped"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fusoin", "concat"], "there is no kind of component 'fusoin'; did you mean 'fusion'?"),
        (
            ["fusion", "concat", "--only", "paddign"],
            "a fusion has no check 'check_paddign'; did you mean 'check_padding'?",
        ),
        (["objective", "task", "--beside", "fusoin=x"], "--beside looks like fusion=NAME, not 'fusoin=x'"),
        (
            ["fusion", "cross_attention", "depth=many"],
            "option 'depth' of fusion 'cross_attention' has to be a whole number, not 'many'",
        ),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", *arguments]) == 2
    assert message in capsys.readouterr().err
