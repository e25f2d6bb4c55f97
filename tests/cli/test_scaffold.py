"""Promise: what `mmrobust plugins new` writes builds, installs, passes its tests and runs in its recipe, unedited."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mmrobust
from mmrobust.cli import main
from mmrobust.registry.spec import KINDS

ROOT = Path(__file__).parents[2]

BUILD = """
import os, sys, zipfile
from pathlib import Path
from hatchling.build import build_wheel
site = Path(sys.argv[1])
for folder in sys.argv[2:]:
    os.chdir(folder)
    wheel = build_wheel(str(site.parent))
    zipfile.ZipFile(site.parent / wheel).extractall(site)
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A distribution of every kind, each built by its own backend and unpacked as an installer would."""
    home = tmp_path_factory.mktemp("generated")
    for kind in KINDS:
        assert main(["plugins", "new", f"my_{kind}", "--kind", kind, "--to", str(home / kind)]) == 0
    (home / "site").mkdir()
    folders = [str(home / kind) for kind in KINDS]
    subprocess.run([sys.executable, "-c", BUILD, str(home / "site"), *folders], check=True, capture_output=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MMROBUST_")}
    return home, {**clean, "PYTHONPATH": f"{ROOT}{os.pathsep}{home / 'site'}", "OMP_NUM_THREADS": "1"}


def test_generated_recipes_are_right_with_the_plugins_installed(generated: tuple[Path, dict[str, str]]) -> None:
    home, env = generated
    recipes = [str(home / kind / "recipes" / f"my_{kind}.yaml") for kind in KINDS]
    command = [sys.executable, "-m", "mmrobust", "--strict-plugins", "recipes", "validate", *recipes]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": ok") == len(KINDS)


def test_generated_tests_pass(generated: tuple[Path, dict[str, str]]) -> None:
    """Every generated recipe is built, and the kit's quick checks are run; the slow ones are the same code as ours."""
    home, env = generated
    tests = [str(home / kind / "tests") for kind in KINDS]
    quick = "recipe or missing or check_options or check_output or check_gradients or noise_rate or dataset or _loss"
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-k", quick]
    result = subprocess.run([*command, *tests], capture_output=True, text=True, env=env, cwd=home)
    assert result.returncode == 0, result.stdout[-3000:]


def test_generated_code_is_clean(generated: tuple[Path, dict[str, str]]) -> None:
    home, _ = generated
    for file in home.rglob("*.py"):
        if "site" not in file.parts:
            text = file.read_text()
            compile(text, str(file), "exec")
            assert "@NAME@" not in text
            assert max(map(len, text.splitlines()), default=0) <= 120
    readme = (home / "fusion" / "README.md").read_text()
    assert "mmrobust plugins check fusion my_fusion" in readme


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_is_ready_to_be_published(generated: tuple[Path, dict[str, str]], kind: str) -> None:
    home, _ = generated
    for file in ("LICENSE", ".gitignore", ".github/workflows/test.yml", "README.md"):
        assert (home / kind / file).stat().st_size
    project = tomllib.loads((home / kind / "pyproject.toml").read_text())["project"]
    (bounds,) = map(Requirement, project["dependencies"])
    assert bounds.specifier.contains(mmrobust.__version__) and not bounds.specifier.contains("99")


def test_the_wheel_holds_the_package_alone(generated: tuple[Path, dict[str, str]]) -> None:
    home, _ = generated
    names = zipfile.ZipFile(home / "mmrobust_my_fusion-0.1.0-py3-none-any.whl").namelist()
    assert {name.split("/")[0] for name in names} == {"mmrobust_my_fusion", "mmrobust_my_fusion-0.1.0.dist-info"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["My Fusion", "--kind", "fusion"],
            "'My Fusion' cannot name a new component: use small letters, digits and '_', ",
        ),
        (["class", "--kind", "fusion"], "e.g. 'my_class'"),
        (["plugin", "--kind", "fusion"], "e.g. 'my_plugin'"),
        (["x", "--kind", "fusoin"], "there is no kind of component 'fusoin'; did you mean 'fusion'?"),
        (["x", "--kind", "fusion", "--to", "."], "'.' exists; choose another place with --to, or remove it"),
    ],
)
def test_bad_names_are_refused(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert main(["plugins", "new", *args]) == 2
    assert message in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["plugins", "new", "gated", "--kind", "fusion", "--to", "file/gated"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: cannot write file/gated: ") and "internal" not in said


def test_a_full_disk_leaves_nothing_and_the_next_try_works(tmp_path: Path) -> None:
    """Files may have 500 bytes here, which the LICENSE needs more than."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))\n"
    code = "import sys; from mmrobust.cli import main; sys.exit(main(['plugins', 'new', 'gated', '--kind', 'fusion']))"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for first, status in ((limited, 1), ("", 0)):
        command = [sys.executable, "-c", first + code]
        result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
        assert result.returncode == status, result.stderr
        if status:
            assert result.stderr.startswith("error: cannot write mmrobust-gated: the file would be larger than")
            assert not list(tmp_path.iterdir())
    assert (tmp_path / "mmrobust-gated" / "LICENSE").is_file()


def test_what_to_type_next_is_what_the_readme_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "clips", "--kind", "dataset"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == "written: mmrobust-clips" and lines[1] == "next:  cd mmrobust-clips"
    readme = (tmp_path / "mmrobust-clips" / "README.md").read_text()
    assert len(lines) == 7 and all(f"    {line}\n" in readme for line in lines[2:])


@pytest.mark.parametrize("name", ["fusion", "stream", "context", "shape", "torch", "any"])
def test_class_names_hide_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", name, "--kind", "fusion"]) == 0
    text = (tmp_path / f"mmrobust-{name}" / f"mmrobust_{name}" / f"{name}.py").read_text()
    assert f"class My{name.capitalize()}(Fusion):" in text or name == "torch"
