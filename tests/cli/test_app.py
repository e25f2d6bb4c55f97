"""The command line starts in a blink, never shows a traceback unasked, and its printed examples work."""

from __future__ import annotations

import gc
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mmrobust
from mmrobust.cli import main
from mmrobust.recipe import shipped

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "timm", "matplotlib", "scipy", "safetensors", "jinja2", "rich", "pydantic")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What global options leave in the environment goes with the test."""
    for name in ("MMROBUST_DEBUG", "MMROBUST_STRICT_PLUGINS", "MMROBUST_PLUGIN_FILES"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    "line",
    [
        *("--help", "--version", "run --help", "plugins list", "plugins show fusion concat", "recipes list"),
        *("recipes show normtr", "recipes validate normtr", "recipes schema"),
    ],
)
def test_the_light_half_leaves_heavy_libraries_alone(line: str) -> None:
    code = (
        "import sys\nfrom mmrobust.cli import main\n"
        f"code = main({shlex.split(line)!r})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stderr.splitlines()[-1] == "[] 0", result.stderr


def test_importing_the_package_and_its_public_names() -> None:
    code = (
        "import sys, mmrobust\n"
        "assert not {'torch', 'numpy', 'typer', 'yaml', 'pluggy'} & set(sys.modules)\n"
        "from mmrobust import hookimpl, register, load_recipe, catalogue\n"
        "assert 'torch' not in sys.modules\n"
        "import mmrobust.model.assemble\n"
        "assert callable(mmrobust.build), 'the function is always there'\n"
        "assert set(mmrobust.__all__) <= set(dir(mmrobust)) | {'__version__'}\n"
        "for name in mmrobust.__all__: getattr(mmrobust, name)\n"
        "try: mmrobust.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "module 'mmrobust' has no attribute 'nothing'\n"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["recipes", "validte"], 2, "No such command 'validte'"),
        (["plugins", "list", "--jsno"], 2, "No such option"),
        (["plugins", "list", "fuson"], 2, "error: there is no kind of component 'fuson'; did you mean 'fusion'?"),
        (["plugins", "show", "fusion", "conct"], 2, "error: there is no fusion 'conct'; did you mean 'concat'?"),
        (["recipes", "validate", "normt"], 2, "error: there is no shipped recipe 'normt'; did you mean 'normtr'?"),
        (["recipes", "validate", "a=1"], 2, "error: name at least one recipe to validate"),
        (
            ["recipes", "show", "normtr", "model.width=x"],
            2,
            "command line: error: model.width has to be a whole number",
        ),
        (["--plugin", "gone.py", "plugins", "list"], 2, "there is no plugin file"),
        (["plugins", "list", "--plugin"], 2, "--plugin needs a Python file"),
        (["recipes", "copy", "normtr", "/nowhere/at/all.yaml"], 1, "error: "),
    ],
)
def test_errors_are_one_clear_word_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    from mmrobust.registry import reset

    reset()
    found, out, err = run(capsys, *args)
    reset()
    assert found == code, err
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_debug_shows_the_traceback_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for args in (["--debug", "recipes", "validate", "normt"], ["recipes", "validate", "normt", "-v"]):
        code, _, err = run(capsys, *args)
        assert code == 2
        assert "Traceback" in err
        assert "RecipeError" in err
        monkeypatch.setenv("MMROBUST_DEBUG", "")


def test_what_nobody_foresaw_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrobust.recipe import compose

    def broken() -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(compose, "shipped", broken)
    code, _, err = run(capsys, "recipes", "list")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("internal error: ZeroDivisionError: oh no (test_app.py, line ")
    assert "run again with --debug" in err

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compose, "shipped", interrupted)
    assert run(capsys, "recipes", "list")[0] == 130


def test_a_reader_that_goes_away_is_no_error() -> None:
    line = f"{shlex.quote(sys.executable)} -m mmrobust recipes schema | head -n 1"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "{\n"
    assert result.stderr == ""


@pytest.mark.parametrize(("line", "collects"), [(["recipes", "list"], False), (["run", "nothing"], True)])
def test_a_short_verb_collects_no_garbage_and_leaves_the_collector_on(
    line: list[str], collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("mmrobust.cli.app.lighten", lambda *_: seen.append(gc.isenabled()))
    main(line)
    assert seen == [collects] and gc.isenabled()


def test_version_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1] == "mmrobust 0.1.0\n"
    rows = json.loads(run(capsys, "recipes", "list", "--json")[1])
    assert {row["name"] for row in rows} == set(shipped())
    listed = json.loads(run(capsys, "plugins", "list", "--json")[1])
    assert {"kind", "name", "distribution", "version", "summary", "state"} <= set(listed["components"][0])
    code, out, _ = run(capsys, "recipes", "validate", "normtr", "model.fusion.depht=1", "--json")
    assert code == 2
    assert json.loads(out) == [
        {
            "file": "command line",
            "line": None,
            "column": None,
            "message": "fusion 'cross_attention' has no option 'depht'; did you mean 'depth'?",
        }
    ]


def test_show_tells_options_contract_source_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plugins", "show", "fusion", "cross_attention")
    assert re.search(r"^depth +int +2 +Number of blocks", out, re.MULTILINE)
    assert "Maps `{key: b t d}` twice to `b s d`" in out
    assert "mmrobust/components/fusion.py:" in out
    assert re.search(r"^Recipes: .*\bnormtr\b", out, re.MULTILINE)


def test_copied_recipes_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = ("peers", "fusions", "robustness")  # these need mmrobust-baselines
    for name in (n for n in shipped() if not any(other in n for other in others)):
        target = tmp_path / f"{name.replace('/', '_')}.yaml"
        assert run(capsys, "recipes", "copy", name, str(target))[0] == 0
        code, out, err = run(capsys, "recipes", "validate", str(target))
        assert (code, out.startswith(f"{target}: ok"), err) == (0, True, "")
    code, _, err = run(capsys, "recipes", "copy", "normtr", str(tmp_path / "normtr.yaml"))
    assert (code, "is there already" in err) == (2, True)


def test_one_file_plugins_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import mmrobust\nfrom mmrobust.contracts import Fusion\n\n@mmrobust.register('fusion', 'mine')\n"
        "class Mine(Fusion):\n    def __init__(self, context, *, gain: float = 1.0):\n"
        "        super().__init__(context)\n"
    )
    command = [sys.executable, "-m", "mmrobust", "recipes", "show", "normtr", f"--plugin={file}", "model.fusion=mine"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "fusion: {use: mine, gain: 1.0}" in result.stdout, result.stderr


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrobust.cli.text import paint

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\033[31mx\033[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"  # type: ignore[arg-type]


def verbs() -> list[list[str]]:
    """Every verb, found by walking the app."""
    import typer

    from mmrobust.cli.app import app

    found: list[list[str]] = []

    def walk(command: object, path: list[str]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found.append(path)
        for name, child in (inner or {}).items():
            walk(child, [*path, name])

    walk(typer.main.get_command(app()), [])
    return found


def examples(path: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    _, out, _ = run(capsys, *path, "--help")
    section = out.partition("Examples:")[2].partition("\nArguments:")[0].partition("\nOptions:")[0]
    return [line.strip() for line in section.splitlines() if line.strip().startswith("mmrobust ")]


@pytest.mark.parametrize("path", verbs(), ids=" ".join)
def test_each_verb_has_two_examples(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = examples(path, capsys)
    assert len(found) >= 2
    for line in found:
        assert line.startswith(f"mmrobust {' '.join(path)}")


QUICK = [path for path in verbs() if path[0] in ("recipes", "plugins") and path[-1] != "check"]


@pytest.mark.parametrize("path", QUICK, ids=" ".join)
def test_examples_work_as_printed(
    path: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("mine.py", "fusions/gated.py"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
        if path[-1] == "forget":
            mmrobust.trust(file)
    for line in examples(path, capsys):
        assert run(capsys, *shlex.split(line)[1:])[0] == 0, line


@pytest.mark.parametrize("verb", ["build", "run", "train", "bench", "study"])
def test_examples_name_recipes_and_overrides_that_are_there(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training takes long; but what is printed is a right command line in an empty folder."""
    import typer

    from mmrobust.cli.app import app
    from mmrobust.recipe import load

    monkeypatch.chdir(tmp_path)
    command = typer.main.get_command(app(verb)).commands[verb]
    for line in examples([verb], capsys):
        given = command.make_context(verb, shlex.split(line)[2:]).params
        loaded = load(given["recipe"], given["overrides"] or [])
        assert bool(loaded.variants) == (verb == "study")


