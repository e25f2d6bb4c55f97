"""What docs/noise.md shows works as shown, and its table has every noise."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmrobust
from mmrobust import recipe, registry
from mmrobust.cli.plugins import describe
from mmrobust.model.assemble import build

PAGE = (Path(__file__).parents[2] / "docs" / "noise.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TABLE = PAGE.partition("## What `erased` says")[0]
ROWS = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|.*\| ([^|]*) \|$", TABLE, re.MULTILINE)
TINY = [
    "data.train=24", "data.valid=12", "data.test=20", "data.length=8", "data.text=6", "data.audio=4", "data.vision=4",
    "model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1]",
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files, where commands are given."""
    monkeypatch.chdir(tmp_path)
    for _, text in SNIPPETS:
        named = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if named:
            (tmp_path / named[1]).write_text(text[named.end() :], "utf-8")
    yield tmp_path


def test_the_table_has_every_noise_with_its_defaults() -> None:
    options = {name: told for names, told in ROWS for name in re.findall(r"`(\w+)`", names)}
    noises = {spec.name: spec for spec in registry.catalogue().all() if spec.kind == "noise"}
    assert set(options) == {name for name, spec in noises.items() if spec.distribution == "mmrobust"}
    told = [(name, *pair) for name, text in options.items() for pair in re.findall(r"`(\w+): ([\w.]+)`", text)]
    assert len(told) > 15
    for name, option, value in told:
        default = registry.options_of(noises[name])[option].default
        if default is not None:
            assert str(default).lower().removesuffix(".0") == value, (name, option)


def test_what_an_option_takes_is_said_in_words() -> None:
    types = {option["name"]: option["type"] for option in describe("noise", "gaussian")["options"]}
    assert types["pattern"] == "steps, window or whole" and types["modalities"] == "[text, ...] or null"


def test_the_first_list_of_noises(files: Path) -> None:
    (files / "first.yaml").write_text("recipe: 1\nname: first\nextends: normtr\n" + SNIPPETS[0][1], "utf-8")
    small = [*TINY, "evaluate.rates=[0, 1]", "evaluate.draws=1"]
    told = mmrobust.run("first.yaml", small, quiet=True).evaluation["noises"]
    assert list(told) == ["frame_drop", "gaussian (snr=5)", "gaussian (snr=-5)"]


def test_real_conditions(files: Path) -> None:
    told = mmrobust.run("talk_show.yaml", TINY, quiet=True).evaluation
    assert list(told["noises"]) == ["sequence"] and told["rates"] == [0, 0.25, 0.5, 0.75, 1]


def test_lnln_and_its_mean_over_the_rates(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = mmrobust.run("lnln.yaml", TINY, quiet=True).evaluation
    scores = told["noises"]["lnln"]["at"]["mae"]["mean"]
    assert told["rates"] == [i / 10 for i in range(10)]
    capsys.readouterr()
    exec(next(text for kind, text in SNIPPETS if kind == "python" and "rate_mean" in text), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) == pytest.approx(sum(scores) / 10)


def test_tfr_net_is_a_study_over_rates(files: Path) -> None:
    loaded = recipe.load("tfr_net.yaml", TINY)
    for name, rate in (("clean", 0), ("missing_02", 0.2), ("missing_04", 0.4)):
        built = build(loaded.variant(name))
        assert built.learning.views["missing"].rate == rate


def test_multibench(capsys: pytest.CaptureFixture[str]) -> None:
    exec(next(text for kind, text in SNIPPETS if kind == "python" and "multibench" in text), {})
    assert capsys.readouterr().out.splitlines()[0] == "tensor([0., 1.], dtype=torch.float64)"


def test_a_noise_of_your_own_passes_the_kit(files: Path) -> None:
    command = next(text for kind, text in SNIPPETS if kind == "sh").split()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       check_noise_marks" in done.stdout
