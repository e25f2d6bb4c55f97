"""Promise: every file, command and output of "Write a component in ten minutes" is as printed."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from mmrobust.contracts import Component, Noise
from mmrobust.registry.spec import KINDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "write-a-component.md"
FENCE = re.compile(r"^```(\w+)(?: exit=(\d))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def snippets() -> list[tuple[str, int, str]]:
    return [(kind, int(code or 0), text) for kind, code, text in FENCE.findall(PAGE.read_text("utf-8"))]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment of its own, into which plugins can be installed, that sees everything of this one."""
    folder = tmp_path_factory.mktemp("scratch")
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    (site / "this.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    python = folder / "bin" / "python"
    for module in ("pip", "mmrobust"):
        script = folder / "bin" / module
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
        script.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MMROBUST_", "PYTEST_"))}
    # pip needs no network: what it would fetch to build and run the plugin is here.
    quiet = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_QUIET": "1"}
    path = f"{folder / 'bin'}{os.pathsep}{clean['PATH']}"
    return {**clean, **quiet, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1"}


@pytest.mark.timeout(900)
def test_every_snippet(env: dict[str, str], tmp_path: Path) -> None:
    said = ""
    for kind, code, text in snippets():
        named = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if kind == "text":
            if said and not text.startswith("registry.add"):
                assert doctest.OutputChecker().check_output(text, said, FLAGS), f"printed:\n{text}\nreally:\n{said}"
            continue
        if named:
            target = tmp_path / named[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text[named.end() :], "utf-8")
            continue
        assert kind in ("sh", "python"), f"snippets of kind '{kind}' are not run"
        command = ["python", "-"] if kind == "python" else ["sh", "-e"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=280)
        assert done.returncode == code, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        said = done.stdout
        if "plugins new" in text:
            offered = (tmp_path / "mmrobust-gated" / "mmrobust_gated" / "plugin.py").read_text()
            assert '"mmrobust_gated.gated:Gated"' in offered


def test_the_page_shows_the_component_of_the_example_plugin() -> None:
    shown = next(text for kind, _, text in snippets() if kind == "python" and "gated.py" in text.splitlines()[0])
    assert shown.split("\n", 1)[1] == (ROOT / "plugins/mmrobust-gated/mmrobust_gated/gated.py").read_text("utf-8")


def test_the_page_shows_the_study_of_the_example_plugin() -> None:
    shown = next(text for kind, _, text in snippets() if kind == "yaml")
    study = (ROOT / "plugins/mmrobust-gated/recipes/gated_or_not.yaml").read_text("utf-8")
    assert shown.split("\n", 1)[1] == study.split("\n", 1)[1]


def column(title: str) -> set[str]:
    """The names in the first column of the page's table of this title."""
    rows = PAGE.read_text("utf-8").partition(f"\n| {title} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_the_page_lists_every_promise_and_every_kind() -> None:
    declared = {name for base in (Component, Noise) for name in base.__annotations__}
    assert column("attribute") == declared - {"writes", "snr"}
    assert column("kind") == set(KINDS)
