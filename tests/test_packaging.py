"""Promise: the source distribution is the whole project, and the wheel holds the package, its types and its recipes."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("hatchling", reason="hatchling builds the distributions")


def build(kind: str, root: Path, out: Path) -> Path:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)], cwd=root, check=True,
                   capture_output=True)  # fmt: skip
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(build("sdist", ROOT, folder / "built")) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("mmrobust-*")
    return unpacked


def test_the_source_distribution_is_the_whole_project(source: Path) -> None:
    there = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    folders = ("mmrobust", "recipes", "plugins", "tests", "benchmarks", "docs")
    files = ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml", "README.md", "LICENSE")
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any(p.startswith(".") for p in path.parts[-2:])
    }
    assert {*wanted, *files} <= there
    assert all(f"plugins/{name}/{name.replace('-', '_')}/plugin.py" in there
               for name in ("mmrobust-gated", "mmrobust-baselines"))  # fmt: skip


def test_make_knows_what_to_do_in_it(source: Path) -> None:
    for target in ("run", "test"):
        said = subprocess.run(["make", "-n", target], cwd=source, capture_output=True, text=True, check=True).stdout
        assert "requirements" in said and ("pytest" in said or "mmrobust run recipes/normtr.yaml" in said)


def test_a_wheel_built_of_it_is_enough_for_the_flagship(source: Path, tmp_path: Path) -> None:
    wheel = build("wheel", source, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {"mmrobust/py.typed", "mmrobust/_recipes/normtr.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "benchmarks/"))]
    path = [str(tmp_path / "installed"), *sys.path]
    code = (
        f"import sys; sys.path[:] = {path!r}; import mmrobust; recipe = mmrobust.load_recipe('normtr'); "
        "print(mmrobust.__file__, recipe.path.resolve())"
    )
    command = [sys.executable, "-S", "-c", code]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.count(str(tmp_path / "installed")) == 2


@pytest.mark.parametrize("folder", [".", *(f"plugins/{p.name}" for p in sorted((ROOT / "plugins").iterdir()))])
def test_every_distribution_is_typed(folder: str) -> None:
    about = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    (package,) = about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert (ROOT / folder / package / "py.typed").is_file()
