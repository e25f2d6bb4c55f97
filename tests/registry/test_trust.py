"""Promise: a Python file that a recipe or a run names runs only after the person has said so, with exactly its bytes.

Each case leaves a file MARK behind if a stranger's code ran.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

import mmrobust
from mmrobust.cli import main
from mmrobust.errors import PluginError, RecipeError, UntrustedError
from mmrobust.recipe import load
from mmrobust.registry import forget, load_file, load_trusted_file, loaded_files, reset, trusted

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("MARK").write_text("x")
import mmrobust
from mmrobust.contracts import Fusion


@mmrobust.register("fusion", "stranger")
class Stranger(Fusion):
    def __init__(self, context, *, gain: float = 1.0):
        super().__init__(context)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MMROBUST_DEBUG", "MMROBUST_NO_PLUGINS", "MMROBUST_PLUGIN_FILES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Path("evil.py").write_text(EVIL)
    Path("r.yaml").write_text("recipe: 1\nname: r\nextends: normtr\nplugins: [./evil.py]\nmodel: {fusion: stranger}\n")
    Path("child.yaml").write_text("recipe: 1\nextends: r.yaml\n")
    Path("study.yaml").write_text("recipe: 1\nextends: normtr\nvariants: {a: {}, b: {extends: r.yaml}}\n")
    Path("run/checkpoints/seed-1").mkdir(parents=True)
    Path("run/recipe.yaml").write_text("recipe: 1\n")
    Path("run/resolved.yaml").write_text("recipe: 1\nname: r\nextends: normtr\nplugins: [../evil.py]\n")
    reset()
    yield tmp_path
    reset()


@pytest.mark.parametrize(
    "line",
    [
        *("recipes validate r.yaml", "recipes show r.yaml", "recipes show r.yaml --source", "build r.yaml"),
        *("recipes validate child.yaml", "run r.yaml", "train child.yaml", "bench r.yaml", "study study.yaml"),
        *("--no-plugins recipes validate r.yaml", "predict run x.npz", "evaluate run", "analyze run", "report run"),
        *("train --resume run", "run --resume run", "build r.yaml --json"),
    ],
)
def test_no_verb_runs_a_strangers_file(folder: Path, line: str) -> None:
    code = main(line.split())
    assert code != 0 or line == "report run", "a report shows what is written, and needs no component"
    assert not Path("MARK").exists()


def test_the_error_has_the_position_and_the_command_that_allows_it(folder: Path, capsys) -> None:
    assert main(["recipes", "validate", "child.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    evil = folder / "evil.py"
    assert lines[0].startswith(f"r.yaml:4:11: error: plugin file '{evil}' is not trusted, and nothing of it was run;")
    assert lines[1:] == [f"once you have read it: mmrobust recipes validate child.yaml --trust {evil}"]
    assert main(["recipes", "validate", "child.yaml", "--trust", str(evil)]) == 0
    assert Path("MARK").exists()


def test_all_else_is_checked_from_the_source_that_was_not_run(folder: Path, capsys) -> None:
    Path("r.yaml").write_text(
        "recipe: 1\nextends: normtr\nplugins: [./evil.py]\nmodel: {fusion: {use: stranger, gian: 2}, width: wide}\n"
    )
    assert main(["recipes", "validate", "r.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "is not trusted" in lines[0]
    assert lines[1] == "r.yaml:4:33: error: fusion 'stranger' has no option 'gian'; did you mean 'gain'?"
    assert lines[2] == "r.yaml:4:50: error: model.width has to be a whole number, not 'wide'"
    assert not Path("MARK").exists()


def test_python_calls_refuse_too_until_it_is_trusted(folder: Path) -> None:
    for call in (mmrobust.load_recipe, mmrobust.build, mmrobust.train, mmrobust.run):
        with pytest.raises(RecipeError, match=r"is not trusted.*mmrobust\.trust\("):
            call("r.yaml")
    with pytest.raises(UntrustedError):
        load_trusted_file("evil.py")
    assert not Path("MARK").exists()
    assert mmrobust.trust("evil.py") == folder / "evil.py"
    assert load("r.yaml").model.fusion.use == "stranger"


def test_a_changed_file_has_to_be_trusted_again(folder: Path) -> None:
    mmrobust.trust("evil.py")
    load("r.yaml")
    Path("MARK").unlink()
    Path("evil.py").write_text(EVIL + "# more\n")
    with pytest.raises(RecipeError, match="has changed since it was trusted"):
        load("r.yaml")
    assert not Path("MARK").exists()
    mmrobust.trust("evil.py")
    load("r.yaml")
    assert Path("MARK").exists(), "and its new code runs, not the old one"


def test_plugin_allows_it_once(folder: Path) -> None:
    line = ["recipes", "validate", "r.yaml"]
    assert main([*line, "--plugin", "evil.py"]) == 0
    os.environ["MMROBUST_PLUGIN_FILES"] = ""
    reset()
    assert trusted() == {}
    assert main(line) == 2


def test_no_plugins_loads_none_that_are_trusted_either(folder: Path, capsys) -> None:
    mmrobust.trust("evil.py")
    assert main(["--no-plugins", "recipes", "validate", "r.yaml"]) == 2
    assert "--no-plugins (MMROBUST_NO_PLUGINS) loads none" in capsys.readouterr().err
    assert main(["--no-plugins", "--plugin", "evil.py", "recipes", "list"]) == 2
    assert "--plugin and --no-plugins contradict each other" in capsys.readouterr().err
    assert not Path("MARK").exists()


def test_trust_is_listed_and_taken_back(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["plugins", "trust", "add", "evil.py"]) == 0
    Path("other.py").touch()
    mmrobust.trust("other.py")
    Path("other.py").write_text("x = 1\n")
    capsys.readouterr()
    assert main(["plugins", "trust", "list"]) == 0
    states = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert states == {str(folder / "evil.py"): "trusted", str(folder / "other.py"): "changed"}
    assert main(["plugins", "trust", "forget", "evil.py"]) == 0
    assert list(trusted()) == [str(folder / "other.py")]
    Path("other.py").unlink()
    forget("other.py")
    with pytest.raises(PluginError, match=r"'other\.py' is not trusted, so there is nothing to forget"):
        forget("other.py")


def test_the_current_folder_cannot_say_what_is_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mmrobust.trust("evil.py")
    monkeypatch.setenv("XDG_STATE_HOME", "state")  # a relative one would be the stranger's
    monkeypatch.setenv("HOME", str(folder / "home"))
    with pytest.raises(RecipeError, match="is not trusted"):
        load("r.yaml")


def test_a_damaged_memory_allows_nothing(folder: Path) -> None:
    mmrobust.trust("evil.py")
    (entry,) = (folder / "state").rglob("*.json")
    for content in ("", "[]", '{"file": 1}', "\xff"):
        entry.write_text(content, encoding="latin1")
        with pytest.raises(RecipeError, match="is not trusted"):
            load("r.yaml")


def test_a_compiled_file_beside_it_is_not_looked_at(folder: Path) -> None:
    """Python itself would take the compiled file: it has the time and the size of the source."""
    Path("evil.py").write_text("import mmrobust; raise RuntimeError('the source')\n")
    honest = Path("evil.py").read_text()
    Path("evil.py").write_text(honest.replace("the source", "the cached"))
    py_compile.compile("evil.py", cfile=importlib.util.cache_from_source("evil.py"))
    times = Path("evil.py").stat()
    Path("evil.py").write_text(honest)
    os.utime("evil.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(PluginError, match="the source"):
        load_file("evil.py")


def test_a_child_runs_the_bytes_that_were_allowed_or_none(folder: Path) -> None:
    load_file("evil.py")
    environment = {**os.environ, "MMROBUST_PLUGIN_FILES": loaded_files()}
    child = [sys.executable, "-m", "mmrobust", "plugins", "show", "fusion", "stranger"]
    assert subprocess.run(child, env=environment, capture_output=True).returncode == 0
    Path("MARK").unlink()
    Path("evil.py").write_text(EVIL + "# more\n")
    done = subprocess.run(child, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "has changed since this command began; nothing of it was run" in done.stderr
    assert not Path("MARK").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.py", "there is no plugin file"),
        ("pipe.py", "there is no plugin file"),
        ("notes.txt", "its name has to end in .py"),
        ("x" * 300 + ".py", "a name in it is too long"),
        ("a\0b.py", "has a null byte"),
    ],
)
def test_what_is_no_python_file_is_refused_at_once(folder: Path, path: str, message: str, capsys) -> None:
    os.mkfifo("pipe.py")
    Path("notes.txt").touch()
    with pytest.raises(RecipeError, match=message):
        load({"recipe": 1, "extends": "normtr", "plugins": [path]})


@pytest.mark.parametrize("start", ["script", "module"])
def test_nothing_of_the_current_folder_runs(folder: Path, start: str) -> None:
    mark = f"open({str(folder / 'MARK')!r}, 'w')\n"
    names = ["yaml", "typer", "pluggy", "numpy", "torch", "conftest", "usercustomize", "evil_plugin"]
    for name in [*names, *(["mmrobust"] if start == "script" else [])]:  # `python -m mmrobust` would be that one
        Path(f"{name}.py").write_text(mark)
    info = Path("evil_plugin-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmrobust]\nevil = evil_plugin\n")
    code = "import sys; sys.path.pop(0); from mmrobust.cli import main; sys.exit(main())"  # like the script
    command = [sys.executable, "-m", "mmrobust"] if start == "module" else [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(mmrobust.__file__).parents[1]), "PYTHONNOUSERSITE": "1"}
    environment.pop("MMROBUST_PLUGINS")
    for line in (["recipes", "validate", "normtr"], ["plugins", "list"]):
        done = subprocess.run([*command, *line], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "evil" not in done.stdout
        assert not Path("MARK").exists()


def test_settings_of_matplotlib_in_the_current_folder_do_not_count(folder: Path) -> None:
    """They could start LaTeX, or load a module to draw with."""
    Path("matplotlibrc").write_text("text.usetex: True\nbackend: module://evil\n")
    code = (
        "from mmrobust.reports.drawing import Drawing, one_panel, style\nimport matplotlib\n"
        "with style('x'):\n"
        "    assert not matplotlib.rcParams['text.usetex']\n"
        "    figure, axes = one_panel(3, 2)\n"
        "    axes.set_title('a title')\n"
        "    print('a title' in Drawing(figure, 'x').svg)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(mmrobust.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert not Path("MARK").exists()