def test_completion_knows_components_recipes_runs_and_override_keys(tmp_path: Path) -> None:
    def complete(line: str) -> str:
        env = {
            **os.environ,
            "_MMROBUST_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }
        command = [sys.executable, "-m", "mmrobust"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert result.stderr == ""
        return result.stdout

    assert complete("mmrobust plugins show fusion cr") == "cross_attention\n"
    assert complete("mmrobust plugins show fus") == "fusion\n"
    assert "normtr_mosi\n" in complete("mmrobust recipes show normtr_mos")
    assert complete("mmrobust study studies/dep") == "studies/depth\n"
    assert complete("mmrobust build normtr model.fusion.de") == "model.fusion.depth=\n"
    assert complete("mmrobust run normtr ~learning.views.type_2.ra") == "~learning.views.type_2.rate\n"
    assert complete("mmrobust run gone model.") == "\n"
    for name in ("a", "b"):
        (tmp_path / "runs" / "mine" / name).mkdir(parents=True)
        (tmp_path / "runs" / "mine" / name / "resolved.yaml").write_text("recipe: 1\nextends: normtr\n")
    (tmp_path / "own.yaml").touch()
    assert complete("mmrobust evaluate mi") == "mine\n"
    assert complete("mmrobust report runs/mine/") == "runs/mine/a\nruns/mine/b\n"
    assert complete("mmrobust train --resume mi") == "mine\n"
    assert complete("mmrobust evaluate mine evaluate.dr") == "evaluate.draws=\n"
    assert complete("mmrobust evaluate mine model.wi") == "\n", "what was trained stays"
    assert complete("mmrobust run ow") == "own.yaml\n"


def test_doctor_answers(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    code, out, _ = run(capsys, "doctor", "--json")
    facts = json.loads(out)
    assert code == (1 if facts["errors"] else 0)
    assert facts["errors"] == []
    assert facts["facts"]["installation"]["mmrobust"].startswith("0.1.0")
    attention = facts["facts"]["attention"]
    assert attention["auto"].startswith("sdpa (16 and 150 and 3000")
    assert attention["sdpa"].startswith("torch's scaled_dot_product_attention")
    if attention["auto"].endswith("on cpu"):
        assert attention["cudnn"] == "not here: it is a kernel of NVIDIA GPUs, and this runs on 'cpu'"
        assert attention["flex"].startswith("not for training: FlexAttention has no")
        assert "auto passes it over: " in attention["flash"]
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        (
            "cudnn",
            0,
            "warning: attention backend 'cudnn', which MMROBUST_ATTENTION asks for: it is a kernel of NVIDIA GPUs",
        ),
        ("sdqa", 1, "error: MMROBUST_ATTENTION: there is no attention backend 'sdqa'; did you mean 'sdpa'?"),
    ],
)
def test_doctor_names_an_attention_that_cannot_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, code: int, told: str
) -> None:
    monkeypatch.setenv("MMROBUST_ATTENTION", name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found, out, _ = run(capsys, "doctor")
    assert found == code and told in out
